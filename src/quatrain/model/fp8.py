"""Directories of compressed-tensors in FP8: a scale for each row of a matrix, or one for all.

    X.weight         float8_e4m3fn [O, I]
    X.weight_scale   [O, 1], [O], [1] or []; a number is code x scale
    X.input_scale    for rounding what meets the weight, which is not done here: left out

Experts are stored one by one there. Here they are a stack, gate beside up, of which the file's
tensors stay where they are:

    experts.0.gate_proj.weight [I, H]
    experts.0.up_proj.weight   [I, H]        experts.gate_up_proj  [E, H, 2 I]
    experts.0.down_proj.weight [H, I]        experts.down_proj     [E, I, H]
    experts.1. ...

Not for which config.json says so (hf_quantised.py), nor for bitsandbytes (stored.py).

Shapes: E experts, I inputs, O outputs of a matrix, H model width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quatrain.model.frozen import Matrix, Stack
from quatrain.model.kinds import KINDS
from quatrain.model.shards import LazyTensor
from quatrain.model.stored import broken, joined

_SCALE = ".weight_scale"
_UNUSED = re.compile(r".*\.(input_scale|output_scale|k_scale|v_scale)")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_SIDE_BY_SIDE = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}


def joined_in(kind: str | None, given: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Join the parts of matrices that a directory stores in a kind; None stands for plain numbers.

    Raises:
        CheckpointError: Q404 for parts that are missing or contradict each other.
    """
    if kind is None:
        return dict(given)
    return joined_fp8(given) if kind == "fp8" else joined(given)


def joined_fp8(given: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Join codes with their scales, and experts into stacks; see `stored.joined`.

    Raises:
        CheckpointError: Q404 for parts that are missing or contradict each other.
    """
    rest = {name: one for name, one in given.items() if not _UNUSED.fullmatch(name)}
    for name in [one for one in rest if one.endswith(_SCALE)]:
        weight = f"{name.removesuffix(_SCALE)}.weight"
        rest[weight] = _matrix(weight, rest.get(weight), rest.pop(name))
    for name, tensor in rest.items():
        if tensor.dtype == torch.float8_e4m3fn:
            raise broken(name, "missing", part="weight_scale")
    return _stacked(rest)


def _matrix(name: str, codes: LazyTensor | None, scale: LazyTensor) -> LazyTensor:
    """Join one matrix."""
    if codes is None or codes.dtype != torch.float8_e4m3fn or len(codes.shape) != 2:
        raise broken(name, "not_fp8")
    scales = scale.load().float().flatten()
    if scale.shape not in ((codes.shape[0], 1), codes.shape[:1], (1,), ()):
        raise broken(name, "size", given=str(list(scale.shape)))
    parts = {"codes": codes.load().view(torch.uint8),
             "scales": scales.expand(codes.shape[0]).contiguous()}  # fmt: skip
    matrix = Matrix(KINDS["fp8"], codes.shape, parts)

    def load() -> Tensor:
        return matrix.rows(0, slice(None), torch.float32)

    return LazyTensor(codes.shape, torch.float32, load, (matrix,))


def _stacked(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Stack the experts' matrices; other tensors stay."""
    rest, experts = dict[str, LazyTensor](), dict[str, dict[tuple[str, int], LazyTensor]]()
    for name, tensor in tensors.items():
        if found := _EXPERT.fullmatch(name):
            experts.setdefault(found[1], {})[found[3], int(found[2])] = tensor
        else:
            rest[name] = tensor
    for owner, each in experts.items():
        for name, halves in _SIDE_BY_SIDE.items():
            columns = [_column(f"{owner}.{name}", half, each) for half in halves]
            rest[f"{owner}.{name}"] = _side_by_side(columns)
    return rest


def _column(name: str, half: str, each: Mapping[tuple[str, int], LazyTensor]) -> list[LazyTensor]:
    """List one of the matrices of every expert."""
    number = 1 + max(expert for _, expert in each)
    found = [each.get((half, expert)) for expert in range(number)]
    column = [one for one in found if one is not None]
    if len(column) < number:
        raise broken(name, "missing", part=f"{half}_proj of expert {found.index(None)}")
    if len({(one.shape, len(one.matrices)) for one in column}) > 1:
        raise broken(name, "size", given=str(sorted({one.shape for one in column})))
    return column


def _side_by_side(columns: Sequence[Sequence[LazyTensor]]) -> LazyTensor:
    """Make the parameter [E, I, O] of matrices [O, I], some of each expert's beside each other."""

    def load() -> Tensor:
        outputs = [torch.stack([one.load() for one in column]) for column in columns]
        return torch.cat(outputs, dim=1).mT

    number, (_, inputs) = len(columns[0]), columns[0][0].shape
    outputs = sum(column[0].shape[0] for column in columns)
    matrices = tuple(_stack(column) for column in columns if column[0].matrices)
    dtype = columns[0][0].dtype
    return LazyTensor((number, inputs, outputs), dtype, load, matrices)


def _stack(column: Sequence[LazyTensor]) -> Stack:
    return Stack([one.matrices[0] for one in column])
