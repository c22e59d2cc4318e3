"""Site: where a run takes place: its device and memory, and what a base takes there.

A base is what does not learn beside adapters. Its matrices stay in their file on a CPU. On a GPU
they are there, or visit it layer by layer (model/offload.py). Asks nothing of the machine; see
placing.py. Not for what a step holds besides (memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quatrain.config import ModelConfig
from quatrain.train.sizes import parameters

Where = Literal["none", "host", "disk"]
"""Where a base stays: on the device that multiplies, in main memory, or in its file."""

_FLOAT, _HALF = 4, 2
_QUANTISED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.01}
"""Bytes a number: codes and the scales of blocks or rows (model/kinds.py)."""
_SHARE_OF_GPU, _SHARE_OF_MEMORY = 0.75, 0.6
"""Shares of free memory that a base may take; the rest is for the step, and for other programs."""
_VISITING = 3
"""Layers that are on a GPU at a time: one that computes, one that comes, and one whose memory is
not free yet, since the GPU is behind."""
_CONTEXT = 600 * 10**6
"""Memory of a card that a CUDA process cannot use: its context. An estimate."""


@dataclass(frozen=True, slots=True)
class BaseSize:
    """Bytes of the weights that do not learn."""

    layers: tuple[int, ...]
    """The matrices of each layer that are stored in blocks: those that may visit a GPU."""
    tables: int
    """Other matrices, as their file has them: the embedding, the head, weights in no blocks."""
    small: int
    """Norms, biases and routers, which are read into float32."""
    pinned: int = 0
    """Main memory that the layers take where a GPU reads it directly."""
    made: bool = False
    """Whether matrices are quantised while they are read, and lie in no file."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.layers) + self.tables + self.small

    def held(self, where: Where, on_gpu: bool) -> int:
        """Count the bytes that the device holds that multiplies."""
        if where == "none":
            return self.total
        if on_gpu:
            visiting = min(sum(self.layers), _VISITING * max(self.layers, default=0))
            return visiting + self.tables + self.small
        return self.small + (sum(self.layers) if self.made else 0)

    def in_main_memory(self, where: Where) -> int:
        """Count the bytes beside a GPU that a process holds in main memory."""
        if where == "host":
            return self.pinned
        return sum(self.layers) if where == "disk" and self.made else 0


def estimated(config: ModelConfig) -> BaseSize:
    """Estimate the size of a base from its shape: in bf16, or as it is to be quantised."""
    counts = parameters(config)
    small = config.n_layers * 2 * config.d_model + config.d_model
    small += len(config.moe_layers) * config.num_local_experts * config.d_model
    tables = (counts.total - sum(counts.layers)) * _HALF
    if config.quantize is None:
        return BaseSize((), tables + sum(counts.layers) * _HALF, small * _FLOAT)
    layers = tuple(quantised_bytes(number, config.quantize) for number in counts.layers)
    return BaseSize(layers, tables, small * _FLOAT, pinned=2 * sum(layers), made=True)


def quantised_bytes(numbers: int, kind: str) -> int:
    """Count the bytes of so many numbers, quantised."""
    return round(numbers * _QUANTISED[kind])


def pinned(size: int) -> int:
    """Count what PyTorch takes to pin a block of memory: a power of two."""
    return 1 << (size - 1).bit_length() if size else 0


def where_of(
    wanted: str, size: int, on_gpu: bool, free: int | None, main: int | None, pins: int
) -> Where:
    """Choose where a base stays.

    Args:
        wanted: `model.offload`.
        size: of the base, in bytes.
        on_gpu: whether a GPU trains.
        free: bytes of its memory.
        main: bytes of main memory that are free, if known.
        pins: bytes that the base takes there.
    """
    if not on_gpu:
        return "none" if wanted in ("none", "host") else "disk"
    if wanted in ("none", "host", "disk"):
        return wanted  # type: ignore[return-value]
    if free is None or size <= _SHARE_OF_GPU * free:
        return "none"
    return "host" if main is not None and pins <= _SHARE_OF_MEMORY * main else "disk"


@dataclass(frozen=True, slots=True)
class Site:
    """What a run has."""

    on_gpu: bool = False
    halves: bool = False
    """Whether the device multiplies bfloat16 faster than float32."""
    free: int | None = None
    """Bytes of the memory that the run may take, on the device; None where nobody says."""
    main: int | None = None
    """The same of main memory, where a GPU trains."""
    base: BaseSize | None = None
    """Of adapters; None takes `estimated`."""

    @classmethod
    def of_card(cls, size: int, main: int | None, base: BaseSize | None) -> Site:
        """Describe a GPU of so many bytes that need not be here."""
        return cls(True, True, max(0, size - _CONTEXT), main, base)

    def base_of(self, config: ModelConfig) -> BaseSize:
        """Give the size of the base."""
        return self.base or estimated(config)

    def where(self, config: ModelConfig) -> Where:
        """Say where the base will stay."""
        base = self.base_of(config)
        return where_of(config.offload, base.total, self.on_gpu, self.free, self.main, base.pinned)
