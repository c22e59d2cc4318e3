"""Attention: grouped-query, with RoPE and QK-norm on chunks, or without and on everything.

`attend` is the one entry point for runs of tokens that see each other causally. Behind it are plain
causal attention, blocks, variable-length kernels and a cache; tests check that they agree.
Facts: docs/llama4.md section 1.2.

Shapes: B rows, T tokens, S keys, N query heads, K key heads, D width of a head, H model width.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quatrain.config import ModelConfig
from quatrain.model.blocks import attend_by_blocks
from quatrain.model.cache import LayerCache
from quatrain.model.layout import Layout, Runs
from quatrain.model.norm import rms_normalise
from quatrain.model.rope import rotate
from quatrain.model.weights import Linear


def attend(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Let each query see its run's keys up to itself.

    Args:
        q: queries [B, N, T, D].
        k: keys [B, K, T, D]; head n of q reads head n // (N / K).
        v: values [B, K, T, D].
        runs: which tokens belong together.

    Returns:
        [B, N, T, D].
    """
    if kernel_is_faster(runs, q.shape[2]):
        return _sdpa(q, k, v)
    if _flash_serves(q):
        return attend_variable_length(q, k, v, runs)
    if not (q.is_cuda or torch.is_grad_enabled()) and runs_are_read_apart(runs):
        return attend_run_by_run(q, k, v, runs)
    return attend_by_blocks(q, k, v, runs)


_MOST_BY_BLOCKS = 1024
"""The longest row of one run, in tokens, for which blocks are no slower than PyTorch's kernel on a
CPU: they take 0.6 of its time at 512, 1.2 at 4,096 (docs/LOG.md)."""


LEAST_APART = 128
"""Tokens of a run, on average, from which on a kernel for each run is faster than blocks on a CPU,
where no gradient is wanted: it takes half the time with bfloat16 and AMX, 0.8 with float32."""


def runs_are_read_apart(runs: Runs) -> bool:
    """Whether the runs of a row are long enough for a kernel each."""
    return len(runs.lengths) == 1 and sum(runs.flat) >= LEAST_APART * len(runs.flat)


def attend_run_by_run(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Compute each run of the only row by PyTorch's causal kernel."""
    parts = (x.split(runs.flat, dim=2) for x in (q, k, v))
    return torch.cat([_sdpa(*run) for run in zip(*parts, strict=True)], dim=2)


def kernel_is_faster(runs: Runs, length: int) -> bool:
    """Whether PyTorch's causal kernel is the faster one for rows of `length` tokens."""
    return runs.one_per_row and (runs.device.type == "cuda" or length > _MOST_BY_BLOCKS)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend where the mask allows, or causally without one; keys may have fewer heads.

    On CUDA only flash attention accepts fewer heads of keys. Without it PyTorch would fall back to
    the kernel that holds all [N, T, T] scores, so keys and values are repeated here.
    """
    if _float32_is_faster(q):
        with torch.autocast("cpu", enabled=False):
            return _sdpa(q.float(), k.float(), v.float(), mask).to(q.dtype)
    fewer_heads_serve = not q.is_cuda or (mask is None and _flash_serves(q))
    if not fewer_heads_serve:
        groups = q.shape[1] // k.shape[1]
        k, v = _repeat(k, groups), _repeat(v, groups)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=fewer_heads_serve
    )


def _float32_is_faster(q: Tensor) -> bool:
    """Whether these are bfloat16 on a CPU without AMX, where PyTorch's kernel is slow.

    Float32 takes little more than half the time there, and gradients are rounded only once.
    """
    return not q.is_cuda and q.dtype == torch.bfloat16 and not _has_amx()


@functools.cache
def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


def attend_variable_length(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Compute all runs in one kernel of CUDA's flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    batch, _, length, _ = q.shape
    groups = q.shape[1] // k.shape[1]
    flat_q, flat_k, flat_v = (
        x.transpose(1, 2).flatten(0, 1) for x in (q, _repeat(k, groups), _repeat(v, groups))
    )
    bounds, longest = runs.cumulative, max(runs.flat)
    out = varlen_attn(flat_q, flat_k, flat_v, bounds, bounds, longest, longest, window_size=(-1, 0))
    assert isinstance(out, Tensor)
    return out.view(batch, length, *out.shape[1:]).transpose(1, 2)


def _repeat(x_BKTD: Tensor, groups: int) -> Tensor:
    return x_BKTD.repeat_interleave(groups, dim=1) if groups > 1 else x_BKTD


def _flash_serves(q: Tensor) -> bool:
    """Whether CUDA's flash attention accepts these: 16 bits, Ampere or later, a suitable width."""
    return (
        q.is_cuda
        and q.dtype in (torch.bfloat16, torch.float16)
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def attend_cached(q: Tensor, k: Tensor, v: Tensor, cache: LayerCache) -> Tensor:
    """Keep new keys and values, then let each query see its sequence's past (its chunk only).

    Args:
        q: queries [1, N, n, D].
        k: keys [1, K, n, D].
        v: values [1, K, n, D].
        cache: of this layer, for these tokens.

    Returns:
        [1, N, n, D].
    """
    cache.store(k, v)
    out = torch.empty_like(q)
    for tokens, keys, values, mask in cache.seen():
        seen = _sdpa(q[0, :, tokens].transpose(0, 1), keys, values, mask)
        out[0, :, tokens] = seen.transpose(0, 1)
    return out


class Attention(nn.Module):
    """The attention of one layer; whether it uses RoPE follows from config.rope_layers."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        heads, kv_heads, bias = config.n_heads, config.n_kv_heads, config.attention_bias
        self.d_k, self.eps = config.d_k, config.rms_norm_eps
        self.uses_rope = bool(config.rope_layers[layer])
        self.uses_qk_norm = config.use_qk_norm and self.uses_rope
        self.tunes_temperature = config.attn_temperature_tuning and not self.uses_rope
        self.floor_scale, self.attn_scale = config.floor_scale, config.attn_scale
        self.q_proj = Linear(config.d_model, heads * config.d_k, bias=bias)
        self.k_proj = Linear(config.d_model, kv_heads * config.d_k, bias=bias)
        self.v_proj = Linear(config.d_model, kv_heads * config.d_k, bias=bias)
        self.o_proj = Linear(heads * config.d_k, config.d_model, bias=bias)

    def forward(
        self, x_BTH: Tensor, rotation: Tensor, layout: Layout, cache: LayerCache | None = None
    ) -> Tensor:
        """Map [B, T, H] to [B, T, H].

        Args:
            x_BTH: normalised hidden states.
            rotation: from RotaryPositionalEmbedding, for the layout's positions.
            layout: positions and runs; without runs, the tokens continue what the cache holds.
            cache: of this layer, for these tokens, or None.
        """
        q, k, v = self._heads(x_BTH, rotation, layout.positions)
        runs = layout.chunks if self.uses_rope else layout.documents
        if runs is not None:
            out = attend(q, k, v, runs)
            if cache is not None:
                cache.store(k, v)
        else:
            assert cache is not None
            out = attend_cached(q, k, v, cache)
        joined: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return joined

    def _heads(
        self, x_BTH: Tensor, rotation: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to q [B, N, T, D], k and v [B, K, T, D], with positions applied."""
        q, k, v = (
            projection(x_BTH).unflatten(-1, (-1, self.d_k))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.uses_rope:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if self.uses_qk_norm:
            q, k = rms_normalise(q, self.eps), rms_normalise(k, self.eps)
        if self.tunes_temperature:
            q = q * self._temperature(positions).to(q.dtype)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _temperature(self, positions_BT: Tensor) -> Tensor:
        """Scale late queries up: 1 + attn_scale ln(1 + floor((p+1) / floor_scale))."""
        steps = torch.floor((positions_BT.float() + 1) / self.floor_scale)
        return (1 + self.attn_scale * torch.log1p(steps))[..., None, None]
