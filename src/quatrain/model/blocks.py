"""Attention by blocks: a block of queries at a time, with the keys that any of them may see.

    runs of 3, 4 and 3 tokens, blocks of 4 queries         keys   0 1 2 3 | 4 5 6 7 | 8 9
                                                   block 0        x x x x |         |
    x  multiplied: from the block that holds the   block 1        x x x x | x x x x |
       first query's run to the block itself       block 2                | x x x x | x x

So documents far apart cost nothing, whatever their lengths. Products have few shapes, which matters
since oneDNN keeps a kernel for each. Softmax weights are kept for the gradient while they are few;
beyond that only queries, keys and values are kept, and weights are recomputed (Dao, 2023).
Everything is computed in float32, or wider where queries are; bfloat16 is widened block by block.

Shapes: B rows, T tokens, N query heads, K key heads, G = N / K, D width of a head; b rows, t
queries and s keys of a part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quatrain.model.layout import Runs


class Sizes(NamedTuple):
    """How much is computed at a time."""

    queries: int
    """Queries of a row in a block."""
    scores: int
    """Scores of a product, about, over rows and heads; rows share products up to this number."""


_CPU, _CUDA = Sizes(64, 1 << 20), Sizes(512, 1 << 26)
"""On a CPU the scores should stay in the cache; on CUDA few kernels should be called."""
_MOST_KEPT = 320
"""The most softmax weights that are kept, for each query and head on average. Rows of 512 that are
one document have 288: keeping them takes a fifth more memory in a layer and saves a sixth of the
time of attention (docs/LOG.md)."""


def attend_by_blocks(
    q: Tensor, k: Tensor, v: Tensor, runs: Runs, sizes: Sizes | None = None
) -> Tensor:
    """Let each query see its run's keys up to itself; see attention.attend.

    Args:
        q: queries [B, N, T, D].
        k: keys [B, K, T, D].
        v: values [B, K, T, D].
        runs: which tokens belong together.
        sizes: how much at a time; None chooses by the device. They change nothing but rounding.

    Returns:
        [B, N, T, D], in q's dtype.
    """
    out: Tensor = _ByBlocks.apply(q, k, v, _plan(runs, q.shape[1], sizes))
    return out


def weights_kept(runs: Runs, heads: int) -> float:
    """Say how many softmax weights attend_by_blocks keeps for the gradient.

    Args:
        runs: of the rows.
        heads: of queries.

    Returns:
        The average over queries and heads; 0 where weights are recomputed.
    """
    plan = _plan(runs, heads, None)
    return plan.weights if plan.keeps else 0.0


class _Block(NamedTuple):
    """Queries that are computed together, and the masks over their keys."""

    queries: slice
    keys: slice
    before: Tensor | None
    """-inf where a key comes before its query's run, else 0 [b, 1, t, 1, up to s], for the first
    keys; None if there is no such key."""
    after: Tensor
    """-inf where a key comes after its query, else 0 [t, 1, t], for the last keys."""


class _Plan(NamedTuple):
    """How rows are computed."""

    parts: list[tuple[slice, list[_Block]]]
    """Which rows together, and by which blocks."""
    weights: float
    """Softmax weights for each query and head, on average."""

    @property
    def keeps(self) -> bool:
        """Whether the weights are kept for the gradient; else they are recomputed."""
        return self.weights <= _MOST_KEPT


def _plan(runs: Runs, heads: int, sizes: Sizes | None) -> _Plan:
    """Plan once for all layers that see the same runs."""
    sizes = sizes or (_CUDA if runs.device.type == "cuda" else _CPU)
    if (heads, sizes) not in runs.derived:
        parts = _parts(runs, heads, sizes)
        weights = sum(
            _length(rows) * _length(block.queries) * _length(block.keys)
            for rows, blocks in parts
            for block in blocks
        )
        runs.derived[heads, sizes] = _Plan(parts, weights / runs.starts.numel())
    plan: _Plan = runs.derived[heads, sizes]
    return plan


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def _parts(runs: Runs, heads: int, sizes: Sizes) -> list[tuple[slice, list[_Block]]]:
    """Say which rows are computed together, and by which blocks."""
    num_rows, length = runs.starts.shape
    block = min(sizes.queries, length)
    together = max(1, sizes.scores // (heads * block * min(length, 16 * block)))
    after = torch.zeros(block, block).masked_fill(torch.ones(block, block).triu(1) > 0, -torch.inf)
    after = after[:, None].to(runs.device)
    found = []
    for row in range(0, num_rows, together):
        rows, blocks = slice(row, min(row + together, num_rows)), []
        for begin in range(0, length, block):
            queries = slice(begin, min(begin + block, length))
            starts_bt = runs.starts[rows, queries]
            first = int(starts_bt[:, 0].min()) // block * block
            last = queries.stop - begin
            blocks.append(
                _Block(queries, slice(first, queries.stop), _before(starts_bt, first, runs.device),
                       after[:last, :, :last])
            )  # fmt: skip
        found.append((rows, blocks))
    return found


def _before(starts_bt: Tensor, first: int, device: torch.device) -> Tensor | None:
    latest = int(starts_bt[:, -1].max())
    if latest <= first:
        return None
    hidden = torch.arange(first, latest) < starts_bt[:, None, :, None, None]
    return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf).to(device)


def _in_float32(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Turn autocast off during a computation."""

    @functools.wraps(compute)
    def guarded(ctx: Any, x: Tensor, *others: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return compute(ctx, x, *others)

    return guarded


class _ByBlocks(torch.autograd.Function):
    @staticmethod
    @_in_float32
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan) -> Tensor:
        keeps = plan.keeps and any(ctx.needs_input_grad)
        out, kept = _like(q), []
        for rows, blocks in plan.parts:
            here = _Rows(q, k, v, rows)
            out_bKTGD = here.by_key_head(out)
            for block in blocks:
                weights = here.weights(block, here.queries(block), here.keys(block))
                product = torch.bmm(weights, here.v[:, block.keys].contiguous())
                out_bKTGD[:, :, block.queries] = here.apart(product)
                if keeps:
                    kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.parts = plan.parts
        return out

    @staticmethod
    @_in_float32
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        known = iter(kept)
        grad_q, grad_k, grad_v = _like(q), _like(k), _like(v)
        for rows, blocks in ctx.parts:
            here = _Rows(q, k, v, rows)
            out_bKTGD, q_bKTGD = here.by_key_head(grad_out), here.by_key_head(grad_q)
            of_keys, of_values = torch.zeros_like(here.k), torch.zeros_like(here.v)
            for block in blocks:
                queries, keys = here.queries(block), here.keys(block)
                weights = next(known) if kept else here.weights(block, queries, keys)
                grad = here.together(out_bKTGD[:, :, block.queries])
                of_values[:, block.keys].baddbmm_(weights.mT, grad)
                of_weights = torch.bmm(grad, here.v[:, block.keys].contiguous().mT)
                of_scores = torch.ops.aten._softmax_backward_data(
                    of_weights, weights, -1, weights.dtype
                )
                of_keys[:, block.keys].baddbmm_(of_scores.mT, queries)
                q_bKTGD[:, :, block.queries] = here.apart(torch.bmm(of_scores, keys))
            grad_k[rows] = (of_keys * here.scale).view_as(grad_k[rows])
            grad_v[rows] = of_values.view_as(grad_v[rows])
        return grad_q, grad_k, grad_v, None


class _Rows:
    """Rows that are computed together: their keys, times 1 / sqrt(D), and values [bK, T, D]."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, rows: slice) -> None:
        self.scale, self.rows, self.heads = q.shape[-1] ** -0.5, rows, k.shape[1]
        self._dtype = torch.promote_types(q.dtype, torch.float32)
        self.k = k[rows].to(self._dtype).contiguous().flatten(0, 1) * self.scale
        self.v = v[rows].to(self._dtype).contiguous().flatten(0, 1)
        self._q_bKTGD = self.by_key_head(q)

    def queries(self, block: _Block) -> Tensor:
        """Give a block's queries [bK, tG, D]."""
        return self.together(self._q_bKTGD[:, :, block.queries])

    def keys(self, block: _Block) -> Tensor:
        """Give a block's scaled keys [bK, s, D]."""
        keys: Tensor = self.k[:, block.keys].contiguous()
        return keys

    def weights(self, block: _Block, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute the softmax [bK, tG, s] over the keys that each query sees."""
        scores = torch.bmm(queries, keys.mT)
        scores_bKtGs = self.apart(scores)
        if block.before is not None:
            scores_bKtGs[..., : block.before.shape[-1]] += block.before
        scores_bKtGs[..., block.queries.start - block.keys.start :] += block.after
        return scores.softmax(-1)

    def by_key_head(self, x_BNTD: Tensor) -> Tensor:
        """Look at these rows of [B, N, T, D] as [b, K, T, G, D]; nothing is copied."""
        by_key_head: Tensor = x_BNTD[self.rows].unflatten(1, (self.heads, -1))
        return by_key_head.transpose(2, 3)

    def together(self, x_bKtGD: Tensor) -> Tensor:
        """Put rows with heads and queries with those that share their keys: [bK, tG, D]."""
        return x_bKtGD.to(self._dtype).reshape(len(self.k), -1, x_bKtGD.shape[-1])

    def apart(self, x: Tensor) -> Tensor:
        """Take them apart again: [bK, tG, D] to [b, K, t, G, D]."""
        return x.view(-1, self.heads, x.shape[1] // self._groups, self._groups, x.shape[2])

    @property
    def _groups(self) -> int:
        return self._q_bKTGD.shape[3]


def _like(x_BNTD: Tensor) -> Tensor:
    """Make an empty [B, N, T, D] whose heads of one token lie together, as projections read."""
    return torch.empty_like(
        x_BNTD.transpose(1, 2), memory_format=torch.contiguous_format
    ).transpose(1, 2)
