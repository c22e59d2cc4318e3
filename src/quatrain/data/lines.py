"""Lines of a text file, one at a time, whatever their encoding and however long.

Also the RawRow that every reader gives. Not for what a line means (json_rows.py, tables.py).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quatrain.errors import DataError
from quatrain.words import Sentence

LINE_CAP = 16 << 20
"""Bytes; a longer line is a bad row, and is never held in memory."""
FILE_CAP = 512 << 20
"""Bytes; the largest file that is read in one piece."""
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was found, or the reason why it cannot be read."""

    location: str
    """`file:line`, or `file:index` in a file without lines; both count from 1."""
    value: dict[str, Any] | str | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end; `text` is None when it is not text, and `error` says why."""

    number: int
    text: str | None
    error: str | None = None


def read_lines(path: Path, encoding: str) -> Iterator[Line]:
    """Read a file line by line: a line that cannot be decoded comes with its reason."""
    with path.open("rb") as file:
        file.seek(_bom_size(path))
        lines = _utf16_lines(file, encoding) if encoding.startswith("utf-16") else _lines(file)
        for number, raw in enumerate(lines, 1):
            yield _decode(number, raw, encoding)


def encoding_of_bom(path: Path) -> str | None:
    """Read the encoding off a file's byte order mark, or None where there is none."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for bom, name in _BOMS.items() if start.startswith(bom)), None)


def guess_encoding(path: Path, notes: list[str]) -> str:
    """Tell UTF-8 from Windows-1252 by what most lines with accents are; note the latter.

    A UTF-8 file with a few broken lines stays UTF-8, so that its accents are not garbled.
    """
    if marked := encoding_of_bom(path):
        return marked
    good = bad = 0
    for line in read_lines(path, "utf-8"):
        if line.text is None:
            bad += line.error == _NOT["utf-8"]
        else:
            good += not line.text.isascii()
    if bad <= good:
        return "utf-8"
    notes.append(Sentence.of("notes.encoding", file=path.name))
    return "cp1252"


def read_whole(path: Path, encoding: str) -> str:
    """Read a file in one piece, refusing one above the cap; may raise UnicodeDecodeError."""
    size = path.stat().st_size
    if size > FILE_CAP:
        raise DataError("Q321.large", path=path, size=size >> 20, most=FILE_CAP >> 20)
    return path.read_bytes()[_bom_size(path) :].decode(encoding)


_NOT = {
    name: Sentence.of("reasons.encoding", encoding=label)
    for name, label in (
        ("utf-8", "UTF-8"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "Windows-1252"),
    )
}


def _bom_size(path: Path) -> int:
    return {None: 0, "utf-8": 3}.get(encoding_of_bom(path), 2)


def _decode(number: int, raw: bytes | None, encoding: str) -> Line:
    if raw is None:
        return Line(number, None, Sentence.of("reasons.long_line", most=LINE_CAP >> 20))
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        return Line(number, None, _NOT[encoding])
    if "\0" in text:
        return Line(number, None, Sentence.of("reasons.nul"))
    return Line(number, text)


def _lines(file: Any) -> Iterator[bytes | None]:
    """Split at line feeds; None stands for a line above the cap."""
    while line := file.readline(LINE_CAP + 1):
        if len(line) > LINE_CAP and not line.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line.rstrip(b"\n").removesuffix(b"\r")


def _utf16_lines(file: Any, encoding: str) -> Iterator[bytes | None]:
    """Split at line feeds of two bytes; None stands for a line above the cap."""
    feed, turn = "\n".encode(encoding), "\r".encode(encoding)
    held, too_long = bytearray(), False
    while block := file.read(1 << 20):
        begin = len(held) - len(held) % 2
        held += block
        while (end := _aligned(held, feed, begin)) >= 0:
            yield None if too_long or end > LINE_CAP else bytes(held[:end]).removesuffix(turn)
            del held[: end + 2]
            begin, too_long = 0, False
        if len(held) > LINE_CAP:
            too_long = True
            del held[: len(held) - len(held) % 2]
    if held or too_long:
        yield None if too_long else bytes(held)


def _aligned(held: bytearray, feed: bytes, begin: int) -> int:
    """Find a line feed that starts at an even byte, or -1."""
    end = held.find(feed, begin)
    while end % 2 and end >= 0:
        end = held.find(feed, end + 1)
    return end
