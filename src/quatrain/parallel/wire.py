"""Plain values between processes: counts, and what JSON can hold. Not for weights.

What is sent lies on the CPU and goes through gloo, also where weights are on GPUs.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from quatrain.parallel.watch import Watch


class Wire:
    """Two groups of all processes: one that answers soon, one that waits for the leader's disk."""

    def __init__(self, timeout: float, patience: float) -> None:
        """Make the groups; all processes do so. Both times are in seconds."""
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self._long = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience))
        self.watch: Watch | None = None

    def added(self, *numbers: float) -> list[float]:
        """Add up each number over all processes, in float64: counts below 2^53 are exact."""
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def least(self, number: int) -> int:
        """Give the smallest number of all processes."""
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self.group)
        return int(found)

    def told(self, value: Any) -> Any:
        """Give the value of rank 0 to all, however long it takes to have it."""
        leads = dist.get_rank() == 0
        data = _encoded(value) if leads else torch.empty(0, dtype=torch.uint8)
        size = self.number(len(data))
        data = data if leads else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(data, 0, group=self._long)
        return _decoded(data)

    def number(self, number: int = 0) -> int:
        """Give a number of rank 0 to all, however long it takes to have it."""
        found = torch.tensor(number)
        with self.watch.patient() if self.watch else nullcontext():
            dist.broadcast(found, 0, group=self._long)
        return int(found)

    def gathered(self, value: Any) -> list[Any]:
        """Give the values of all processes to all, in their order."""
        data, world = _encoded(value), dist.get_world_size()
        sizes = [torch.tensor(0) for _ in range(world)]
        dist.all_gather(sizes, torch.tensor(len(data)), group=self.group)
        most = max(int(size) for size in sizes)
        filled = torch.zeros(most, dtype=torch.uint8)
        filled[: len(data)] = data
        parts = [torch.empty(most, dtype=torch.uint8) for _ in range(world)]
        dist.all_gather(parts, filled, group=self.group)
        return [_decoded(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def _encoded(value: Any) -> Tensor:
    return torch.from_numpy(np.frombuffer(json.dumps(value).encode(), np.uint8).copy())


def _decoded(data: Tensor) -> Any:
    return json.loads(data.numpy().tobytes())
