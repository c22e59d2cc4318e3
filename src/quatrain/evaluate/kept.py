"""Answers of an exam, kept in a file as they come, so that a stopped evaluation can go on.

A line of JSON for each question, with what was said and its scores:

    {"exam": "9f2c...", "number": 0, "model": "runs/demo", "question": "Où ?", "gold": ["Ici"],
     "answer": "ici", "exact_match": 1.0, "f1": 1.0, ...}

`exam` stands for the weights, the questions and the options. Lines of another exam are left as they
are, and count for nothing: a file may hold several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quatrain.config import GenerateConfig
from quatrain.errors import DataError
from quatrain.evaluate.abstention import Said
from quatrain.evaluate.graded import Graded
from quatrain.model.locate import is_adapter, llama4_base_of
from quatrain.text.conversation import Conversation

_OF_THE_ENGINE = {"batch_size", "kv_memory"}
"""Fields of generate that change no answer."""


class Kept:
    """The answers of one exam in a file."""

    def __init__(self, path: Path, exam: str, model: str) -> None:
        """Open a file, or make it.

        Args:
            path: of the file.
            exam: see `exam_of`.
            model: its name, for readers.

        Raises:
            DataError: Q303 for a file that cannot be written, or that holds something else.
        """
        self._path, self._exam, self._model = path, exam, model
        self.loss: float | None = None
        """The held-out loss, if it is known."""
        self._rows: dict[int, dict[str, Any]] = {}
        self._read()

    def _read(self) -> None:
        try:
            with self._path.open("a+", encoding="utf-8") as file:
                file.seek(0)
                text = file.read()
        except OSError as error:
            raise DataError("Q303.unwritable", path=self._path, why=str(error)) from None
        try:
            whole, _, cut = text.rpartition("\n")
            rows = [json.loads(line) for line in whole.splitlines()]
            named = [row["exam"] for row in rows]
        except (ValueError, TypeError, KeyError):
            raise DataError("Q303.answers", path=self._path) from None
        if cut:  # whoever wrote it was stopped in the middle of a line
            with self._path.open("r+b") as file:
                file.truncate(len(f"{whole}\n".encode()) if whole else 0)
        for row, exam in zip(rows, named, strict=True):
            if exam == self._exam and "loss" in row:
                self.loss = row["loss"]
            elif exam == self._exam:
                self._rows[row["number"]] = row

    def of(self, number: int, question: Conversation) -> Graded | None:
        """Give what was answered to a question, if it is known."""
        row = self._rows.get(number)
        if row is None:
            return None
        said = None if row["said"] is None else Said(**row["said"])
        return Graded(
            question, row["answer"], row["finish_reason"], row["exact_match"], row["f1"], said,
            row["abstained"], row["exact_answering"],
        )  # fmt: skip

    def add(self, numbers: Sequence[int], graded: Sequence[Graded]) -> None:
        """Keep answers."""
        self._write(
            {
                "number": number,
                "model": self._model,
                "question": one.question,
                "gold": list(one.conversation.answers),
                "answer": one.answer,
                "finish_reason": one.finish_reason,
                "exact_match": one.exact_match,
                "f1": one.f1,
                "said": None if one.said is None else asdict(one.said),
                "abstained": one.abstained,
                "exact_answering": one.exact_answering,
            }
            for number, one in zip(numbers, graded, strict=True)
        )

    def add_loss(self, loss: float) -> None:
        """Keep the held-out loss."""
        self._write([{"model": self._model, "loss": loss}])

    def _write(self, rows: Any) -> None:
        lines = [json.dumps({"exam": self._exam, **row}, ensure_ascii=False) + "\n" for row in rows]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))


def exam_of(
    place: Path, kind: str | None, questions: Sequence[Conversation], options: GenerateConfig,
    abstaining: Any,
) -> str:  # fmt: skip
    """Name an exam by all that its answers depend on.

    Args:
        place: of the model; its files, and those of its base, are known by name, size and time.
        kind: in which its weights are held, if another.
        questions: of the exam.
        options: of generation.
        abstaining: how the model abstains.
    """
    places = [place, llama4_base_of(place)] if is_adapter(place) else [place]
    files = [file for one in places for file in (one.rglob("*") if one.is_dir() else [one])]
    stats = sorted(
        (str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in files if one.is_file()
    )
    asked = [
        ([(one.role, one.content) for one in each.messages], each.answers) for each in questions
    ]
    chosen = options.model_dump(exclude=_OF_THE_ENGINE)
    known = json.dumps([stats, kind, asked, chosen, repr(abstaining)])
    return hashlib.sha256(known.encode()).hexdigest()[:16]
