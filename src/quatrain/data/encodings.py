"""Encodings: detect the encoding of a text file, or take the user's word.

    a byte order mark     UTF-8, UTF-16 or UTF-32
    valid UTF-8           UTF-8
    a NUL in every pair   UTF-16
    else                  the one of the old encodings in which the words are plausible

Where two readings are about as plausible and differ, the user must say which. Not for reading lines
(lines.py) nor for weighing words (plausible.py).
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from quatrain.data.lines import UTF8, Encoding, encoding_of_bom, is_utf8, raw_lines
from quatrain.data.plausible import score
from quatrain.errors import DataError
from quatrain.words import Sentence

_PRIORS = {"cp1252": 0.0, "iso8859-15": -1.5, "mac-roman": -1.5, "cp850": -1.5, "cp437": -2.0}
"""How rare each encoding is compared with Windows-1252, as a logarithm."""
_MARGIN = 2.0
"""How much more plausible a reading must be than any different one."""
_LEAST = -3.2
"""What a character beyond ASCII weighs at least, on average, in a text."""
_REPEATS, _LONGEST_WORD, _LONGEST_SHOWN = 3, 200, 80
_MOST_LINES, _MOST_WORDS = 20_000, 20_000
"""How many lines that are not UTF-8 to examine."""
_WORD = re.compile(rb"\S*[\x80-\xff]\S*")
_START = 4096


class _Reading(NamedTuple):
    """What the words of a file are in one encoding, and how plausible that is."""

    weight: float
    name: str
    words: tuple[str, ...]


class _Unreadable:
    """The lines that are not UTF-8: how many, and their words, each with a line that has it."""

    def __init__(self) -> None:
        self.good = self.bad = 0
        self.words: Counter[bytes] = Counter()
        self.lines: dict[bytes, bytes] = {}

    def add(self, raw: bytes) -> None:
        """Count a line, and take its words unless it is no text at all."""
        if raw.isascii():
            return
        try:
            raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.bad += 1
            if b"\0" not in raw and self.bad <= _MOST_LINES:
                self._take(raw)
        else:
            self.good += is_utf8(raw)

    def _take(self, raw: bytes) -> None:
        for match in _WORD.finditer(raw):
            word = (b"" if match.start() else b"\n") + match[0][:_LONGEST_WORD]
            if word in self.words or len(self.words) < _MOST_WORDS:
                self.words[word] += 1
                shown = raw[max(0, match.start() - _LONGEST_SHOWN // 2) :]
                self.lines.setdefault(word, shown[:_LONGEST_SHOWN])


def encoding_of(path: Path, chosen: str | None, notes: list[str]) -> Encoding:
    """Detect a file's encoding, and note one that is not Unicode.

    Args:
        path: a text file.
        chosen: the user's encoding for files that are not Unicode.
        notes: receives what was detected.

    Raises:
        DataError: Q329 where the bytes are a text in two encodings.
    """
    if marked := encoding_of_bom(path):
        return Encoding(marked)
    if chosen is not None:
        return _chosen(path, codecs.lookup(chosen).name, notes)
    if not _is_utf8_throughout(path) or _nul_pairs(path):
        found = _found(path)
        if found.name != "utf-8":
            shown = {"file": path.name, "label": found.label, "encoding": found.name}
            notes.append(Sentence.of("notes.encoding", **shown))
        return found
    return UTF8


def _chosen(path: Path, name: str, notes: list[str]) -> Encoding:
    """Take the user's encoding for a file without a mark, unless all of it is UTF-8.

    Other files of the same run may need it, and would be garbled if they were in UTF-8.
    """
    name = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name)
    if name != "utf-8" and _is_utf8_throughout(path) and _has_utf8(path):
        about = {"file": path.name, "label": UTF8.label, "encoding": name}
        notes.append(Sentence.of("notes.encoding_unused", **about))
        return UTF8
    return Encoding(name, mixed=name in _PRIORS)


def _has_utf8(path: Path) -> bool:
    return any(raw is not None and is_utf8(raw) for raw in raw_lines(path, "utf-8"))


def _is_utf8_throughout(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _nul_pairs(path: Path) -> str:
    """Tell UTF-16 without a mark: in European text most pairs of bytes have a NUL, on one side."""
    with path.open("rb") as file:
        start = file.read(_START)
    pairs = len(start) // 2
    even, odd = start[::2].count(0), start[1::2].count(0)
    if pairs and odd > 0.7 * pairs and not even:
        return "utf-16-le"
    return "utf-16-be" if pairs and even > 0.7 * pairs and not odd else ""


def _found(path: Path) -> Encoding:
    """Weigh the readings of what is not UTF-8; lines that no encoding explains are bad rows."""
    if name := _nul_pairs(path):
        return Encoding(name)
    seen = _Unreadable()
    for raw in raw_lines(path, "utf-8"):
        if raw is not None:
            seen.add(raw)
    readings = _readings(seen.words)
    if seen.bad <= seen.good or not readings:
        return UTF8
    best, *others = readings
    if best.weight < _LEAST * sum(not sign.isascii() for word in best.words for sign in word):
        return UTF8
    if others and best.weight - others[0].weight < _MARGIN:
        raise _doubtful(path, seen, best, others[0])
    return Encoding(best.name, mixed=seen.good > 0)


def _readings(words: Counter[bytes]) -> list[_Reading]:
    """Read the words in each encoding that can, the most plausible first; equal texts count once.

    A word counts as often as it occurs, up to a bound.
    """
    repeated = [word for word, count in words.items() for _ in range(min(count, _REPEATS))]
    found: dict[tuple[str, ...], _Reading] = {}
    for name, prior in _PRIORS.items():
        try:
            texts = tuple(word.decode(name) for word in repeated)
        except UnicodeDecodeError:
            continue
        if texts:
            found.setdefault(texts, _Reading(score(texts) + prior, name, texts))
    return sorted(found.values(), key=lambda reading: -reading.weight)


def _doubtful(path: Path, seen: _Unreadable, best: _Reading, other: _Reading) -> DataError:
    """Show one line in which two readings differ."""
    raw = next(line for word, line in seen.lines.items()
               if word.decode(best.name) != word.decode(other.name))  # fmt: skip
    return DataError(
        "Q329.encoding",
        path=path,
        first=best.name,
        one=raw.decode(best.name, "replace"),
        second=other.name,
        other=raw.decode(other.name, "replace"),
    )
