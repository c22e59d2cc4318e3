"""Frozen weights: multiplied as they are stored, decoded a tile at a time, never whole.

    stored   [O, I] in blocks of a file, mapped          y[:, tile] = x decode(tile)^T
    tile     some of its outputs, decoded and dropped    dx += dy[:, tile] decode(tile)

Nothing decoded is kept for the gradient: it is decoded again. A plain tensor of another dtype than
the product is treated in the same way if it does not learn, or has fewer bits; the gradient of one
that learns is rounded to its dtype tile by tile.
Not for how numbers are stored (kinds.py), nor for what learns beside them (weights.py).

Shapes: R rows, I input width, O output width, E groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quatrain.model import kinds_native
from quatrain.model.kinds import Kind, decode
from quatrain.model.kinds_native import multiply_columns, multiply_plain

_TILE = {"cpu": 1 << 21, "cuda": 1 << 24}
"""Numbers that are decoded at once, at most. What a process frees on a CPU is kept and divided
among smaller blocks, so that large tiles would need new memory again and again."""
FEW = 8
"""Vectors that are multiplied by what is stored, without decoding it, where code is compiled."""
_PLAIN = {"f32": torch.float32, "bf16": torch.bfloat16}
"""Kinds whose blocks are numbers of a dtype that a few vectors are multiplied by as they are."""
_STEP = 64
"""Outputs of a tile are a multiple of it, except for the last."""


class Matrix(nn.Module):
    """A stored matrix [O, I], or a stack of them [E, O, I]; outputs come first."""

    def __init__(
        self,
        kind: Kind,
        shape: tuple[int, ...],
        parts: Mapping[str, Tensor],
        order: Tensor | None = None,
    ) -> None:
        """Wrap what is stored; nothing is copied.

        Args:
            kind: how a row is stored.
            shape: [O, I] or [E, O, I].
            parts: what `kinds.decode` reads; a stack is stored as E x O rows.
            order: which stored row each output is, [O], where a file has them in another order.
        """
        super().__init__()
        self.kind, self.shape, self.names = kind, shape, tuple(parts)
        self.stays = False
        """Whether the bytes stay where they are when the model moves; see offload.py."""
        self.near: dict[str, Tensor] | None = None
        """A copy on the device that multiplies, while there is one."""
        self.order: Tensor | None
        self.register_buffer("order", order, persistent=False)
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)

    @property
    def stored(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        return {name: self.get_buffer(name) for name in self.names}

    @property
    def parts(self) -> dict[str, Tensor]:
        """The same, nearest to what multiplies."""
        return self.near or self.stored

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Follow the model to another device, unless the bytes stay; they are never cast."""
        if self.stays:
            return self
        before = self.stored
        super()._apply(fn, recurse)
        for name, part in before.items():
            if self.get_buffer(name).dtype != part.dtype:
                moved = part.to(self.get_buffer(name).device)
                self.register_buffer(name, moved, persistent=False)
        return self

    def times(self, group: int, x_RI: Tensor, out_RO: Tensor) -> bool:
        """Multiply a few float32 vectors without decoding; tell whether that was possible."""
        if self.order is not None:
            return False
        size = self.shape[-2]
        rows = slice(group * size, (group + 1) * size)
        if dtype := _PLAIN.get(self.kind.name):
            return multiply_plain(self.parts["blocks"][rows].view(dtype), x_RI, out_RO)
        return kinds_native.multiply(self.kind.name, self.parts, rows, x_RI, out_RO)

    def rows(self, group: int, outputs: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Decode some outputs of a group (0 where there is one matrix): [n, I]."""
        size, width = self.shape[-2:]
        if self.order is not None:
            outputs = self.order[outputs.to(self.order.device) if isinstance(outputs, Tensor)
                                 else outputs]  # fmt: skip
        if isinstance(outputs, slice):
            start, stop, _ = outputs.indices(size)
            outputs = slice(group * size + start, group * size + stop)
        else:
            outputs = outputs + group * size
        return decode(self.kind, self.parts, outputs, width, dtype)


class Stack(Matrix):
    """A stack of matrices [E, O, I] that a file stores one by one; they stay where they are."""

    def __init__(self, each: Sequence[Matrix]) -> None:
        """Stack matrices of one kind and shape."""
        first = each[0]
        parts = {f"{name}_{group}": part for group, one in enumerate(each)
                 for name, part in one.stored.items()}  # fmt: skip
        super().__init__(first.kind, (len(each), *first.shape), parts)
        self.of_one = first.names

    def of(self, group: int) -> dict[str, Tensor]:
        """Give the parts of one matrix."""
        parts = self.parts
        return {name: parts[f"{name}_{group}"] for name in self.of_one}

    def times(self, group: int, x_RI: Tensor, out_RO: Tensor) -> bool:
        """Multiply a few float32 vectors; see `Matrix.times`."""
        rows = slice(0, self.shape[-2])
        return kinds_native.multiply(self.kind.name, self.of(group), rows, x_RI, out_RO)

    def rows(self, group: int, outputs: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Decode some outputs of a group: [n, I]."""
        return decode(self.kind, self.of(group), outputs, self.shape[-1], dtype)


class Frozen(nn.Module):
    """A weight that never learns: stored matrices that share their inputs, side by side.

    It stands where a parameter would, and has its shape, dtype and device.
    """

    requires_grad = False

    def __init__(
        self, matrices: Sequence[Matrix], dtype: torch.dtype, inputs_first: bool = False
    ) -> None:
        """Join matrices.

        Args:
            matrices: the outputs of the first one come first.
            dtype: of results, outside autocast.
            inputs_first: whether the parameter would be [E, I, O], as experts' are.
        """
        super().__init__()
        self.matrices = nn.ModuleList(matrices)
        self.dtype = dtype
        *groups, _, width = matrices[0].shape
        outputs = sum(one.shape[-2] for one in matrices)
        self.shape = torch.Size((*groups, width, outputs) if inputs_first else (outputs, width))

    @property
    def device(self) -> torch.device:
        """Where the bytes lie."""
        return next(self.buffers()).device

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return sum(part.nbytes for part in self.buffers())

    def tiles(self, group: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Decode a group, tile by tile: which outputs, and their rows [o, I]."""
        begin = 0
        for matrix in self.matrices:
            assert isinstance(matrix, Matrix)
            size, width = matrix.shape[-2:]
            for own in _slices(width, size, self.device):
                yield slice(begin + own.start, begin + own.stop), matrix.rows(group, own, dtype)
            begin += size

    def look_up(self, ids: Tensor) -> Tensor:
        """Decode the rows that ids name: [..., I]; as a table of embeddings is read."""
        (table,) = self.matrices
        assert isinstance(table, Matrix)
        named, places = ids.unique(return_inverse=True)
        return table.rows(0, named, self.dtype).to(ids.device)[places]


def _slices(width: int, outputs: int, device: torch.device) -> Iterator[slice]:
    """Divide outputs into tiles."""
    most = _TILE.get(device.type, _TILE["cuda"])
    step = max(_STEP, most // width // _STEP * _STEP)
    for start in range(0, outputs, step):
        yield slice(start, min(outputs, start + step))


Weight = Tensor | Frozen
"""[O, I], or [E, I, O] of which a group is taken."""


def has_to_be_decoded(weight: Weight, dtype: torch.dtype) -> bool:
    """Whether a product in dtype reads a weight tile by tile; else it is used as it is."""
    if isinstance(weight, Frozen):
        return True
    narrower = weight.dtype.itemsize < dtype.itemsize
    return weight.dtype != dtype and (narrower or not weight.requires_grad)


def tiles_of(weight: Weight, group: int | None, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Give a weight in parts: which outputs, and what rows like x are multiplied by [I, o]."""
    dtype = x.dtype
    if isinstance(weight, Frozen):
        for outputs, tile in weight.tiles(group or 0, dtype):
            yield outputs, tile.to(x.device).T
        return
    matrix_IO = weight.T if group is None else weight[group]
    if weight.dtype == dtype:
        yield slice(None), matrix_IO
        return
    inputs, number = matrix_IO.shape
    for outputs in _slices(inputs, number, weight.device):
        yield outputs, matrix_IO[:, outputs].to(dtype)


def times(x_RI: Tensor, weight: Weight, group: int | None = None) -> Tensor:
    """Multiply rows by a weight, or a group of it, in x's dtype: [R, O]; nothing is recorded."""
    if (found := times_few(x_RI, weight, group)) is not None:
        return found
    parts = tiles_of(weight, group, x_RI)
    outputs, matrix = next(parts)
    product = x_RI @ matrix
    if outputs == slice(None):
        return product
    out_RO = x_RI.new_empty(len(x_RI), weight.shape[0 if group is None else 2])
    out_RO[:, outputs] = product
    for outputs, matrix in parts:
        out_RO[:, outputs] = x_RI @ matrix
    return out_RO


def times_few(x_RI: Tensor, weight: Weight, group: int | None = None) -> Tensor | None:
    """Multiply a few vectors by a weight as it lies in memory; None where that cannot be done.

    What is written for many rows takes several times as long for one: it decodes first, or was
    made for other processors.
    """
    if len(x_RI) > FEW or x_RI.device.type != "cpu":
        return None
    wide = x_RI.float().contiguous()
    if isinstance(weight, Tensor):
        out_RO = wide.new_empty(len(wide), weight.shape[0 if group is None else 2])
        if group is None:
            done = multiply_plain(weight, wide, out_RO)
        else:
            done = multiply_columns(weight[group], wide, out_RO)
        return out_RO.to(x_RI.dtype) if done else None
    matrices = [one for one in weight.matrices if isinstance(one, Matrix)]
    out_RO, begin = wide.new_empty(len(wide), sum(one.shape[-2] for one in matrices)), 0
    for matrix in matrices:
        end = begin + matrix.shape[-2]
        if not matrix.times(group or 0, wide, out_RO[:, begin:end]):
            return None
        begin = end
    return out_RO.to(x_RI.dtype)


def times_transposed(grad_RO: Tensor, weight: Weight, group: int | None = None) -> Tensor:
    """Multiply rows by the transposed weight: [R, I], summed over tiles in float32."""
    parts = tiles_of(weight, group, grad_RO)
    outputs, matrix = next(parts)
    total = grad_RO[:, outputs] @ matrix.T
    wide: Tensor | None = None
    for outputs, matrix in parts:
        wide = total.float() if wide is None else wide
        wide += grad_RO[:, outputs] @ matrix.T
    return total if wide is None else wide.to(grad_RO.dtype)


def gradient_dtype(weight: Tensor) -> torch.dtype:
    """Say in which dtype the gradient of a weight is kept, which training may choose."""
    return (weight.grad_dtype if weight.is_leaf else None) or weight.dtype


def multiply_into(out_AB: Tensor, left_AR: Tensor, right_RB: Tensor) -> None:
    """Multiply in the dtype of the factors, and round to that of the result, a tile at a time."""
    if out_AB.dtype == left_AR.dtype:
        torch.mm(left_AR, right_RB, out=out_AB)
        return
    for rows in _slices(out_AB.shape[1], len(out_AB), out_AB.device):
        out_AB[rows] = left_AR[rows] @ right_RB


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        ctx.save_for_backward(x_RI if ctx.needs_input_grad[1] else None)
        return times(x_RI, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x_RI,), weight, grad_RO = ctx.saved_tensors, ctx.weight, grads[0]
        learns_x, learns_weight = ctx.needs_input_grad
        grad_weight = None
        if learns_weight:
            grad_weight = torch.empty_like(weight, dtype=gradient_dtype(weight))
            multiply_into(grad_weight, grad_RO.T, x_RI)
        return times_transposed(grad_RO, weight) if learns_x else None, grad_weight


def product_dtype(x: Tensor) -> torch.dtype:
    """Say in which dtype x is multiplied: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def multiply(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """Map [..., I] to [..., O] by a weight that has to be decoded."""
    x = x.to(product_dtype(x))
    product: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight)
    product = product.view(*x.shape[:-1], -1)
    return product if bias is None else product + bias.to(product.dtype)
