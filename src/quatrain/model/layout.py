"""Layout: what each token of a batch is, and which earlier ones it may see.

Documents of a packed row and Llama 4's chunks are the same thing: *runs* of neighbouring tokens
that see each other causally and nothing else. The rest of a row after its documents is padding: a
run of its own, which no loss and no statistic counts.

    lengths of one row, T = 9      [5, 2]            (2 tokens of padding)
    positions                      0 1 2 3 4  0 1  0 1
    runs for global layers         0 0 0 0 0  1 1  2 2
    runs for chunks of 4           0 0 0 0 1  2 2  3 3

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

Segments = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Runs:
    """Lengths of the runs of each row; every row's sum is T."""

    lengths: list[list[int]]
    device: torch.device
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What the attention of one layer derived from them, for the next layers."""

    @cached_property
    def one_per_row(self) -> bool:
        """Whether plain causal attention over the rows is enough."""
        return all(len(row) == 1 for row in self.lengths)

    @cached_property
    def flat(self) -> list[int]:
        """Lengths in the order of the flattened batch [B x T]."""
        return list(chain.from_iterable(self.lengths))

    @cached_property
    def starts(self) -> Tensor:
        """Where in its row each token's run begins, [B, T] on the CPU."""
        return torch.stack(
            [
                torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
                for lengths in map(torch.tensor, self.lengths)
            ]
        )

    @cached_property
    def cumulative(self) -> Tensor:
        """Bounds of the runs in the flattened batch, int32, as variable-length kernels want."""
        bounds = [0, *accumulate(self.flat)]
        return torch.tensor(bounds, dtype=torch.int32, device=self.device)

    def split(self, chunk: int) -> Runs:
        """Cut every run at multiples of `chunk`, counted from the run's start."""
        return Runs(
            [list(chain.from_iterable(_cut(n, chunk) for n in row)) for row in self.lengths],
            self.device,
        )


def _cut(length: int, chunk: int) -> list[int]:
    whole, rest = divmod(length, chunk)
    return [chunk] * whole + ([rest] if rest else [])


@dataclass(frozen=True)
class Layout:
    """Positions and runs of a batch, derived once per forward pass."""

    positions: Tensor
    """Position of each token in its document, [B, T]."""
    documents: Runs | None
    """The runs of global layers; None when the tokens continue a cache, which knows the past."""
    chunks: Runs | None
    """The runs of layers with RoPE."""
    real: Tensor | None = None
    """False on padding, [B, T]; None where there is none."""

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        segments: Segments | None,
        chunk: int | None,
        device: torch.device,
    ) -> Layout:
        """Derive the layout of ids of `shape` [B, T] from document lengths.

        Raises:
            ValueError: when the lengths do not fit the rows.
        """
        rows, length = shape
        given = [[length]] * rows if segments is None else [list(row) for row in segments]
        _check(given, rows, length)
        padding = [length - sum(row) for row in given]
        lengths = [row + [pad] * (pad > 0) for row, pad in zip(given, padding, strict=True)]
        counted = [torch.cat([torch.arange(n) for n in row]) for row in lengths]
        documents = Runs(lengths, device)
        real = torch.arange(length) < length - torch.tensor(padding)[:, None]
        return cls(
            positions=torch.stack(counted).to(device),
            documents=documents,
            chunks=documents.split(chunk) if chunk and length > chunk else documents,
            real=real.to(device) if any(padding) else None,
        )


def _check(given: list[list[int]], rows: int, length: int) -> None:
    if len(given) != rows:
        raise ValueError(f"segments describe {len(given)} rows, ids have {rows}")
    for number, row in enumerate(given):
        if any(n <= 0 for n in row) or sum(row) > length:
            raise ValueError(
                f"segments of row {number} must be positive and sum to at most {length}: {row}"
            )
