"""The cache: where the new tokens of a forward pass go, and which keys they see.

New tokens of all sequences lie end to end, so no row is padded. How the store divides memory into
blocks: store.py.

Shapes: n new tokens of all sequences, N query heads, K key heads, D width of a head; b sequences
with t new tokens each, S keys of one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quatrain.errors import ResourceError
from quatrain.model.layout import Layout
from quatrain.model.store import Blocks, Held, Store


class Seen(NamedTuple):
    """What some sequences with equally many new tokens see."""

    tokens: Tensor
    """Their new tokens, [b, t], as numbers among the n."""
    keys: Tensor
    """[b, K, S, D]."""
    values: Tensor
    """[b, K, S, D]."""
    mask: Tensor
    """Which keys each token sees, [b, 1, t, S]."""


class _Same(NamedTuple):
    """Sequences with equally many new tokens, for all layers of a reach."""

    tokens: Tensor
    table: Tensor
    mask: Tensor


class Step:
    """New tokens of some sequences."""

    def __init__(
        self, store: Store, sequences: Sequence[Held], counts: Sequence[int], device: torch.device
    ) -> None:
        self.store, self.sequences, self.counts, self.device = store, sequences, counts, device
        self.is_fresh = not any(held.length for held in sequences)
        """Whether nothing was read of any of them, so that they see each other's tokens only."""
        for held, count in zip(sequences, counts, strict=True):
            if not store.reserve(held, count):
                tokens, most = held.length + count, store.most_bytes
                need = store.bytes_for(tokens)
                raise ResourceError("Q605.keys", need=need, most=most, tokens=tokens)
        self.slots = [
            _Slots(blocks, number, sequences, counts, device)
            for number, blocks in enumerate(store.groups)
        ]

    @cached_property
    def positions(self) -> Tensor:
        """Position of each new token in its sequence, [n] on the CPU."""
        each = [
            torch.arange(held.length, held.length + count)
            for held, count in zip(self.sequences, self.counts, strict=True)
        ]
        return torch.cat(each)

    def layout(self, chunk: int | None) -> Layout:
        """Describe the tokens, as one row."""
        if self.is_fresh:
            return Layout.of((1, sum(self.counts)), [self.counts], chunk, self.device)
        return Layout(self.positions[None].to(self.device), documents=None, chunks=None)

    def layer(self, index: int) -> LayerCache:
        """Give what a layer needs."""
        number, layer = self.store.places[index]
        return LayerCache(self.slots[number], layer)

    def finish(self) -> None:
        """Count the tokens as read."""
        for held, count in zip(self.sequences, self.counts, strict=True):
            held.length += count


class _Slots:
    """Where the tokens of a step go in the layers of one reach.

    It knows no Step, which knows it: buffers would live on until cycles are searched for.
    """

    def __init__(
        self,
        blocks: Blocks,
        number: int,
        sequences: Sequence[Held],
        counts: Sequence[int],
        device: torch.device,
    ) -> None:
        self.blocks, self.number, self.size = blocks, number, blocks.size
        self.sequences, self.counts, self.device = sequences, counts, device

    def tables(self) -> Iterator[Tensor]:
        """Give each sequence's blocks."""
        for held in self.sequences:
            yield torch.tensor(held.tables[self.number], dtype=torch.int64)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tell which tokens are kept, in which block and where in it; [at most n] each."""
        kept, blocks, offsets, start = [], [], [], 0
        for held, count, table in zip(self.sequences, self.counts, self.tables(), strict=True):
            positions = torch.arange(held.length, held.length + count)
            first = max(0, held.begins[self.number] * self.size - held.length)
            positions = positions[first:]
            kept.append(torch.arange(start + first, start + count))
            blocks.append(table[positions // self.size - held.begins[self.number]])
            offsets.append(positions % self.size)
            start += count
        kept_n, blocks_n, offsets_n = (
            torch.cat(each).to(self.device) for each in (kept, blocks, offsets)
        )
        return kept_n, blocks_n, offsets_n

    @cached_property
    def same(self) -> list[_Same]:
        """Put sequences with equally many new tokens together."""
        size, chunk = self.size, self.blocks.chunk
        by_count: dict[int, list[int]] = defaultdict(list)
        for index, count in enumerate(self.counts):
            by_count[count].append(index)
        starts, tables = [0, *accumulate(self.counts)], list(self.tables())
        found = []
        for count, indices in by_count.items():
            held = [self.sequences[index] for index in indices]
            table = torch.nn.utils.rnn.pad_sequence([tables[i] for i in indices], batch_first=True)
            begins = torch.tensor([one.begins[self.number] for one in held])
            at_bt = torch.tensor([one.length for one in held])[:, None] + torch.arange(count)
            keys_bS = begins[:, None] * size + torch.arange(table.shape[1] * size)
            mask = keys_bS[:, None] <= at_bt[..., None]
            if chunk is not None:
                mask &= keys_bS[:, None] // chunk == at_bt[..., None] // chunk
            tokens = torch.tensor([starts[i] for i in indices])[:, None] + torch.arange(count)
            parts = (one.to(self.device) for one in (tokens, table, mask[:, None]))
            found.append(_Same(*parts))
        return found


class LayerCache:
    """The keys and values of one layer, for the tokens of a step."""

    def __init__(self, slots: _Slots, layer: int) -> None:
        self._slots, self._layer = slots, layer

    def store(self, k: Tensor, v: Tensor) -> None:
        """Keep the new tokens' keys and values [1, K, n, D]."""
        kept, blocks, offsets = self._slots.places
        keys, values = self._slots.blocks.buffers(self._layer, k.dtype, k.device)
        keys[blocks, :, offsets] = k[0].transpose(0, 1)[kept]
        values[blocks, :, offsets] = v[0].transpose(0, 1)[kept]

    def seen(self) -> Iterator[Seen]:
        """Give what the new tokens see, some sequences at a time; `store` comes before."""
        keys, values = self._slots.blocks.buffers(self._layer)
        for tokens, table, mask in self._slots.same:
            held, other = (x[table].transpose(1, 2).flatten(2, 3) for x in (keys, values))
            yield Seen(tokens, held, other, mask)


class Cache:
    """What a model remembers of its sequences. `LlamaModel.new_cache` makes one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sequences: list[Held] = []
        """Those whose tokens come next, in order; the first forward pass begins them."""
        self.few_tokens: Any = None
        """What computes few tokens (few_tokens.py), once it is known whether anything can."""

    def step(self, counts: Sequence[int], device: torch.device) -> Step:
        """Make room for new tokens of each sequence.

        Args:
            counts: how many of each.
            device: of the model.

        Raises:
            ValueError: for another number of sequences than there are.
            ResourceError: Q605 where the store is full.
        """
        if not self.sequences:
            self.sequences = [self.store.begin() for _ in counts]
        if len(counts) != len(self.sequences):
            given, held = len(counts), len(self.sequences)
            raise ValueError(f"there are new tokens of {given} sequences; the cache holds {held}")
        return Step(self.store, self.sequences, counts, device)
