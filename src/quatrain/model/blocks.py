"""Attention by blocks: a block of queries at a time, with the keys that any of them may see.

    runs of 3, 4 and 3 tokens, blocks of 4 queries         keys   0 1 2 3 | 4 5 6 7 | 8 9
                                                   block 0        x x x x |         |
    x  multiplied: from the block that holds the   block 1        x x x x | x x x x |
       first query's run to the block itself       block 2                | x x x x | x x

So documents far apart cost nothing, whatever their lengths, and the shapes of products are few:
oneDNN keeps a kernel for each. Softmax weights are computed again for the gradient (Dao, 2023);
kept are only queries, keys and values. Everything is float32 within: bfloat16 is widened block by
block.

Shapes: B rows, T tokens, N query heads, K key heads, G = N / K, D width of a head; b rows, t
queries and s keys of a part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quatrain.model.layout import Runs


class Sizes(NamedTuple):
    """How much is computed at a time."""

    queries: int
    """Of a row, in a block."""
    scores: int
    """Of all rows and heads together, about; rows share a product up to that."""


_CPU, _CUDA = Sizes(64, 1 << 20), Sizes(512, 1 << 26)
"""On a CPU scores stay in the cache; on CUDA what counts is how few kernels are called."""


def attend_by_blocks(
    q: Tensor, k: Tensor, v: Tensor, runs: Runs, sizes: Sizes | None = None
) -> Tensor:
    """Let each query see its run's keys up to itself; see attention.attend.

    Args:
        q: queries [B, N, T, D].
        k: keys [B, K, T, D].
        v: values [B, K, T, D].
        runs: which tokens belong together.
        sizes: how much at a time; None chooses by the device. Changes no more than rounding.

    Returns:
        [B, N, T, D], in q's dtype.
    """
    sizes = sizes or (_CUDA if q.is_cuda else _CPU)
    out: Tensor = _ByBlocks.apply(q, k, v, list(_parts(runs, q.shape[1], sizes)))
    return out


class _Part(NamedTuple):
    """Queries that are computed together, and what they may not see of their keys."""

    rows: slice
    queries: slice
    keys: slice
    before: Tensor | None
    """Where a key lies before its query's run [b, t, up to s], for the first keys; None if none."""
    after: Tensor
    """Where a key lies behind its query [t, t], for the last keys."""


def _parts(runs: Runs, heads: int, sizes: Sizes) -> Iterator[_Part]:
    starts_BT = runs.starts
    num_rows, length = starts_BT.shape
    block = min(sizes.queries, length)
    together = max(1, sizes.scores // (heads * block * min(length, 16 * block)))
    after = torch.ones(block, block, dtype=torch.bool, device=runs.device).triu(1)
    for row in range(0, num_rows, together):
        rows = slice(row, min(row + together, num_rows))
        for begin in range(0, length, block):
            queries = slice(begin, min(begin + block, length))
            starts = starts_BT[rows, queries]
            first, latest = int(starts[:, 0].min()) // block * block, int(starts[:, -1].max())
            before = None
            if latest > first:
                before = (torch.arange(first, latest) < starts[..., None]).to(runs.device)
            num_queries = queries.stop - begin
            yield _Part(rows, queries, slice(first, queries.stop), before,
                        after[:num_queries, :num_queries])  # fmt: skip


def _in_float32(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Let no autocast round what is computed."""

    @functools.wraps(compute)
    def guarded(ctx: Any, x: Tensor, *others: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return compute(ctx, x, *others)

    return guarded


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    @_in_float32
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: list[_Part]) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.parts = parts
        out = _like(q, q.shape[1])
        for part in parts:
            of_part = _OfPart(q, k, v, part)
            product = torch.bmm(of_part.weights(), of_part.v)
            _by_key_head(out, k.shape[1], part).copy_(of_part.apart(product))
        return out

    @staticmethod
    @_in_float32
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        heads = k.shape[1]
        grad_q = _like(q, q.shape[1])
        grad_k, grad_v = (_like(k, heads, torch.float32).zero_() for _ in range(2))
        for part in ctx.parts:
            of_part = _OfPart(q, k, v, part)
            weights = of_part.weights()
            grad = _by_key_head(grad_out, heads, part).float().reshape(of_part.q.shape)
            grad_v[part.rows, :, part.keys] += of_part.keywise(torch.bmm(weights.mT, grad))
            grad_weights = torch.bmm(grad, of_part.v.mT)
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_weights, weights, -1, torch.float32
            )
            grad_k[part.rows, :, part.keys] += of_part.keywise(torch.bmm(grad_scores.mT, of_part.q))
            grad_queries = of_part.apart(torch.bmm(grad_scores, of_part.k)) * of_part.scale
            _by_key_head(grad_q, heads, part).copy_(grad_queries)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


class _OfPart:
    """The queries [bK, tG, D], times 1 / sqrt(D), the keys and the values [bK, s, D] of a part."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, part: _Part) -> None:
        self.part, self.scale = part, q.shape[-1] ** -0.5
        queries = _by_key_head(q, k.shape[1], part).float() * self.scale
        keys = k[part.rows, :, part.keys].float().contiguous()
        values = v[part.rows, :, part.keys].float().contiguous()
        self._queries_shape, self._keys_shape = queries.shape, keys.shape
        self.q = queries.reshape(-1, queries.shape[2] * queries.shape[3], queries.shape[4])
        self.k, self.v = keys.flatten(0, 1), values.flatten(0, 1)

    def weights(self) -> Tensor:
        """Compute the softmax over the keys that each query sees, [bK, tG, s]."""
        part, scores = self.part, torch.bmm(self.q, self.k.mT)
        by_query = scores.view(*self._queries_shape[:4], -1)
        if part.before is not None:
            first = by_query[..., : part.before.shape[-1]]
            first.masked_fill_(part.before[:, None, :, None], -torch.inf)
        last = by_query[..., part.queries.start - part.keys.start :]
        last.masked_fill_(part.after[:, None], -torch.inf)
        return scores.softmax(-1)

    def apart(self, x: Tensor) -> Tensor:
        """Take rows, heads and queries apart: [bK, tG, D] to [b, K, t, G, D]."""
        return x.view(self._queries_shape)

    def keywise(self, x: Tensor) -> Tensor:
        """Take rows and heads apart: [bK, s, D] to [b, K, s, D]."""
        return x.view(self._keys_shape)


def _by_key_head(x_BNTD: Tensor, heads: int, part: _Part) -> Tensor:
    """Look at a part of [B, N, T, D] as [b, K, t, G, D]; nothing is copied."""
    by_key_head: Tensor = x_BNTD.unflatten(1, (heads, -1))
    return by_key_head[part.rows, :, :, part.queries].transpose(2, 3)


def _like(x_BNTD: Tensor, heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """Make an empty [B, heads, T, D] whose heads of one token lie together, as projections read."""
    rows, _, length, width = x_BNTD.shape
    return x_BNTD.new_empty(rows, length, heads, width, dtype=dtype).transpose(1, 2)
