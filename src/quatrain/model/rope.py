"""Rotary positions on adjacent pairs, in float32 (Su et al., 2021; docs/llama4.md section 1.2).

Dimensions 2j and 2j+1 of a head are one complex number, turned by position x frequency_j. This is
the interleaved layout of Llama 4's checkpoints, not the rotate-half one of Llama 1 to 3.

Shapes: B rows, T tokens, N heads, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quatrain.config import RopeScaling


def frequencies(d_k: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Compute the angle that each pair turns a token, [D/2] in float32.

    Llama 3's scaling divides low frequencies by `factor`, keeps high ones, and blends those in
    between. Scout's low and high factors are equal, so nothing is in between.
    """
    turn = 1.0 / theta ** (torch.arange(0, d_k, 2, dtype=torch.float32, device="cpu") / d_k)
    if scaling is None:
        return turn
    turns_in_context = scaling.original_max_position_embeddings * turn / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    share = (turns_in_context - scaling.low_freq_factor) / (span or 1.0)
    blended = (1 - share) * turn / scaling.factor + share * turn
    slow = turns_in_context < scaling.low_freq_factor
    quick = turns_in_context > scaling.high_freq_factor
    return torch.where(slow, turn / scaling.factor, torch.where(quick, turn, blended))


class RotaryPositionalEmbedding(nn.Module):
    """Turn positions into rotations; `rotate` applies them to queries and keys."""

    inv_freq: Tensor

    def __init__(self, d_k: int, theta: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        self.d_k, self.theta, self.scaling = d_k, theta, scaling
        self.register_buffer("inv_freq", frequencies(d_k, theta, scaling), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Follow the module to another device, but stay float32 when it is cast."""
        super()._apply(fn, recurse)
        self.inv_freq = frequencies(self.d_k, self.theta, self.scaling).to(self.inv_freq.device)
        return self

    def forward(self, positions_BT: Tensor) -> Tensor:
        """Map positions [B, T] to unit complex numbers [B, T, 1, D/2]."""
        angles = positions_BT[..., None].float() * self.inv_freq
        return torch.polar(torch.ones_like(angles), angles).unsqueeze(2)


def rotate(x_BTND: Tensor, rotation: Tensor) -> Tensor:
    """Turn each adjacent pair of [B, T, N, D]; computed in float32, returned in x's dtype."""
    pairs = torch.view_as_complex(x_BTND.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x_BTND.dtype)


def interleave(weight: Tensor, d_k: int) -> Tensor:
    """Turn rows [n x d_k, H] that rotate half against half into rows of adjacent pairs."""
    turned: Tensor = weight.unflatten(0, (-1, 2, d_k // 2)).transpose(1, 2).flatten(0, 2)
    return turned


def deinterleave(weight: Tensor, d_k: int) -> Tensor:
    """Undo `interleave`."""
    turned: Tensor = weight.unflatten(0, (-1, d_k // 2, 2)).transpose(1, 2).flatten(0, 2)
    return turned
