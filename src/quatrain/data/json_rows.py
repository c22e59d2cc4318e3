"""Rows of JSON and JSON Lines files; strict about duplicate keys, NaN and half surrogate pairs.

Not for what a row means (parse.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quatrain.data.lines import UTF8, Encoding, RawRow, read_lines, read_whole
from quatrain.errors import DataError
from quatrain.words import Sentence


def jsonl_rows(path: Path, encoding: Encoding = UTF8) -> Iterator[RawRow]:
    """Read one object a line; blank lines are not rows."""
    decoder = _Decoder()
    for line in read_lines(path, encoding):
        location = f"{path.name}:{line.number}"
        if line.text is None:
            yield RawRow(location, None, line.error)
        elif line.text.strip():
            yield _row_of_line(location, line.text, decoder)


def json_rows(path: Path, encoding: Encoding = UTF8) -> Iterator[RawRow]:
    """Read a list of objects, `{"data": [...]}`, or an object of columns.

    An item with bytes that are not of the encoding is a bad row.
    """
    text, flawed = read_whole(path, encoding)
    try:
        value = _Decoder().decode(text)
    except RecursionError:
        raise _broken(path, Sentence.of("reasons.deep")) from None
    except json.JSONDecodeError as error:
        place = {"line": error.lineno, "column": error.colno, "why": error.msg}
        raise _broken(path, Sentence.of("reasons.json_at", **place)) from None
    except ValueError as error:
        raise _broken(path, str(error)) from None
    for number, item in enumerate(_items(path, value), 1):
        row = _row(f"{path.name}:{number}", item)
        if flawed and row.error == Sentence.of("reasons.surrogate"):
            row = RawRow(row.location, None, flaw_of_lines(flawed, encoding))
        yield row


def find_flaw(value: Any) -> Sentence | None:
    """Look through a decoded value for what the decoder marked, and for text that is not text."""
    held = [value]
    while held:
        item = held.pop()
        if isinstance(item, _Flaw):
            return item.reason
        if isinstance(item, str):
            if reason := flaw_of_text(item):
                return reason
        elif isinstance(item, dict):
            held += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            held += item
    return None


def flaw_of_text(text: str) -> Sentence | None:
    """Say why a string is not text: a NUL, or half of a surrogate pair."""
    if "\0" in text:
        return Sentence.of("reasons.nul")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Sentence.of("reasons.surrogate")
    return None


def flaw_of_lines(numbers: list[int], encoding: Encoding) -> Sentence:
    """Say which lines of a file are not of its encoding."""
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if numbers[_SHOWN:] else "")
    return Sentence.of("reasons.lines", encoding=encoding.label, lines=shown)


_SHOWN = 5
_ESCAPED_FLAW = re.compile(r"\\u(0000|[dD][89a-fA-F])")
"""How a line that is text itself can give a NUL or half a pair; whole pairs are found too."""


class _Flaw:
    """Stands in a decoded value where the file had something that is not JSON."""

    def __init__(self, key: str, given: str) -> None:
        self.reason = Sentence.of(key, given=given)


class _Decoder(json.JSONDecoder):
    """Decodes JSON, puts a _Flaw where it is not JSON, and knows whether it did."""

    def __init__(self) -> None:
        self.flawed = False
        super().__init__(
            object_pairs_hook=self._pairs,
            parse_float=self._number,
            parse_constant=lambda name: self._flaw("reasons.constant", name),
        )

    def _pairs(self, pairs: list[tuple[str, Any]]) -> Any:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                return self._flaw("reasons.duplicate_key", key[:40])
            seen.add(key)
        raise AssertionError("fewer keys than pairs, yet none is twice")

    def _number(self, digits: str) -> Any:
        value = float(digits)
        return value if abs(value) != float("inf") else self._flaw("reasons.number", digits[:40])

    def _flaw(self, key: str, given: str) -> _Flaw:
        self.flawed = True
        return _Flaw(key, given)


def _row_of_line(location: str, text: str, decoder: _Decoder) -> RawRow:
    decoder.flawed = False
    try:
        value = decoder.decode(text)
    except RecursionError:
        return RawRow(location, None, Sentence.of("reasons.deep"))
    except json.JSONDecodeError as error:
        flaw = Sentence.of("reasons.not_json_at", why=error.msg, column=error.colno)
        return RawRow(location, None, flaw)
    except ValueError as error:
        return RawRow(location, None, Sentence.of("reasons.not_json", why=str(error)[:80]))
    sound = isinstance(value, dict) and not decoder.flawed and not _ESCAPED_FLAW.search(text)
    return RawRow(location, value) if sound else _row(location, value)


def _row(location: str, value: Any) -> RawRow:
    flaw = find_flaw(value)
    if flaw is None and not isinstance(value, dict | str):
        flaw = Sentence.of("reasons.row_kind", kind=kind_of(value))
    return RawRow(location, None, flaw) if flaw else RawRow(location, value)


def kind_of(value: Any) -> str:
    """Name a JSON value's type as JSON does."""
    if value is None:
        return "null"
    kind = type(value)
    return Sentence.of(_KINDS[kind]) if kind in _KINDS else kind.__name__


_KINDS = {
    dict: "reasons.kind.object",
    list: "reasons.kind.list",
    str: "reasons.kind.text",
    bool: "reasons.kind.bool",
    int: "reasons.kind.number",
    float: "reasons.kind.number",
}


def _items(path: Path, value: Any) -> Iterable[Any]:
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return list(value["data"])
    if isinstance(value, dict) and value and all(isinstance(c, list) for c in value.values()):
        return _rows_of_columns(path, value)
    if isinstance(value, list):
        return value
    if isinstance(value, _Flaw):
        raise _broken(path, value.reason)
    raise DataError("Q321.json_holds", path=path, kind=kind_of(value))


def _rows_of_columns(path: Path, columns: dict[str, list[Any]]) -> Iterable[Any]:
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError("Q321.json_columns", path=path, sizes=sizes)
    return (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))


def _broken(path: Path, what: str) -> DataError:
    return DataError("Q321.json_broken", path=path, what=what)
