"""Pack: which records share a row, so that few positions are padding.

Works on lengths alone. Not for reading tokens nor for writing rows (rows.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


def pack(lengths: Lengths, block_size: int) -> list[Lengths]:
    """Put each index into a row by best-fit decreasing: the longest first, into the least room.

        lengths 5 3 4 2 2, block_size 8  ->  rows [0, 1] (5+3)  [2, 3, 4] (4+2+2)

    Returns:
        For each row its indices in rising order. The same lengths always give the same rows.
    """
    _assert_fit(lengths, block_size)
    if not len(lengths):
        return []
    row_of, num_rows = _best_fit(lengths, block_size)
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


def _best_fit(lengths: Lengths, block_size: int) -> tuple[Lengths, int]:
    """Number the row of each index.

    `open_rows[room]` stacks the rows with so much room left, and bit `room` of `rooms` says that
    the stack is not empty: the best fit is the lowest bit at or above the length.
    """
    row_of = np.empty(len(lengths), dtype=np.int64)
    open_rows: list[list[int]] = [[] for _ in range(block_size + 1)]
    rooms, num_rows = 0, 0
    longest_first = np.argsort(-lengths, kind="stable")
    for index, length in zip(longest_first.tolist(), lengths[longest_first].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = block_size, num_rows
            num_rows += 1
        row_of[index] = row
        left = room - length
        open_rows[left].append(row)
        rooms |= 1 << left
    return row_of, num_rows


def _assert_fit(lengths: Lengths, block_size: int) -> None:
    if len(lengths):
        assert lengths.min() >= 1, "an empty record cannot be packed"
        assert lengths.max() <= block_size, "a record longer than a row must be set aside before"
