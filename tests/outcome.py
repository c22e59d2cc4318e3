"""What a verb did: its exit code and what it wrote."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout must be one JSON object and nothing else."""
        return json.loads(self.out)
