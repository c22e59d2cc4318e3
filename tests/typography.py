"""What French typography asks of prose: unbreakable spaces, and curved apostrophes."""

from __future__ import annotations

import re

_FAULTS = re.compile(
    r".{0,20}(?: [:;?!»%]|[^\s\u00a0?!][;?!»]|«[^\u00a0]|'|\d \d{3}\b).{0,20}",
)


def typographic_faults(prose: str) -> list[str]:
    """Find breakable or missing spaces beside signs and in numbers, and straight apostrophes."""
    return _FAULTS.findall(prose)
