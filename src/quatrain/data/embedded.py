"""The embedded data, under names such as demo:train that take the place of a file's path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast, get_args

from quatrain.data.demo import Split, lessons, questions
from quatrain.data.demo_text import pretraining_text
from quatrain.data.lines import RawRow
from quatrain.errors import DataError

_PREFIX, _TEXT = "demo:", "text"
LEAST_LEARNT = 4000
"""The least number of questions of each family in demo:train, repeats included."""


def is_embedded(source: str) -> bool:
    """Tell a name of embedded data from a path."""
    return source.startswith(_PREFIX)


def embedded_rows(source: str) -> Iterator[RawRow]:
    """Yield demo:train (`lessons`), demo:heldout, demo:strict (all questions), or demo:text.

    Raises:
        DataError: Q320 for another name.
    """
    name = source.removeprefix(_PREFIX)
    rows: list[Any]
    if name == _TEXT:
        rows = [*pretraining_text()]
    elif name == "train":
        rows = [*lessons(LEAST_LEARNT)]
    elif name in get_args(Split):
        rows = [*questions(cast(Split, name))]
    else:
        known = ", ".join(_PREFIX + n for n in (*get_args(Split), _TEXT))
        raise DataError("Q320.embedded", source=source, known=known)
    return (RawRow(f"{source}:{number}", row) for number, row in enumerate(rows, start=1))
