"""Root-mean-square normalisation, with and without a weight (Zhang and Sennrich, 2019).

Shapes: ... any leading dimensions, D the normalised one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rms_normalise(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last dimension, in float32; keep x's dtype.

    Llama 4's QK-norm is this function (docs/llama4.md section 1.2).
    """
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


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
