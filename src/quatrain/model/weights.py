"""Weight kinds: how a weight multiplies, ordinary and grouped alike, with or without an adapter.

`Linear` multiplies every row by one matrix. `grouped_linear` multiplies rows sorted by group, each
group by its own matrix. Either takes a plain tensor or a `Frozen` one, which stays as it is stored
(frozen.py). A `LowRank` may be added: (x A) B beside x W, so no matrix of W's size is made. Layers
know of none of this. Not for choosing which weights are adapted (lora.py).

Shapes: R rows, sorted by group where there are groups, E groups, I input width, O output width,
K rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quatrain.model.frozen import (
    FEW,
    Frozen,
    Weight,
    gradient_dtype,
    has_to_be_decoded,
    multiply,
    multiply_into,
    product_dtype,
    tiles_of,
    times_few,
    times_transposed,
)


class Draw(NamedTuple):
    """What determines a dropout mask, besides the weight and the row of the batch."""

    seed: int
    step: int
    first_row: int
    """The first row of this forward pass in the step's batch."""
    num_rows: int
    """Rows of this forward pass."""


class LowRank(nn.Module):
    """What an adapter adds to a product: scale x (dropped x A) B (Hu et al., 2021).

    B starts at zero, so an adapted model starts as the same function.
    """

    def __init__(
        self, shape: tuple[int, ...], rank: int, scale: float, dropout: float = 0.0, name: str = ""
    ) -> None:
        """Make the two factors.

        Args:
            shape: [I, O], or [E, I, O] for a matrix for each group.
            rank: K.
            scale: of what is added.
            dropout: the share of inputs that is dropped while `draw` is set.
            name: of the weight; masks of two weights differ.
        """
        super().__init__()
        *groups, wide, out = shape
        self.A = nn.Parameter(torch.empty(*groups, wide, rank))
        self.B = nn.Parameter(torch.empty(*groups, rank, out))
        self.scale, self.dropout, self.name = scale, dropout, name
        self.draw: Draw | None = None
        """Set while a training step computes; without it nothing is dropped."""
        self.merged = False
        """Whether the product is merged into the weight."""

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw A from the seed and the name, uniform in +-1/sqrt(I); let B be zero."""
        bound = self.A.shape[-2] ** -0.5
        drawn = torch.rand(self.A.shape, generator=generator_for("cpu", "A", self.name, seed))
        self.A.copy_((2 * drawn - 1) * bound)
        self.B.zero_()

    def forward(
        self, x: Tensor, counts_E: Tensor | None = None, order_R: Tensor | None = None
    ) -> Tensor:
        """Map [..., I] to [..., O]; the arguments are those of `grouped_linear`."""
        x = self._dropped(x, order_R)
        if counts_E is None:
            inner: Tensor = x @ self.A.to(x.dtype) * self.scale  # the router's x is float32
            return inner @ self.B.to(inner.dtype)
        inner_RK = grouped_linear(x, self.A, counts_E) * self.scale
        return grouped_linear(inner_RK, self.B, counts_E)

    def delta(self) -> Tensor:
        """Multiply the factors: the change of the weight, [I, O] or [E, I, O]."""
        return self.A.float() @ self.B.float() * self.scale

    def _dropped(self, x: Tensor, order_R: Tensor | None) -> Tensor:
        """Drop a share of the inputs and scale the rest up.

        Each row of the batch has its own mask, drawn from seed, step, weight and row, in the order
        of the tokens. Neither micro-batches nor a second forward pass change it.
        """
        if self.draw is None or not self.dropout:
            return x
        width, (seed, step, first, num_rows) = x.shape[-1], self.draw
        per_row, left = divmod(x.numel() // width, num_rows)
        assert not left
        kept = x.new_empty(num_rows, per_row, width)
        for row in range(num_rows):
            generator = generator_for(x.device.type, "drop", self.name, seed, step, first + row)
            kept[row].bernoulli_(1 - self.dropout, generator=generator)
        kept = kept.div_(1 - self.dropout).view(-1, width)
        return x * (kept.view_as(x) if order_R is None else kept[order_R])


def generator_for(device: str, *key: str | int) -> torch.Generator:
    """Make a generator whose draws are a function of the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def plus(
    product: Tensor,
    lora: LowRank | None,
    x: Tensor,
    counts_E: Tensor | None = None,
    order_R: Tensor | None = None,
) -> Tensor:
    """Add the output of an adapter, if there is one, to a product of x."""
    if lora is None or lora.merged:
        return product
    added: Tensor = lora(x, counts_E, order_R)
    return product + added


class Linear(nn.Linear):
    """A linear map to which an adapter may be added."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        self.lora: LowRank | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        few = x.dtype == torch.float32 and is_few(x)
        if few or has_to_be_decoded(self.weight, product_dtype(x)):
            return plus(multiply(x, self.weight, self.bias), self.lora, x)
        return plus(super().forward(x), self.lora, x)

    def lend(self, function: Callable[..., Tensor], x: Tensor, *more: Any) -> Tensor:
        """Give x and the weight to a function, as forward gives them to a product."""
        return function(x, self.weight, *more)


def is_few(x: Tensor) -> bool:
    """Whether these are a few vectors that no gradient is wanted of, as in answering."""
    return x.numel() <= FEW * x.shape[-1] and not torch.is_grad_enabled() and x.device.type == "cpu"


class Embedding(nn.Embedding):
    """A table of one vector for each id."""

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [...] to vectors [..., H]."""
        if isinstance(self.weight, Frozen):
            return self.weight.look_up(ids)
        if self.weight.dtype == torch.bfloat16 and self.weight.requires_grad:
            found: Tensor = _LookUp.apply(ids, self.weight)
            return found
        return super().forward(ids)


class _LookUp(torch.autograd.Function):
    """Rows of a bfloat16 table, whose gradients are added up in float32.

    PyTorch adds them in the table's dtype: there, 5,000 ones are 256.
    """

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight_VH: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype = weight_VH.shape, gradient_dtype(weight_VH)
        return F.embedding(ids, weight_VH)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        named, places = ids.unique(return_inverse=True)
        sums = grads[0].new_zeros(len(named), ctx.shape[1], dtype=torch.float32)
        sums.index_add_(0, places.flatten(), grads[0].flatten(0, -2).float())
        grad_weight = sums.new_zeros(ctx.shape, dtype=ctx.dtype)
        grad_weight[named] = sums.to(ctx.dtype)
        return None, grad_weight


def grouped_linear(
    x_RI: Tensor,
    weight_EIO: Weight,
    counts_E: Tensor,
    lora: LowRank | None = None,
    order_R: Tensor | None = None,
) -> Tensor:
    """Multiply each group's rows by its matrix.

        counts [2, 0, 1]:  rows 0 and 1 by matrix 0, row 2 by matrix 2

    Args:
        x_RI: rows, sorted by group.
        weight_EIO: a matrix for each group.
        counts_E: rows of each group, int64; they sum to R.
        lora: added to the product.
        order_R: where each row was before it was sorted; dropout depends on it.

    Returns:
        [R, O]; a group without rows costs nothing.
    """
    return plus(_multiply(x_RI, weight_EIO, counts_E), lora, x_RI, counts_E, order_R)


def _multiply(x_RI: Tensor, weight_EIO: Weight, counts_E: Tensor) -> Tensor:
    x_RI = x_RI.to(product_dtype(x_RI))
    if is_few(x_RI) and (few := _group_by_group(x_RI, weight_EIO, counts_E)) is not None:
        return few
    if has_to_be_decoded(weight_EIO, x_RI.dtype):
        learns = weight_EIO.requires_grad
        given = (weight_EIO, None) if learns else (None, weight_EIO)
        decoded: Tensor = _LoopOverGroups.apply(x_RI, given[0], counts_E.tolist(), given[1])
        return decoded
    assert isinstance(weight_EIO, Tensor)
    weight_EIO = weight_EIO.to(x_RI.dtype)
    if _grouped_kernel_serves(x_RI, weight_EIO):
        bounds = counts_E.cumsum(0).to(torch.int32)
        return F.grouped_mm(x_RI, weight_EIO, offs=bounds)
    product: Tensor = _LoopOverGroups.apply(x_RI, weight_EIO, counts_E.tolist(), None)
    return product


def _group_by_group(x_RI: Tensor, weight_EIO: Weight, counts_E: Tensor) -> Tensor | None:
    """Multiply a few rows without the preparations that many need; None if that cannot be done."""
    out_RO = x_RI.new_empty(len(x_RI), weight_EIO.shape[2])
    for group, start, end, _ in _groups(counts_E.tolist(), rounds=False):
        product = times_few(x_RI[start:end], weight_EIO, group)
        if product is None:
            return None
        out_RO[start:end] = product
    return out_RO


def _grouped_kernel_serves(x_RI: Tensor, weight_EIO: Tensor) -> bool:
    """Whether CUDA's grouped kernel accepts these: bfloat16, rows of a multiple of 16 bytes."""
    aligned = x_RI.shape[1] % 8 == 0 and weight_EIO.shape[2] % 8 == 0
    return x_RI.is_cuda and x_RI.dtype == torch.bfloat16 and aligned


class _LoopOverGroups(torch.autograd.Function):
    """A matrix product for each group that has rows, written in place.

    oneDNN compiles and keeps a kernel for each number of rows, and routing gives new numbers at
    every step. So a group is extended to a round number by some rows that follow it. The results of
    these rows are overwritten when their own group is computed; in a sum over rows they meet zeros.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_RI: Tensor,
        weight_EIO: Tensor | None,
        counts: list[int],
        frozen: Weight | None,
    ) -> Tensor:
        """Multiply by a tensor that autograd knows, or by one that is frozen and decoded."""
        learns_x, learns_weight, _, _ = ctx.needs_input_grad
        ctx.save_for_backward(x_RI if learns_weight else None, weight_EIO if learns_x else None)
        weight = weight_EIO if frozen is None else frozen
        assert weight is not None
        ctx.shape, ctx.dtype, ctx.counts, ctx.frozen = weight.shape, weight.dtype, counts, frozen
        groups = _groups(counts, _rounds(x_RI))
        out_RO = x_RI.new_empty(_last_taken(groups), weight.shape[2])
        for group, start, _, end in groups:
            rows = _rows(x_RI, start, end)
            for outputs, matrix in tiles_of(weight, group, x_RI):
                if outputs == slice(None):
                    torch.mm(rows, matrix, out=out_RO[start:end])
                else:
                    out_RO[start:end, outputs] = rows @ matrix
        return out_RO[: x_RI.shape[0]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x_RI, weight_EIO = ctx.saved_tensors
        weight = weight_EIO if ctx.frozen is None else ctx.frozen
        grad_RO = grads[0].contiguous()
        learns_x, learns_weight, _, _ = ctx.needs_input_grad
        groups = _groups(ctx.counts, _rounds(grad_RO))
        grad_x = grad_RO.new_empty(_last_taken(groups), ctx.shape[1]) if learns_x else None
        grad_weight = grad_RO.new_empty(ctx.shape, dtype=ctx.dtype) if learns_weight else None
        for group, start, own_end, end in groups:
            grad = _rows(grad_RO, start, end)
            if grad_x is not None and ctx.frozen is None and weight.dtype == grad.dtype:
                torch.mm(grad, weight[group].T, out=grad_x[start:end])
            elif grad_x is not None:
                grad_x[start:end] = times_transposed(grad, weight, group)
            if grad_weight is not None:
                own = _rows(x_RI[:own_end], start, end)
                multiply_into(grad_weight[group], own.T, grad)
        if grad_weight is not None:
            for group, count in enumerate(ctx.counts):
                if not count:
                    grad_weight[group].zero_()
        return None if grad_x is None else grad_x[: len(grad_RO)], grad_weight, None, None


def meet_numbers_of_rows(weight_EIO: Weight, most: int, dtype: torch.dtype) -> None:
    """Multiply a group of each number of rows once, forward and backward, up to `most`.

    This makes oneDNN's kernels before the first step. Kernels made during a step stay between
    blocks that the step frees, where large tensors then no longer fit: memory would keep growing.

    Args:
        weight_EIO: gives the shape of a matrix and whether it is trained; not read, not changed.
        most: rows; kernels for more are made when needed.
        dtype: of the products.
    """
    matrix_1IO = torch.zeros(1, *weight_EIO.shape[1:], dtype=dtype, device=weight_EIO.device)
    matrix_1IO.requires_grad_(weight_EIO.requires_grad)
    if not _rounds(matrix_1IO):
        return
    for rows in sorted({_round_number(count) for count in range(1, most + 1)}):
        x_RI = matrix_1IO.new_zeros(rows, matrix_1IO.shape[1], requires_grad=True)
        product_RO = grouped_linear(x_RI, matrix_1IO, torch.tensor([rows]))
        product_RO.backward(torch.zeros_like(product_RO))


def _groups(counts: list[int], rounds: bool) -> list[tuple[int, int, int, int]]:
    """List each group that has rows: its number, start, end, and the end of the rows it computes.

    The two ends differ if `rounds`; the very last one may lie beyond all rows.
    """
    found, start = [], 0
    for group, count in enumerate(counts):
        if count:
            taken = _round_number(count) if rounds else count
            found.append((group, start, start + count, start + taken))
        start += count
    return found


def _last_taken(groups: list[tuple[int, int, int, int]]) -> int:
    """Say how many rows a product writes."""
    return max((end for _, _, _, end in groups), default=0)


def _rows(x: Tensor, start: int, end: int) -> Tensor:
    """Take the rows from start to end, filled up with zeros."""
    missing = end - len(x)
    rows = x[start:end]
    return rows if missing <= 0 else torch.cat([rows, rows.new_zeros(missing, x.shape[1])])


def _round_number(count: int) -> int:
    """Round up to 16, 32, 48 ... 512, 544, 576 ... 1,024, 1,088: by a sixteenth, from 256 on."""
    step = max(16, 1 << count.bit_length() >> 5)
    return -(-count // step) * step


def _rounds(x_RI: Tensor) -> bool:
    """Whether oneDNN multiplies these."""
    settings: Any = torch.backends.mkldnn
    takes_float32 = settings.matmul.fp32_precision == "bf16"
    return not x_RI.is_cuda and (x_RI.dtype == torch.bfloat16 or takes_float32)
