"""Weight kinds: how a weight multiplies, ordinary and grouped alike. Today: plain ones.

`grouped_linear` multiplies rows sorted by group, each group by its own matrix. Whatever is done
to a weight later (a low-rank addition, a quantised form) is done here, so that the layers that
call it stay as they are.

Shapes: R rows sorted by group, E groups, I input width, O output width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def grouped_linear(x_RI: Tensor, weight_EIO: Tensor, counts_E: Tensor) -> Tensor:
    """Multiply each group's rows by its matrix.

        counts [2, 0, 1]:  rows 0 and 1 by matrix 0, row 2 by matrix 2

    Args:
        x_RI: rows, sorted by group.
        weight_EIO: a matrix for each group.
        counts_E: rows of each group, int64; they sum to R.

    Returns:
        [R, O]; no group without rows costs anything.
    """
    if torch.is_autocast_enabled(x_RI.device.type):
        dtype = torch.get_autocast_dtype(x_RI.device.type)
        x_RI, weight_EIO = x_RI.to(dtype), weight_EIO.to(dtype)
    if _grouped_kernel_serves(x_RI, weight_EIO):
        bounds = counts_E.cumsum(0).to(torch.int32)
        return F.grouped_mm(x_RI, weight_EIO, offs=bounds)
    product: Tensor = _LoopOverGroups.apply(x_RI, weight_EIO, counts_E.tolist())
    return product


def _grouped_kernel_serves(x_RI: Tensor, weight_EIO: Tensor) -> bool:
    """Whether CUDA's grouped kernel takes these: bfloat16, rows of a multiple of 16 bytes."""
    aligned = x_RI.shape[1] % 8 == 0 and weight_EIO.shape[2] % 8 == 0
    return x_RI.is_cuda and x_RI.dtype == torch.bfloat16 and aligned


class _LoopOverGroups(torch.autograd.Function):
    """A matrix product for each group that has rows, written in place into the whole."""

    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_EIO: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x_RI, weight_EIO)
        ctx.counts = counts
        out_RO = x_RI.new_empty(x_RI.shape[0], weight_EIO.shape[2])
        for group, rows in _groups(counts):
            torch.mm(x_RI[rows], weight_EIO[group], out=out_RO[rows])
        return out_RO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_RI, weight_EIO = ctx.saved_tensors
        grad_RO = grads[0].contiguous()
        grad_x = torch.empty_like(x_RI) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight_EIO) if ctx.needs_input_grad[1] else None
        for group, rows in _groups(ctx.counts):
            if grad_x is not None:
                torch.mm(grad_RO[rows], weight_EIO[group].T, out=grad_x[rows])
            if grad_weight is not None:
                torch.mm(x_RI[rows].T, grad_RO[rows], out=grad_weight[group])
        return grad_x, grad_weight, None


def _groups(counts: list[int]) -> list[tuple[int, slice]]:
    """Pair each group that has rows with their place."""
    found, start = [], 0
    for group, count in enumerate(counts):
        if count:
            found.append((group, slice(start, start + count)))
        start += count
    return found
