"""Pack: which records share a row, so that few positions are padding.

Works on lengths alone. Not for reading tokens nor for writing rows (rows.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]

_SLACK = 1024
"""A row is as good as full when less than one position in so many is left."""


def pack(lengths: Lengths, block_size: int) -> list[Lengths]:
    """Put each index into a row: the longest first, with those that fill its row best.

        lengths 5 3 4 2 2, block_size 8  ->  rows [0, 1] (5+3)  [2, 3, 4] (4+2+2)

    Rows are found as patterns of lengths (5+3), and a pattern is used as often as the lengths
    last, so that a million records take a second or two. Plain best-fit decreasing leaves 4 % of
    the positions empty where all lengths are near a fifth of a row, and this under 1 %.

    Returns:
        For each row its indices in rising order. The same lengths always give the same rows.
    """
    _assert_fit(lengths, block_size)
    if not len(lengths):
        return []
    row_of, num_rows = _by_patterns(lengths, block_size)
    by_row = np.argsort(row_of, kind="stable")
    ends = np.cumsum(np.bincount(row_of, minlength=num_rows))
    return np.split(by_row, ends[:-1])


def padded(lengths: Lengths, block_size: int) -> list[Lengths]:
    """Give each index a row of its own."""
    _assert_fit(lengths, block_size)
    return [np.array([index], dtype=np.int64) for index in range(len(lengths))]


def used_fraction(lengths: Lengths, rows: list[Lengths], block_size: int) -> float:
    """Say which share of the rows' positions holds a token."""
    return float(np.sum(lengths)) / (len(rows) * block_size) if rows else 0.0


def _by_patterns(lengths: Lengths, block_size: int) -> tuple[Lengths, int]:
    """Number the row of each index."""
    row_of = np.empty(len(lengths), dtype=np.int64)
    by_length = np.argsort(lengths, kind="stable")
    counts: list[int] = np.bincount(lengths, minlength=block_size + 1).tolist()
    next_of = np.cumsum([0, *counts[:-1]]).tolist()
    left = [length for length in range(block_size, 0, -1) if counts[length]]
    num_rows = 0
    while left:
        pattern = _fullest(left, counts, block_size)
        times = min(counts[length] // copies for length, copies in pattern.items())
        rows = np.arange(num_rows, num_rows + times)
        for length, copies in pattern.items():
            taken = times * copies
            begin = next_of[length]
            row_of[by_length[begin : begin + taken]] = np.repeat(rows, copies)
            next_of[length] += taken
            counts[length] -= taken
        num_rows += times
        left = [length for length in left if counts[length]]
    return row_of, num_rows


def _fullest(left: list[int], counts: list[int], block_size: int) -> dict[int, int]:
    """Choose copies of lengths that fill a row best, the longest among them.

    Bit s of `reach` says that some lengths seen so far sum to s; they are seen longest first, and
    the way back takes as few as it can of the shortest, which are kept for rows hard to fill.
    """
    longest = left[0]
    room = block_size - longest
    enough = room - block_size // _SLACK
    reach, inside = 1, (1 << (room + 1)) - 1
    seen: list[tuple[int, int]] = []
    for length in left:
        if enough <= 0 or reach >> enough:
            break
        if length > room:
            continue
        seen.append((length, reach))
        for _ in range(min(counts[length] - (length == longest), room // length)):
            reach = (reach | reach << length) & inside
    pattern = {longest: 1}
    total = reach.bit_length() - 1
    for length, before in reversed(seen):
        while not before >> total & 1:
            total -= length
            pattern[length] = pattern.get(length, 0) + 1
    assert total == 0
    return pattern


def _assert_fit(lengths: Lengths, block_size: int) -> None:
    if len(lengths):
        assert lengths.min() >= 1, "an empty record cannot be packed"
        assert lengths.max() <= block_size, "a record longer than a row must be set aside before"
