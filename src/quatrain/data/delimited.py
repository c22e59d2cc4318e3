"""Rows of CSV and TSV files: the delimiter is detected, and a record may span lines.

Not for finding the header (headers.py) nor for encodings (encodings.py).
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quatrain.config import DataConfig
from quatrain.data.headers import Record, header_index, table_rows, trimmed
from quatrain.data.lines import LINE_CAP, Encoding, RawRow, read_lines
from quatrain.errors import DataError
from quatrain.words import Sentence

_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""Delimiters to try for each file extension, most likely first."""
_SAMPLE, _PEEK = 50, 10
_SAID = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""A first line that tells Excel the delimiter."""


def csv_rows(
    path: Path, encoding: Encoding, config: DataConfig, notes: list[str]
) -> Iterator[RawRow]:
    """Read a table of text, whose columns are named in its first lines."""
    said = _said_delimiter(path, encoding)
    delimiter = said or sniff_delimiter(path, encoding, config)
    records = itertools.islice(_records(path, encoding, delimiter), said is not None, None)
    return table_rows(path, records, config, notes, padded=False)


def sniff_delimiter(path: Path, encoding: Encoding, config: DataConfig) -> str:
    """Choose the delimiter that gives a known header and the most records of equal width.

    A single column needs none, and gets the first.
    """

    def fitness(delimiter: str) -> tuple[bool, int, int]:
        try:
            records = list(itertools.islice(_records(path, encoding, delimiter), _SAMPLE))
        except DataError:
            return False, 0, 0
        filled = [one for one in records if one.flaw or any(map(str.strip, one.cells))]
        widths = [len(trimmed(one.cells)) for one in filled]
        index = header_index(filled[:_PEEK], config)
        if index is not None:
            return True, widths[index:].count(widths[index]), widths[index]
        counts = Counter(width for width in widths if width > 1)
        width, alike = max(counts.items(), key=lambda item: item[::-1], default=(0, 0))
        return False, alike, width

    return max(_DELIMITERS[path.suffix.lower()], key=fitness)


def _said_delimiter(path: Path, encoding: Encoding) -> str | None:
    line = next(read_lines(path, encoding), None)
    said = _SAID.fullmatch(line.text) if line is not None and line.text else None
    return said[1] if said else None


def _records(path: Path, encoding: Encoding, delimiter: str) -> Iterator[Record]:
    """Split a file into records: first line, cells, and any error."""
    flaws: list[Any] = []

    def texts() -> Iterator[str]:
        for line in read_lines(path, encoding):
            if line.error:
                flaws.append(line.error)
            yield f"{line.text or ''}\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        flaws.clear()
        try:
            cells = _next_record(reader)
        except csv.Error as error:
            if reader.line_num > start:
                raise _unclosed_quote(path, start, reader.line_num, error) from None
            yield Record(reader.line_num, [], Sentence.of("reasons.csv", why=error))
            continue
        if cells is None:
            return
        if cells or flaws:
            yield Record(start, cells, flaws[0] if flaws else None)


def _next_record(reader: Any) -> list[str] | None:
    """Read one record with fields as long as a line may be; the limit is the csv module's own."""
    limit = csv.field_size_limit(LINE_CAP)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _unclosed_quote(path: Path, start: int, end: int, error: csv.Error) -> DataError:
    return DataError("Q321.quote", path=path, start=start, end=end, error=error)
