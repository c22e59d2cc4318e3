"""Similar: records that repeat others, wholly or nearly, and those that held-out ones share.

Texts become numbers at once, so that a million records take some 200 bytes each:

    mark      64 bits of a text without case and typography (question.py); equal texts, equal marks
    gram      64 bits of n words in a row
    sketch    the least of all grams of three words under each of 64 hashes (Broder, 1997): two
              texts agree in as many places as they share of their grams

Only records that agree in four neighbouring places are compared at all. Not for reading records.

Shapes: N records, G grams of all, P places of a sketch.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quatrain.data.question import folded

Marks = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

LEAK_WORDS = 13
"""So many words in a row that are also in a held-out record are a leak (Brown et al., 2020)."""
ALIKE = 0.8
"""Records that share so much of their grams are near duplicates."""
MOST_COMPARED = 1_000_000
"""Records that are compared for near duplicates; what follows is not, and that is said."""

_WORD = re.compile(r"\w+")
_MOST_WORDS = 2000
_MOST_HELD_OUT = 8_000_000
_SHINGLE, _PLACES, _BAND = 3, 64, 4
_FACTOR, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_BITS = 24
"""Of the table that tells most foreign grams from held-out ones at a glance."""


def grams(texts: Sequence[str], size: int, whole: bool) -> tuple[Marks, Indices]:
    """Hash every `size` words in a row of each text.

    Args:
        texts: their first 2000 words count.
        size: words of a gram.
        whole: give a text of fewer words one gram of what it has; else it gets none.

    Returns:
        All grams [G], and the number of each one's text [G], rising.
    """
    codes: list[int] = []
    lengths: list[int] = []
    for text in texts:
        words = _WORD.findall(folded(text))[:_MOST_WORDS]
        if whole and len(words) < size:
            words = (words or [text]) + [""] * (size - max(1, len(words)))
        codes += [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words]
        lengths.append(len(words))
    values = np.array(codes, dtype=np.uint64)
    length_of = np.array(lengths, dtype=np.int64)
    owners = np.repeat(np.arange(len(texts)), length_of)
    if len(values) < size:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashed = np.zeros(len(values) - size + 1, dtype=np.uint64)
    for shift in range(size):
        hashed = hashed * _FACTOR + values[shift : shift + len(hashed)]
    within = owners[: len(hashed)] == owners[size - 1 :]
    return _mixed(hashed[within]), owners[: len(hashed)][within]


def _mixed(values: Marks) -> Marks:
    values = (values ^ (values >> np.uint64(30))) * _MIX
    return values ^ (values >> np.uint64(27))


@dataclass(frozen=True, slots=True)
class Repeats:
    """Records that repeat an earlier one."""

    count: int
    examples: list[tuple[int, int]]
    """(the record, the earlier one), the first few."""


def repeated(marks: Marks, shown: int) -> Repeats:
    """Find the records whose mark an earlier one has."""
    order = np.argsort(marks, kind="stable")
    sorted_marks = marks[order]
    again = np.flatnonzero(sorted_marks[1:] == sorted_marks[:-1]) + 1
    firsts = np.searchsorted(sorted_marks, sorted_marks[again])
    return _first(order[again], order[firsts], shown)


def disputed(questions: Marks, answers: Marks, shown: int) -> Repeats:
    """Find the records whose question an earlier one has with another answer."""
    order = np.lexsort((answers, questions))
    asked, said = questions[order], answers[order]
    differs = np.flatnonzero((asked[1:] == asked[:-1]) & (said[1:] != said[:-1])) + 1
    firsts = np.searchsorted(asked, asked[differs])
    pairs = np.sort(np.stack([order[differs], order[firsts]]), axis=0)
    return _first(pairs[1], pairs[0], shown)


def _first(records: Indices, earlier: Indices, shown: int) -> Repeats:
    chosen = np.argsort(records, kind="stable")[:shown]
    pairs = zip(records[chosen].tolist(), earlier[chosen].tolist(), strict=True)
    return Repeats(len(records), list(pairs))


class Sketches:
    """Sketches of records, added in blocks; 128 bytes a record."""

    def __init__(self) -> None:
        words = np.random.Philox(key=[0, 0]).random_raw(2 * _PLACES)
        self._factors, self._addends = words[:_PLACES] | np.uint64(1), words[_PLACES:]
        self._bands = [bytearray() for _ in range(_PLACES // _BAND)]  # grow without a second copy
        self._places = bytearray()
        self.count = 0

    def add(self, texts: Sequence[str]) -> None:
        """Take note of some records; those beyond MOST_COMPARED are left out."""
        texts = texts[: MOST_COMPARED - self.count]
        if not texts:
            return
        found, owners = grams(texts, _SHINGLE, whole=True)
        starts = np.searchsorted(owners, np.arange(len(texts)))
        least = np.empty((_PLACES, len(texts)), dtype=np.uint32)
        for place in range(_PLACES):
            hashed = (found * self._factors[place] + self._addends[place]) >> np.uint64(32)
            least[place] = np.minimum.reduceat(hashed, starts)
        bands = np.zeros((_PLACES // _BAND, len(texts)), dtype=np.uint64)
        for row in range(_BAND):
            bands = bands * _FACTOR + least[row::_BAND]
        for held, keys in zip(self._bands, (_mixed(bands) >> np.uint64(32)), strict=True):
            held += keys.astype(np.uint32).tobytes()
        self._places += least.astype(np.uint8).T.tobytes()
        self.count += len(texts)

    def near(self, but_not: Marks, shown: int) -> Repeats:
        """Find the records that share ALIKE of their grams with an earlier one, by an estimate.

        Args:
            but_not: marks; records of equal ones are not near duplicates but duplicates.
            shown: how many examples to give.
        """
        if not self.count:
            return Repeats(0, [])
        places = np.frombuffer(self._places, dtype=np.uint8).reshape(self.count, _PLACES)
        earlier = np.full(self.count, -1, dtype=np.int64)
        for held in self._bands:
            keys = np.frombuffer(held, dtype=np.uint32)
            order = np.argsort(keys, kind="stable")
            sorted_keys = keys[order]
            again = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1]) + 1
            firsts = np.searchsorted(sorted_keys, sorted_keys[again])
            self._compare(order[again], order[firsts], places, but_not, earlier)
        records = np.flatnonzero(earlier >= 0)
        return _first(records, earlier[records], shown)

    @staticmethod
    def _compare(
        records: Indices, firsts: Indices, places: npt.NDArray[np.uint8], but_not: Marks,
        earlier: Indices,
    ) -> None:  # fmt: skip
        """Set `earlier` of each record that agrees with its first in enough places."""
        wanted = (earlier[records] < 0) & (but_not[records] != but_not[firsts])
        records, firsts = records[wanted], firsts[wanted]
        for start in range(0, len(records), 1 << 16):
            part = slice(start, start + (1 << 16))
            agreed = (places[records[part]] == places[firsts[part]]).sum(1)
            alike = agreed >= ALIKE * _PLACES
            earlier[records[part][alike]] = firsts[part][alike]


class HeldOut:
    """What the held-out records ask and say, to be looked for in training records."""

    def __init__(self) -> None:
        self.count = 0
        self.complete = True
        """False when there were more grams than are kept."""
        self._questions: dict[int, int] = {}
        self._grams: list[Marks] = []
        self._owners: list[Indices] = []
        self._size = 0

    def add(self, questions: Sequence[int], texts: Sequence[str]) -> None:
        """Take note of some held-out records: their questions' marks, and all that they say."""
        for index, question in enumerate(questions):
            self._questions.setdefault(question, self.count + index)
        if self._size < _MOST_HELD_OUT:
            found, owners = grams(texts, LEAK_WORDS, whole=False)
            self._grams.append(found)
            self._owners.append(owners + self.count)
            self._size += len(found)
        else:
            self.complete = False
        self.count += len(questions)

    def close(self) -> None:
        """Sort what was noted; then it can be searched."""
        joined = np.concatenate([np.empty(0, np.uint64), *self._grams])
        owners = np.concatenate([np.empty(0, np.int64), *self._owners])
        order = np.argsort(joined, kind="stable")
        self._sorted, self._sorted_owners = joined[order], owners[order]
        self._grams, self._owners = [], []
        self._seen = np.zeros(1 << _BITS, dtype=np.bool_)
        self._seen[self._sorted >> np.uint64(64 - _BITS)] = True

    def asked(self, question: int) -> int | None:
        """Find the held-out record with this question."""
        return self._questions.get(question)

    def shared(self, texts: Sequence[str]) -> dict[int, set[int]]:
        """Find texts that have LEAK_WORDS words in a row of held-out records: text -> records."""
        found, owners = grams(texts, LEAK_WORDS, whole=False)
        likely = self._seen[found >> np.uint64(64 - _BITS)]
        found, owners = found[likely], owners[likely]
        begin = np.searchsorted(self._sorted, found)
        end = np.searchsorted(self._sorted, found, side="right")
        leaks: dict[int, set[int]] = {}
        for text, first, last in zip(owners.tolist(), begin.tolist(), end.tolist(), strict=True):
            if last > first:
                leaks.setdefault(text, set()).update(self._sorted_owners[first:last].tolist())
        return leaks
