"""The names of the files in a run directory, and a reader for its JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quatrain.words import say

logger = logging.getLogger(__name__)

REQUESTED, SETTLED, DATA, ENVIRONMENT = "recipe.yaml", "config.yaml", "data.json", "env.json"
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
PREPARED, DATA_REPORT, REJECTED = "data", "report.json", "rejected.jsonl"
STATE, PAGE = "state.json", "report.html"
LOCK, HOLDER = "run.lock", "holder.json"


OURS = (LOCK, SETTLED, f"{PREPARED}/{DATA_REPORT}")
"""Any of these is in a directory in which a run has begun, or its data was prepared."""
BEFORE = (".", "pretrain", "exam-")
"""How names begin of what a run directory may hold before its run begins."""


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON lines one at a time; an incomplete line is reported."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip(b"\n"):
                    yield json.loads(line)
            except ValueError:  # not JSON, or not UTF-8
                logger.warning(say("log.cut", file=path.name, number=number))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read all lines of a JSON lines file, as `rows_of` does."""
    return list(rows_of(path))
