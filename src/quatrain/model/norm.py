"""Root-mean-square normalisation, with and without a weight (Zhang and Sennrich, 2019).

Shapes: ... any leading dimensions, D the normalised one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def rms_normalise(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last dimension, in float32; keep x's dtype.

    Llama 4's QK-norm is this function (docs/llama4.md section 1.2).
    """
    normalised: Tensor = _Normalise.apply(x, eps)
    return normalised


class _Normalise(torch.autograd.Function):
    """y = x s with s = 1 / root mean square; the gradient is s (g - y mean(g y))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = root.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        wide: Tensor = x * scale
        ctx.save_for_backward(wide, scale)
        ctx.dtype = x.dtype
        return wide.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        wide, scale = ctx.saved_tensors
        grad = grads[0].float()
        along = (grad * wide).mean(-1, keepdim=True)
        grad_x = torch.addcmul(grad, wide, along, value=-1).mul_(scale)
        return grad_x.to(ctx.dtype), None


class RMSNorm(nn.Module):
    """Normalise, then multiply by a learnt weight [D].

    The cast back to x's dtype comes before the weight, as in Llama 4's reference.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return rms_normalise(x, self.eps) * self.weight
