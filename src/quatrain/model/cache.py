"""The key and value cache: one LayerCache a layer, columns of keys with their positions.

A column holds one token of every row. Prompts of different lengths are padded on the left; a padded
column has position -1, which nothing sees. Layers with chunks drop columns of past chunks, since no
later token of any row can see them.

Shapes: B rows, N heads of keys, S columns, T new columns, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HIDDEN = -1


class LayerCache:
    """Keys and values of one layer in buffers that double when full."""

    def __init__(self, chunk: int | None) -> None:
        self.chunk = chunk
        self._start = self._stop = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._positions: Tensor | None = None

    def __len__(self) -> int:
        return self._stop - self._start

    def extend(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append T columns; return everything held: k and v [B, N, S, D], positions [B, S].

        Args:
            k: new keys [B, N, T, D].
            v: new values [B, N, T, D].
            positions: of each new column in its row [B, T], -1 where it is padding.
        """
        self._forget()
        self._make_room(k, v, positions)
        assert self._keys is not None and self._values is not None  # noqa: PT018
        assert self._positions is not None
        new = slice(self._stop, self._stop + k.shape[2])
        self._keys[:, :, new], self._values[:, :, new] = k, v
        self._positions[:, new] = positions
        self._stop = new.stop
        held = slice(self._start, self._stop)
        return self._keys[:, :, held], self._values[:, :, held], self._positions[:, held]

    def reserve(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Append one column whose keys and values the caller will write, last of those returned.

        Args:
            positions: of the new column in each row [B, 1].
        """
        assert self._keys is not None and self._values is not None  # noqa: PT018
        self._forget()
        column = self._keys[:, :, :1]  # of the right shape; only that counts
        self._make_room(column, column, positions)
        assert self._positions is not None
        self._positions[:, self._stop] = positions[:, 0]
        self._stop += 1
        held = slice(self._start, self._stop)
        return self._keys[:, :, held], self._values[:, :, held], self._positions[:, held]

    def store(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Append T columns, and keep those that a later token can see."""
        first = 0 if self.chunk is None else max(0, k.shape[2] - (self.chunk - 1))
        self.extend(k[:, :, first:], v[:, :, first:], positions[:, first:])

    def select(self, rows: Tensor) -> None:
        """Keep these rows, by index."""
        if self._keys is None or self._values is None or self._positions is None:
            return
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._positions = self._positions[rows]

    def _forget(self) -> None:
        """Drop the columns that the next token cannot see in any row: those of past chunks."""
        if self.chunk is not None:
            self._start = max(self._start, self._stop - (self.chunk - 1))

    def _make_room(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        need = len(self) + k.shape[2]
        if self._keys is not None and self._stop + k.shape[2] <= self._keys.shape[2]:
            return
        capacity = max(64, 2 * need)
        held = slice(self._start, self._stop)
        self._keys = _grown(self._keys, k, held, capacity)
        self._values = _grown(self._values, v, held, capacity)
        old = self._positions
        self._positions = positions.new_full((positions.shape[0], capacity), _HIDDEN)
        if old is not None:
            self._positions[:, : len(self)] = old[:, held]
        self._start, self._stop = 0, held.stop - held.start


def _grown(old: Tensor | None, new: Tensor, held: slice, capacity: int) -> Tensor:
    grown = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
    if old is not None:
        grown[:, :, : held.stop - held.start] = old[:, :, held]
    return grown


class Cache:
    """What a model remembers of its rows: a LayerCache a layer, and where each row is."""

    def __init__(self, chunks: list[int | None]) -> None:
        self.layers = [LayerCache(chunk) for chunk in chunks]
        self.next_position: Tensor | None = None
        """Position of each row's next token, [B]; None while nothing has been read."""
        self.one_token: Any = None
        """What computes single tokens (one_token.py), once it is known whether anything can."""

    def positions(self, num_tokens: int) -> Tensor:
        """Positions of the next tokens of every row, [B, T]."""
        assert self.next_position is not None
        steps = torch.arange(num_tokens, device=self.next_position.device)
        return self.next_position[:, None] + steps

    def advance(self, num_tokens: int) -> None:
        """Note that so many tokens were read."""
        assert self.next_position is not None
        self.next_position = self.next_position + num_tokens

    def select(self, rows: Tensor) -> None:
        """Keep these rows, by index, in this order."""
        assert self.next_position is not None
        self.next_position = self.next_position[rows]
        for layer in self.layers:
            layer.select(rows)
