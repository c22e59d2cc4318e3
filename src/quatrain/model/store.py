"""Blocks that hold keys and values of tokens: what a model remembers of its sequences.

A block holds the keys and values of some neighbouring tokens, for all layers that see equally far:

    sequence A   blocks 0 1 2        its tokens 0-15, 16-31, 32-40
    sequence B   blocks 0 3          began as A did: block 0 is shared, and was read once

Llama 4's layers with chunks see only a token's own chunk, so a sequence lets go of their past
blocks. A block that nobody holds keeps its contents until its place is needed; a sequence that
begins with the same tokens takes it over.

Not for tensors that a forward pass needs of them: cache.py.

Shapes: N heads of keys, D width of a head.
"""

from __future__ import annotations

import math
import mmap
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quatrain.config import ModelConfig

BLOCK = 16
"""Tokens of a block, unless a chunk is no multiple of it."""


@dataclass(eq=False)
class Known:
    """Tokens that fill a block, after the tokens of another; and where they are held."""

    before: Known | None
    tokens: tuple[int, ...]
    blocks: list[int | None]
    """By reach; None where no block holds them."""


class Blocks:
    """The blocks of all layers of one reach."""

    def __init__(self, chunk: int | None, layers: int, size: int, heads: int, width: int) -> None:
        self.chunk, self.size, self.heads, self.width = chunk, size, heads, width
        self.number_bytes = 4
        """Bytes of a number, known once there are buffers."""
        self.most_bytes: int | None = None
        """The bound of the store."""
        self.holders: list[int] = []
        """How many sequences hold each block."""
        self.contents: dict[int, Known] = {}
        """Of blocks that may be taken over."""
        self.empty: list[int] = []
        self.kept: dict[int, None] = {}
        """Blocks that nobody holds and that may be taken over, the oldest first."""
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def first(self, position: int) -> int:
        """Give the first block that a token at this position sees."""
        return 0 if self.chunk is None else position // self.chunk * self.chunk // self.size

    def share(self, block: int) -> None:
        """Let one more sequence hold a block."""
        self.kept.pop(block, None)
        self.holders[block] += 1

    def drop(self, block: int) -> None:
        """Let one sequence less hold a block."""
        self.holders[block] -= 1
        if not self.holders[block]:
            if block in self.contents:
                self.kept[block] = None
            else:
                self.empty.append(block)

    @property
    def block_bytes(self) -> int:
        """Say how many bytes a block takes."""
        return 2 * len(self.keys) * self.heads * self.size * self.width * self.number_bytes

    @property
    def used(self) -> int:
        """Count the blocks that hold something."""
        return len(self.holders) - len(self.empty)

    @property
    def held(self) -> int:
        """Count the blocks that sequences hold."""
        return len(self.holders) - len(self.empty) - len(self.kept)

    @property
    def most(self) -> int | None:
        """Count the blocks that the bound has room for."""
        return None if self.most_bytes is None else self.most_bytes // self.block_bytes

    def buffers(
        self, layer: int, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Give keys and values of a layer [blocks, N, size, D], with room for every block.

        Args:
            layer: among those of this reach.
            dtype: of the numbers, where there may be no buffers yet.
            device: likewise.
        """
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None or len(keys) < len(self.holders):
            like = torch.empty(0, dtype=dtype, device=device) if keys is None else keys
            self.number_bytes = like.element_size()
            capacity = capacity_for(len(self.holders), self.most, like.device.type == "cpu")
            shape = capacity, self.heads, self.size, self.width
            keys, values = _grown(keys, like, shape), _grown(values, like, shape)
            self.keys[layer], self.values[layer] = keys, values
        return keys, values


def capacity_for(blocks: int, most: int | None, on_cpu: bool) -> int:
    """Choose for how many blocks buffers are made: for more than there are, up to `most`.

    On a CPU for `most` at once, since memory is taken only where something is written: buffers that
    grow leave holes behind that others do not fill.
    """
    if most is not None and on_cpu:
        return max(blocks, most)
    capacity = max(16, blocks * 3 // 2)
    return capacity if most is None else max(blocks, min(capacity, most))


def _grown(old: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Make larger buffers; what was never written is masked, and must be finite."""
    on_cpu = like.device.type == "cpu"
    grown = _zeros_once_touched(shape, like.dtype) if on_cpu else like.new_zeros(shape)
    if old is not None:
        grown[: len(old)] = old
    return grown


def _zeros_once_touched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make zeros on the CPU whose pages take memory once they are touched."""
    count = math.prod(shape)
    private = {} if os.name == "nt" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    try:
        pages = mmap.mmap(-1, max(1, count * dtype.itemsize), **private)
    except OSError as error:
        raise MemoryError(f"{count * dtype.itemsize} bytes for keys: {error}") from None
    return torch.frombuffer(pages, dtype=dtype, count=count).view(shape)


@dataclass(eq=False)
class Held:
    """One sequence: how many tokens were read, and the blocks that hold them."""

    tables: list[array[int]]
    """By reach: the blocks, from `begins` on."""
    begins: list[int]
    """By reach: how many blocks at the beginning were let go."""
    length: int = 0
    known: Known | None = None
    """The last full block whose tokens are known."""
    after: list[int] = field(default_factory=list)
    """The known tokens after it."""
    learnt: int = 0
    """How many tokens are known."""


class Store:
    """Blocks for the sequences of a model, within a bound of memory."""

    def __init__(self, config: ModelConfig, most_bytes: int | None = None) -> None:
        """Make an empty store; what a block takes is known once the first one is filled.

        Args:
            config: of the model.
            most_bytes: the bound; None for none.
        """
        chunk = config.attention_chunk_size
        reaches = [chunk if rope else None for rope in config.rope_layers]
        different = sorted(set(reaches), key=lambda one: (one is not None, one))
        self.size = math.gcd(BLOCK, chunk) if chunk else BLOCK
        self.groups = [
            Blocks(one, reaches.count(one), self.size, config.n_kv_heads, config.d_k)
            for one in different
        ]
        self.places = [
            (different.index(one), reaches[:index].count(one)) for index, one in enumerate(reaches)
        ]
        """Of each layer: its reach, and which of the reach's layers it is."""
        self.most_bytes = most_bytes
        self._known: dict[tuple[Known | None, tuple[int, ...]], Known] = {}

    @property
    def most_bytes(self) -> int | None:
        """The bound of what blocks take; None for none."""
        return self._most_bytes

    @most_bytes.setter
    def most_bytes(self, size: int | None) -> None:
        self._most_bytes = size
        for group in self.groups:
            group.most_bytes = size

    def bytes_for(self, tokens: int) -> int:
        """Say how many bytes a sequence of so many tokens takes at most."""
        total = 0
        for group in self.groups:
            seen = tokens if group.chunk is None else min(tokens, group.chunk)
            total += -(-seen // self.size) * group.block_bytes
        return total

    def bytes_of(self, held: Held) -> int:
        """Say how many bytes a sequence's blocks take, shared ones included."""
        pairs = zip(self.groups, held.tables, strict=True)
        return sum(group.block_bytes * len(table) for group, table in pairs)

    @property
    def used_bytes(self) -> int:
        """Count the bytes of blocks that hold something, for a sequence or in case one comes."""
        return sum(group.block_bytes * group.used for group in self.groups)

    @property
    def held(self) -> int:
        """Count the blocks that sequences hold."""
        return sum(group.held for group in self.groups)

    @property
    def room(self) -> float:
        """Count the bytes of the bound that no sequence holds; infinite where there is no bound."""
        if self.most_bytes is None:
            return math.inf
        return self.most_bytes - sum(group.block_bytes * group.held for group in self.groups)

    def begin(self, ids: Sequence[int] = ()) -> Held:
        """Begin a sequence; take over what is known of its tokens, all but the last."""
        held = Held([array("i") for _ in self.groups], [0 for _ in self.groups])
        chain = self._chain(ids[:-1])
        while chain and not self._holds(chain):
            chain.pop()
        if not chain:
            return held
        held.length = held.learnt = len(chain) * self.size
        held.known = chain[-1]
        for number, group in enumerate(self.groups):
            held.begins[number] = group.first(held.length)
            for one in chain[held.begins[number] :]:
                block = one.blocks[number]
                assert block is not None
                group.share(block)
                held.tables[number].append(block)
        return held

    def _chain(self, ids: Sequence[int]) -> list[Known]:
        found: list[Known] = []
        for start in range(0, len(ids) - self.size + 1, self.size):
            before = found[-1] if found else None
            one = self._known.get((before, tuple(ids[start : start + self.size])))
            if one is None:
                break
            found.append(one)
        return found

    def _holds(self, chain: Sequence[Known]) -> bool:
        """Whether a token after these finds every block that it sees."""
        return all(
            one.blocks[number] is not None
            for number, group in enumerate(self.groups)
            for one in chain[group.first(len(chain) * self.size) :]
        )

    def reserve(self, held: Held, count: int) -> bool:
        """Give a sequence room for more tokens; take nothing and say False where there is none.

        A sequence that begins by more tokens than a chunk gets room for the last chunk's only.
        """
        for number, group in enumerate(self.groups):
            first = held.length or held.length + count - 1
            self._let_go(held, number, group.first(first) - held.begins[number])
        needed = [
            -(-(held.length + count) // self.size) - held.begins[number] - len(held.tables[number])
            for number in range(len(self.groups))
        ]
        taken: list[list[int]] = [[] for _ in self.groups]
        for number, group in enumerate(self.groups):
            while len(taken[number]) < needed[number]:
                block = self._take(group)
                if block is None:
                    for other, blocks in zip(self.groups, taken, strict=True):
                        for one in blocks:
                            other.drop(one)
                    return False
                taken[number].append(block)
        for number, blocks in enumerate(taken):
            held.tables[number].extend(blocks)
        return True

    def _take(self, group: Blocks) -> int | None:
        """Take a block; where memory is at its bound, one that was kept longest makes room."""
        while self.most_bytes is not None and self.used_bytes + group.block_bytes > self.most_bytes:
            other = next((one for one in (group, *self.groups) if one.kept), None)
            if other is None:
                return None
            self._forget(other, next(iter(other.kept)))
        if group.empty:
            block = group.empty.pop()
        else:
            block = len(group.holders)
            group.holders.append(0)
        group.holders[block] = 1
        return block

    def _forget(self, group: Blocks, block: int) -> None:
        del group.kept[block]
        known = group.contents.pop(block)
        known.blocks[self.groups.index(group)] = None
        group.empty.append(block)
        self._prune(known)

    def _prune(self, known: Known) -> None:
        if not any(block is not None for block in known.blocks):
            self._known.pop((known.before, known.tokens), None)

    def learn(self, held: Held, ids: Sequence[int]) -> None:
        """Tell which tokens were read since the last time; what else was read is forgotten.

        Blocks that they fill may be taken over from now on.
        """
        held.learnt += len(ids)
        held.length = held.learnt
        held.after += ids
        while len(held.after) >= self.size:
            tokens = tuple(held.after[: self.size])
            del held.after[: self.size]
            held.known = self._filled(held, held.known, tokens)

    def _filled(self, held: Held, before: Known | None, tokens: tuple[int, ...]) -> Known:
        at = (held.learnt - len(held.after)) // self.size - 1
        known = self._known.get((before, tokens))
        if known is None:
            known = Known(before, tokens, [None] * len(self.groups))
            self._known[before, tokens] = known
        for number, group in enumerate(self.groups):
            place = at - held.begins[number]
            if known.blocks[number] is None and 0 <= place < len(held.tables[number]):
                block = held.tables[number][place]
                if block not in group.contents:
                    known.blocks[number] = block
                    group.contents[block] = known
        self._prune(known)
        return known

    def _let_go(self, held: Held, number: int, count: int) -> None:
        if count > 0:
            for block in held.tables[number][:count]:
                self.groups[number].drop(block)
            del held.tables[number][:count]
            held.begins[number] += count

    def release(self, held: Held) -> None:
        """End a sequence."""
        for number in range(len(self.groups)):
            self._let_go(held, number, len(held.tables[number]))
