"""The embedded data under names that stand where a file's path would: demo:train and its like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast, get_args

from quatrain.data.demo import Split, questions
from quatrain.data.demo_text import pretraining_text
from quatrain.data.lines import RawRow
from quatrain.errors import DataError

_PREFIX, _TEXT = "demo:", "text"
NUM_TRAINED = 60_000
"""Questions that demo:train draws, in equal shares from the families."""


def is_embedded(source: str) -> bool:
    """Tell a name of embedded data from a path."""
    return source.startswith(_PREFIX)


def embedded_rows(source: str) -> Iterator[RawRow]:
    """Yield demo:train (a balanced draw), demo:heldout, demo:strict (all), or demo:text.

    Raises:
        DataError: Q320 for another name.
    """
    name = source.removeprefix(_PREFIX)
    rows: list[Any]
    if name == _TEXT:
        rows = [*pretraining_text()]
    elif name in get_args(Split):
        rows = [*questions(cast(Split, name), NUM_TRAINED if name == "train" else None)]
    else:
        known = ", ".join(_PREFIX + n for n in (*get_args(Split), _TEXT))
        raise DataError("Q320.embedded", source=source, known=known)
    return (RawRow(f"{source}:{number}", row) for number, row in enumerate(rows, start=1))
