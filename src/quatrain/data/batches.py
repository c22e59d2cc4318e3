"""Batches: the rows of a training step, as a pure function of seed, step and rank.

There is no state to save: a resumed run simply asks for the next step.

    sample g = step * batch_size + i      epoch = g // R      row = order(seed, epoch)[g % R]

Not for moving arrays to a device. Shapes: B rows of this rank, T positions, R rows in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quatrain.data.rows import Rows
from quatrain.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of rows."""

    ids: npt.NDArray[np.int64]
    """Token ids, [B, T]."""
    mask: npt.NDArray[np.bool_]
    """True on target tokens, [B, T]; not shifted."""
    segments: list[list[int]]
    """For each row, the lengths of its documents; the rest of T is padding."""
    indices: npt.NDArray[np.int64]
    """The numbers of the rows, [B]."""
    epoch: float
    """Epochs completed after this step, over all ranks."""


class Batches:
    """The order of the rows in training."""

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        """Read `rows` in an order that `seed` fixes, `batch_size` rows a step on all ranks."""
        if not len(rows):
            raise DataError("Q303.no_rows", directory=rows.directory)
        if batch_size < 1:
            raise ConfigError("Q201.batch_size", batch_size=batch_size)
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps per epoch; may be a fraction, since a step may span two epochs."""
        return len(self.rows) / self.batch_size

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Make the part of step `step` that rank `rank` of `world` learns.

        Ranks take consecutive slices, so that their parts, joined in order, are the batch of one
        process. In padded rows the padding that all rows of the part share is cut off.
        """
        if self.batch_size % world:
            raise ConfigError(
                "Q201.processes",
                batch_size=self.batch_size,
                world=world,
                left=self.batch_size % world,
                better=-(-self.batch_size // world) * world,
            )
        assert 0 <= rank < world, f"rank {rank} of {world}"
        share = self.batch_size // world
        first = step * self.batch_size + rank * share
        indices = self._indices(first, share)
        ended = (step + 1) * self.batch_size / len(self.rows)
        return collate(self.rows, indices, ended)

    def _indices(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Look up the rows of samples `first` and following."""
        num_rows = len(self.rows)
        samples = range(first, first + count)
        return np.array([self._order(g // num_rows)[g % num_rows] for g in samples], np.int64)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Permute the rows for an epoch.

        Sorts raw random words, since numpy promises that a bit generator's words stay the same in
        later versions, and makes no such promise for `Generator.permutation`.
        """
        if epoch not in self._orders:
            words = np.random.Philox(key=[self.seed, epoch]).random_raw(len(self.rows))
            while len(self._orders) > 1:
                del self._orders[min(self._orders)]
            self._orders[epoch] = np.argsort(words, kind="stable")
        return self._orders[epoch]


def collate(rows: Rows, indices: npt.NDArray[np.int64], epoch: float) -> Batch:
    """Stack rows; trim the padding they share where each row holds one record."""
    found = [rows[int(index)] for index in indices]
    padded = rows.packing == "padded"
    size = max(row.num_used for row in found) if padded else rows.block_size
    return Batch(
        ids=np.stack([row.ids[:size] for row in found]).astype(np.int64),
        mask=np.stack([row.mask[:size] for row in found]),
        segments=[row.segments for row in found],
        indices=indices,
        epoch=epoch,
    )


def in_order(rows: Rows, batch_size: int, num_rows: int | None = None) -> Iterator[Batch]:
    """Yield the first num_rows rows, or all, batch_size at a time; the last may be smaller."""
    end = len(rows) if num_rows is None else num_rows
    for start in range(0, end, batch_size):
        indices = np.arange(start, min(start + batch_size, end))
        yield collate(rows, indices, 0.0)
