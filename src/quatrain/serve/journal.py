"""What is logged: one JSON object a line, and in none of them a key, a prompt or an answer.

An error is logged by its class and the lines of code that it went through. Its message may quote
what somebody wrote.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("quatrain.serve")


def line(event: str, **values: Any) -> str:
    """Write an event as one line of ASCII, whatever the values hold."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "event": event, **values})


def failed(where: str, error: BaseException, **values: Any) -> str:
    """Write an error."""
    went = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return line("error", where=where, error=type(error).__name__, went=went, **values)
