"""Headers: find the header of a table, and name the cells of its rows.

Used for every table that is laid out by hand, CSV and Excel. Not for what a name means
(columns.py).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from quatrain.config import DataConfig
from quatrain.data.columns import is_known
from quatrain.data.json_rows import flaw_of_text
from quatrain.data.lines import RawRow
from quatrain.errors import DataError
from quatrain.words import Sentence

_PEEK = 10
"""Records among which the header is looked for; titles may stand above it."""
_ERRORS = "#N/A #REF! #DIV/0! #VALUE! #NAME? #NUM! #NULL! #SPILL! #CALC! #FIELD! #BLOCKED! "
_ERRORS += "#VALEUR! #NOM? #NOMBRE! #NUL! #PROPAGATION! #CHAMP! #BLOQUE! #GETTING_DATA #UNKNOWN!"
ERRORS = frozenset(_ERRORS.split())
"""What a spreadsheet shows where it could not compute, in English and French."""


class Record(NamedTuple):
    """A line of a table before its cells have names."""

    number: int
    cells: list[str]
    flaw: Sentence | None = None


def table_rows(
    path: Path, records: Iterable[Record], config: DataConfig, notes: list[str], padded: bool
) -> Iterator[RawRow]:
    """Give the rows below the header; empty ones, and empty columns without a name, are not read.

    Args:
        path: the file.
        records: all its lines, of any width.
        config: what columns are called, for a header below a title.
        notes: gets how many lines stand above the header.
        padded: whether cells at a row's end may be missing, as in a workbook.
    """
    filled = (one for one in records if one.flaw or any(cell.strip() for cell in one.cells))
    first = list(itertools.islice(filled, _PEEK))
    if not first:
        return
    index = header_index(first, config)
    if index:
        shown = {"file": path.name, "line": first[index].number, "number": index}
        notes.append(Sentence.of("notes.header", **shown))
    names = _names(path, first[index or 0])
    for record in itertools.chain(first[(index or 0) + 1 :], filled):
        yield _row(f"{path.name}:{record.number}", names, record, padded)


def header_index(first: Sequence[Record], config: DataConfig) -> int | None:
    """Find the first record that names columns of a known shape, or those of data.columns."""
    for index, record in enumerate(first):
        names = [cell.strip() for cell in record.cells if cell.strip()]
        rest = [sum(map(bool, map(str.strip, one.cells))) for one in first[index + 1 :]]
        title = len(names) == 1 and sum(width > 1 for width in rest) > len(rest) / 2
        if record.flaw is None and not title and _is_known(names, config):
            return index
    return None


def looks_like_a_record(names: Iterable[str]) -> bool:
    """Say whether a first line is a record: sentences and numbers are no names of columns."""
    return any(
        name.endswith(("?", "!", ".", "…")) or name.count(" ") > 4 or name[:1].isdigit()
        for name in names
    )


def trimmed(cells: Sequence[str], least: int = 0) -> list[str]:
    """Leave out empty cells at the end, down to a width."""
    width = len(cells)
    while width > least and not cells[width - 1].strip():
        width -= 1
    return list(cells[:width])


def _is_known(names: Sequence[str], config: DataConfig) -> bool:
    if config.columns:
        return set(config.columns.values()) <= set(names)
    return is_known(names)


def _names(path: Path, header: Record) -> list[str]:
    """Give each column its name; an unnamed one between others is called by its number."""
    if header.flaw is not None:
        raise DataError("Q321.first_line", path=path, line=header.number, flaw=header.flaw)
    names = [cell.strip() for cell in trimmed(header.cells)]
    folded = Counter(unicodedata.normalize("NFC", name) for name in names if name)
    if twice := [name for name in names if folded[unicodedata.normalize("NFC", name)] > 1]:
        raise DataError("Q321.header", path=path, columns=", ".join(twice))
    return names


def _row(location: str, names: list[str], record: Record, padded: bool) -> RawRow:
    cells = trimmed(record.cells, least=len(names))
    flaw = record.flaw
    if flaw is None:
        flaw = _flaw(names, cells, padded)
    if flaw is not None:
        return RawRow(location, None, flaw)
    pairs = enumerate(itertools.zip_longest(names, cells, fillvalue=""), 1)
    named = {name or f"column {index}": cell for index, (name, cell) in pairs if name or cell}
    return RawRow(location, named)


def _flaw(names: list[str], cells: list[str], padded: bool) -> Sentence | None:
    if len(cells) > len(names) and padded:
        return Sentence.of("reasons.cell", number=len(names))
    if len(cells) > len(names) or (len(cells) < len(names) and not padded):
        return Sentence.of("reasons.fields", number=len(cells), wanted=len(names))
    if [cell.strip() for cell in cells] == names:
        return Sentence.of("reasons.header_again")
    for cell in cells:
        if cell.strip() in ERRORS:
            return Sentence.of("reasons.error_cell", error=cell.strip())
        if flaw := flaw_of_text(cell):
            return flaw
    return None
