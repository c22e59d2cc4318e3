"""Bring rows into another order and back, with gradients that are gathered and never scattered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """A permutation of R rows, and its inverse."""

    places_R: Tensor
    """Which row comes at each place."""
    inverse_R: Tensor

    @classmethod
    def of(cls, places_R: Tensor) -> Order:
        """Take a permutation of 0 to R - 1, int64."""
        inverse_R = torch.empty_like(places_R)
        inverse_R[places_R] = torch.arange(len(places_R), device=places_R.device)
        return cls(places_R, inverse_R)

    def bring(self, x: Tensor) -> Tensor:
        """Bring the rows of [R, ...] into this order."""
        ordered: Tensor = _Gather.apply(x, self.places_R, self.inverse_R)
        return ordered

    def undo(self, x: Tensor) -> Tensor:
        """Bring rows in this order back to where they were."""
        back: Tensor = _Gather.apply(x, self.inverse_R, self.places_R)
        return back


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None
