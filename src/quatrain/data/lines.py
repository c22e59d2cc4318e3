"""Lines of a text file, one at a time, whatever their encoding, their ends and their length.

Also the RawRow that every reader gives. Not for telling an encoding (encodings.py) nor for what a
line means (json_rows.py, delimited.py).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from quatrain.errors import DataError
from quatrain.words import Sentence

LINE_CAP = 16 << 20
"""Bytes; a longer line is a bad row, and is never held in memory."""
FILE_CAP = 512 << 20
"""Bytes; the largest file that is read in one piece."""
_BLOCK = 1 << 20
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Those of UTF-32 before those of UTF-16, which begin alike."""
_LABELS = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32-le": "UTF-32",
    "utf-32-be": "UTF-32",
    "cp1252": "Windows-1252",
    "iso8859-15": "Latin-9",
    "mac-roman": "MacRoman",
    "cp850": "DOS",
    "cp437": "DOS",
}
_BY_CHANCE = re.compile(rb"[\xc8-\xdf][\xa0\xbb]|[\xe0-\xef][\xa0\xab\xbb]{2}")
"""UTF-8 that may be Windows-1252: a letter with an accent, then a hard space or a guillemet."""


class Encoding(NamedTuple):
    """An encoding by its name in Python."""

    name: str
    mixed: bool = False
    """Whether the file has lines in UTF-8 too, which are bad rows then."""

    @property
    def label(self) -> str:
        """What people call it."""
        return _LABELS.get(self.name, self.name)


UTF8 = Encoding("utf-8")


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


def read_lines(path: Path, encoding: Encoding) -> Iterator[Line]:
    """Read a file line by line: a line that cannot be decoded comes with its reason.

    A line ends with a line feed, a carriage return, or both.
    """
    for number, raw in enumerate(raw_lines(path, encoding.name), 1):
        yield _decode(number, raw, encoding)


def encoding_of_bom(path: Path) -> str | None:
    """Read the encoding off a file's byte order mark, or None where there is none."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for bom, name in _BOMS.items() if start.startswith(bom)), None)


def read_whole(path: Path, encoding: Encoding) -> tuple[str, list[int]]:
    """Read a file in one piece, with the numbers of lines that are not of its encoding.

    The bytes of such a line become halves of surrogate pairs, which no text has.
    """
    data = path.read_bytes()[_bom_size(path, encoding.name) :]
    if not encoding.mixed:
        try:
            return data.decode(encoding.name), []
        except UnicodeDecodeError:
            pass
    lines, rest = _cut(data, *(_encoded(sign, encoding.name) for sign in "\r\n"))
    texts, flawed = [], []
    for number, raw in enumerate([*lines, rest], 1):
        line = _decode(number, raw, encoding)
        texts.append(raw.decode("ascii", "surrogateescape") if line.text is None else line.text)
        if line.text is None:
            flawed.append(number)
    return "\n".join(texts), flawed


def refuse_large(path: Path) -> None:
    """Refuse a file above the cap of those that are read in one piece."""
    size = path.stat().st_size
    if size > FILE_CAP:
        raise DataError("Q321.large", path=path, size=size >> 20, most=FILE_CAP >> 20)


def is_utf8(raw: bytes) -> bool:
    """Say whether bytes beyond ASCII are UTF-8, and hardly by chance.

    "été" in UTF-8  ->  True      "ete"  ->  False      "«é»" in Windows-1252  ->  False
    """
    if raw.isascii():
        return False
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not _BY_CHANCE.sub(b"", raw).isascii()


def raw_lines(path: Path, name: str) -> Iterator[bytes | None]:
    """Cut a file at the line ends of its encoding; None stands for a line above the cap.

    The byte order mark and the ends are left out.
    """
    turn, feed = (_encoded(sign, name) for sign in "\r\n")
    held, too_long = b"", False
    with path.open("rb") as file:
        file.seek(_bom_size(path, name))
        while block := file.read(_BLOCK):
            lines, held = _cut(held + block, turn, feed)
            for line in lines:
                yield None if too_long or len(line) > LINE_CAP else line
                too_long = False
            if too_long or len(held) > LINE_CAP:
                held, too_long = (turn if held.endswith(turn) else b""), True
    if held or too_long:
        yield None if too_long else held.removesuffix(turn)


def _encoded(sign: str, name: str) -> bytes:
    """Write a sign as the encoding does; only UTF-16 and UTF-32 need more than a byte."""
    return sign.encode(name if name.startswith(("utf-16", "utf-32")) else "ascii")


def _cut(data: bytes, turn: bytes, feed: bytes) -> tuple[list[bytes], bytes]:
    """Cut what has an end from what may go on; a carriage return may be followed by a line feed."""
    if len(feed) == 1:
        lines = data.splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(feed) else b""
        return [line.rstrip(b"\r\n") for line in lines], rest
    lines, begin = [], 0
    if turn not in data and feed not in data:
        return lines, data
    either, after = re.compile(re.escape(turn) + b"|" + re.escape(feed)), 0
    while found := either.search(data, after):
        after = found.start() + 1
        if found.start() % len(feed):
            continue
        end = found.end()
        if found[0] == turn and end == len(data):
            break
        if found[0] == turn and data.startswith(feed, end):
            end += len(feed)
        lines.append(data[begin : found.start()])
        begin = after = end
    return lines, data[begin:]


def _bom_size(path: Path, name: str) -> int:
    marked = encoding_of_bom(path)
    return next((len(bom) for bom, known in _BOMS.items() if known == marked == name), 0)


def _decode(number: int, raw: bytes | None, encoding: Encoding) -> Line:
    if raw is None:
        return Line(number, None, Sentence.of("reasons.long_line", most=LINE_CAP >> 20))
    if encoding.mixed and is_utf8(raw):
        return Line(number, None, Sentence.of("reasons.utf8_line", encoding=encoding.label))
    try:
        text = raw.decode(encoding.name)
    except UnicodeDecodeError:
        return Line(number, None, Sentence.of("reasons.encoding", encoding=encoding.label))
    if "\0" in text:
        return Line(number, None, Sentence.of("reasons.nul"))
    return Line(number, text)
