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
    normalised: Tensor = _Normalise.apply(x, None, eps)
    return normalised


class _Normalise(torch.autograd.Function):
    """z = y w with y = x s, s = 1 / root mean square, and w = 1 where there is no weight.

    For a gradient g, that of w is the sum of g y, that of x is s (g w - y mean(g w y)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor | None, eps: float) -> Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = root.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        wide: Tensor = x * scale
        ctx.save_for_backward(wide, scale, weight_D)
        ctx.dtype = x.dtype
        normalised = wide.to(x.dtype)
        return normalised if weight_D is None else normalised * weight_D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        wide, scale, weight_D = ctx.saved_tensors
        grad, grad_weight = grads[0].float(), None
        product = grad * wide
        if weight_D is None:
            along = product.mean(-1, keepdim=True)
        else:
            if ctx.needs_input_grad[1]:
                grad_weight = product.reshape(-1, len(weight_D)).sum(0).to(weight_D.dtype)
            along = (product @ weight_D.float()).div_(wide.shape[-1])[..., None]
            grad = torch.mul(grad, weight_D, out=product)
        grad_x = torch.addcmul(grad, wide, along, value=-1).mul_(scale)
        return grad_x.to(ctx.dtype), grad_weight, None


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
        normalised: Tensor = _Normalise.apply(x, self.weight, self.eps)
        return normalised
