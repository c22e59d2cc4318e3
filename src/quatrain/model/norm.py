"""Root-mean-square normalisation, with and without a weight (Zhang and Sennrich, 2019).

Shapes: ... any leading dimensions, D the normalised one; r rows of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_IN_CACHE = 1 << 18
"""Numbers of a piece of which a CPU's cache holds several."""


def rms_normalise(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """Divide by the root mean square over the last dimension, in float32; keep x's dtype.

    Llama 4's QK-norm is this function without a weight (docs/llama4.md section 1.2). A weight [D]
    multiplies what was cast back to x's dtype, as in Llama 4's reference.
    """
    normalised: Tensor = _Normalise.apply(x, weight, eps)
    return normalised


class _Normalise(torch.autograd.Function):
    """y = x s with s = 1 / root mean square; the gradient is s (g - y mean(g y)).

    A CPU takes a few rows at a time through all of it, while they are in its cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        shape = x.shape
        dtype = x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)
        out = x.new_empty(shape, dtype=dtype)
        shared = weight is None and dtype == torch.float32
        wide = out if shared else x.new_empty(shape, dtype=torch.float32)
        scale = x.new_empty((*shape[:-1], 1), dtype=torch.float32)
        for x_rD, scale_r1, wide_rD, out_rD in _pieces(x, scale, wide, out):
            torch.linalg.vector_norm(x_rD, dim=-1, keepdim=True, dtype=scale.dtype, out=scale_r1)
            scale_r1.square_().div_(shape[-1]).add_(eps).rsqrt_()
            torch.mul(x_rD, scale_r1, out=wide_rD)
            if weight is not None:
                torch.mul(wide_rD.to(x.dtype), weight, out=out_rD)
            elif not shared:
                out_rD.copy_(wide_rD)
        ctx.save_for_backward(wide, scale, weight)
        ctx.dtype = x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        wide, scale, weight = ctx.saved_tensors
        grad_x = torch.empty_like(wide, dtype=ctx.dtype)
        learns_weight = ctx.needs_input_grad[1]
        grad_weight = wide.new_zeros(wide.shape[-1]) if learns_weight else None
        for grad_rD, wide_rD, scale_r1, grad_x_rD in _pieces(grads[0], wide, scale, grad_x):
            if grad_weight is not None:
                grad_weight += (grad_rD * wide_rD.to(ctx.dtype)).sum(0, dtype=wide.dtype)
            if weight is not None:
                grad_rD = grad_rD * weight
            grad_rD = grad_rD.to(wide.dtype)
            along_r1 = (grad_rD * wide_rD).mean(-1, keepdim=True)
            grad_x_rD.copy_(torch.addcmul(grad_rD, wide_rD, along_r1, value=-1).mul_(scale_r1))
        return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), None


class RMSNorm(nn.Module):
    """Normalise, then multiply by a learnt weight [D]."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return rms_normalise(x, self.eps, self.weight)


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Go through [..., D] side by side, on a CPU as many rows [r, D] as its cache holds."""
    flat = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    rows = len(flat[0]) if flat[0].is_cuda else _IN_CACHE // flat[0].shape[1]
    return zip(*(tensor.split(max(1, rows)) for tensor in flat), strict=True)
