"""Offload: stored weights stay in main memory or on the disk, and visit the GPU layer by layer.

While a layer computes, a thread copies the stored bytes of the one that comes next on a stream of
its own: forward the layer after it, on the way back the one before it. Two layers are on the GPU at
a time. What is asked for out of turn is copied then, tile by tile: right, and slow.
Not for weights that a CPU multiplies, which need not move (read_ahead.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.model.frozen import Matrix

Copies = list[dict[str, Tensor]]
"""The parts of each matrix of a layer, on the device."""


def offload(layers: Sequence[nn.Module], device: torch.device, pinned: bool) -> None:
    """Keep the stored weights of layers where they are, and bring them when they are needed.

    Args:
        layers: on the CPU; what is not stored in blocks moves with the module as ever.
        device: that multiplies.
        pinned: whether to hold the bytes in memory that the device reads directly; else they stay
            mapped in their file.
    """
    held = [[one for one in layer.modules() if isinstance(one, Matrix)] for layer in layers]
    for matrix in (one for matrices in held for one in matrices):
        matrix.stays = True
        if pinned and device.type == "cuda":
            for name in matrix.names:
                matrix.register_buffer(name, matrix.get_buffer(name).pin_memory(), persistent=False)
    carrier = _Carrier(held, device)
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(carrier.visited, index))


class _Carrier:
    def __init__(self, layers: list[list[Matrix]], device: torch.device) -> None:
        self.layers, self.device, self.last = layers, device, -1
        self.worker = ThreadPoolExecutor(1, "offload")
        self.coming: dict[int, Future[tuple[Copies, Any]]] = {}
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def visited(self, index: int, *_: Any) -> None:
        """Give the layer its bytes, let go of the others', and send for the next layer's."""
        following = index + 1 if index > self.last else index - 1
        if index != self.last:
            self._let_go(self.last)
            self._give(index)
        self.last = index
        for other in [one for one in self.coming if one != following]:
            self.coming.pop(other).cancel()
        if 0 <= following < len(self.layers) and following not in self.coming:
            self.coming[following] = self.worker.submit(self._copy, following)

    def _let_go(self, index: int) -> None:
        for matrix in self.layers[index] if index >= 0 else ():
            matrix.near = None

    def _give(self, index: int) -> None:
        future = self.coming.pop(index, None) or self.worker.submit(self._copy, index)
        copies, done = future.result()
        if done is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for part in (part for parts in copies for part in parts.values()):
                part.record_stream(current)
        for matrix, parts in zip(self.layers[index], copies, strict=True):
            matrix.near = parts

    @torch.no_grad()
    def _copy(self, index: int) -> tuple[Copies, Any]:
        """Copy a layer's bytes, on the side stream of a GPU; an event tells when they are there."""
        with torch.cuda.stream(self.stream) if self.stream else nullcontext():
            copies = [
                {name: part.to(self.device, non_blocking=True, copy=True)
                 for name, part in matrix.stored.items()}
                for matrix in self.layers[index]
            ]  # fmt: skip
            return copies, self.stream.record_event() if self.stream else None
