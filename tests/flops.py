"""Count the matrix products that really run, from the shapes that reach the kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class FlopCounter(TorchDispatchMode):
    """Two for each multiplication with its addition; `calls` counts products by kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in _FACTORS:
            left, right = args[_FACTORS[packet]], args[_FACTORS[packet] + 1]
            self.flops += _product(packet, left, right)
            self.calls[str(func)] = self.calls.get(str(func), 0) + 1
        return func(*args, **(kwargs or {}))


_FACTORS = {
    aten.mm: 0,
    aten.bmm: 0,
    aten._grouped_mm: 0,
    aten.addmm: 1,
    aten.baddbmm: 1,
    aten.baddbmm_: 1,
}
"""Where the left factor stands among the arguments."""


def _product(packet: Any, left: torch.Tensor, right: torch.Tensor) -> int:
    """Rows x inner x columns, twice; of stacked products, of each."""
    if packet is aten._grouped_mm:  # each row meets one matrix
        return 2 * left.shape[0] * left.shape[1] * right.shape[-1]
    return 2 * left.numel() * right.shape[-1]
