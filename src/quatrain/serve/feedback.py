"""Feedback: judged answers become lines of JSON, from which to train.

    up      FILE                {"messages": [..., {"role": "assistant", ...}], "rating": 1, ...}
    down    FILE's .down twin   {"messages": [... the question], "rejected": ..., "rating": -1, ...}

FILE is data for `quatrain sft`. The twin is not: its conversations end with a question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from quatrain.text.conversation import Message
from quatrain.text.roles import check

_LOCK = Lock()


def twin(path: Path) -> Path:
    """Name the file of answers that were judged bad: data.jsonl -> data.down.jsonl."""
    return path.with_name(f"{path.stem}.down{path.suffix}")


def keep(path: Path, model: str, messages: Sequence[Message], answer: str, rating: int) -> None:
    """Append a judged answer to its file, which is made where there is none.

    Args:
        path: of the good answers.
        model: that answered.
        messages: the conversation up to the question.
        answer: to it.
        rating: 1 for a good answer, -1 for a bad one.

    Raises:
        DataError: Q30x for a conversation from which nothing could be learnt.
    """
    check([*messages, Message("assistant", answer)], ends_with="assistant")
    turns = [{"role": one.role, "content": one.content} for one in messages]
    time = datetime.now(UTC).isoformat(timespec="seconds")
    more = {"rating": int(rating), "model": model, "time": time}
    if rating > 0:
        _append(path, {"messages": [*turns, {"role": "assistant", "content": answer}], **more})
    else:
        _append(twin(path), {"messages": turns, "rejected": answer, **more})


def _append(path: Path, record: dict[str, Any]) -> None:
    """Write a whole line at once; only the user of this process may read the file."""
    line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    with _LOCK:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(line)
