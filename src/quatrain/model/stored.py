"""Matrices that a directory stores in fewer bits, as bitsandbytes and transformers lay them out.

    X.weight                                    uint8 [n/2, 1]: two codes a byte
    X.weight.absmax                             a scale of 64 numbers: uint8, or float32
    X.weight.nested_absmax, .nested_quant_map   what uint8 scales mean
    X.weight.quant_map                          the 16 values
    X.weight.quant_state.bitsandbytes__nf4      JSON: shape, sizes of blocks, offset of the scales

    X.weight, X.SCB                             int8 [O, I], and the largest number of each row

A stack of experts' matrices has no such layout in transformers. Here it has the same names on the
parameter's own, the outputs of a matrix come first, and the JSON says so.
Not for what the bytes mean (kinds.py), nor for which kinds a config.json names (hf_quantised.py).

Shapes: E experts, I inputs, O outputs of a matrix, n numbers of a weight.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.model import kinds_nf4
from quatrain.model.frozen import Matrix
from quatrain.model.kinds import KINDS, Kind, encode, fits
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import EMBEDDINGS, HEAD
from quatrain.words import Sentence

_STATE = ".quant_state.bitsandbytes__"
_ROWS = ".SCB"
_FORMAT = "weight_format"
_ORDER, _OUTPUTS_FIRST = "order", "outputs first"
_STATE_BYTES, _LARGEST_STATE = 512, 1 << 16
"""Bytes of the JSON that is written, filled up with spaces, and the most that is read."""
_STEPS = 127
_SMALL = re.compile(r".*norm\.weight|.*\.bias|.*\.router\.weight")


Sizes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each part of a weight."""


def is_small(name: str) -> bool:
    """Whether a weight is a norm, a bias or a router."""
    return _SMALL.fullmatch(name) is not None


def may_be_stored(name: str) -> bool:
    """Whether a weight of a model is a matrix of a layer, or a stack of them."""
    return not is_small(name) and name not in (EMBEDDINGS.weight, HEAD.weight)


def refuse_width(name: str, width: int, kind: Kind) -> None:
    """Refuse rows that are not whole blocks. Raises Q411."""
    if not fits(kind, width):
        raise CheckpointError(
            "Q411.width", name=name, width=width, kind=kind.name, block=kind.block
        )


def joined(given: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Join the parts of each stored matrix; other tensors stay, and so does the order.

    A joined tensor has the shape of the parameter, is read as float32, and has its `matrices`.

    Raises:
        CheckpointError: Q404 for parts that are missing or contradict each other.
    """
    rest, found = dict(given), dict[str, LazyTensor]()
    for name in given:
        four, state, kind = name.partition(_STATE)
        if state and four in given:
            found[four] = _four_bits(four, kind, rest)
        elif name.endswith(_ROWS):
            owner = name.removesuffix(_ROWS)
            weight = f"{owner}.weight" if f"{owner}.weight" in given else owner
            found[weight] = _eight_bits(weight, owner, rest)
    return {name: found.get(name, tensor) for name, tensor in rest.items()}


def _four_bits(name: str, kind: str, rest: dict[str, LazyTensor]) -> LazyTensor:
    """Join one matrix, or one stack, and take its parts from the rest."""
    state = _state(name, rest.pop(f"{name}{_STATE}{kind}"))
    shape = _shape(name, state.get("shape"))
    if kind not in kinds_nf4.TABLES or state.get("quant_type") != kind:
        raise broken(name, "kind", given=str(state.get("quant_type"))[:50])
    if state.get("blocksize") != kinds_nf4.BLOCK or math.prod(shape) % kinds_nf4.BLOCK:
        raise broken(name, "block", given=str(state.get("blocksize"))[:50])
    if len(shape) == 3 and state.get(_ORDER) != _OUTPUTS_FIRST:
        raise broken(name, "stack")
    width = shape[-1] if fits(KINDS[kind], shape[-1]) else math.prod(shape)
    rows, across = math.prod(shape) // width, width // kinds_nf4.BLOCK
    values = kinds_nf4.TABLES[kind](torch.device("cpu"))
    _refuse_other_values(name, "quant_map", rest, values)
    scales = _part(name, "absmax", rest).load()
    parts = {"codes": _sized(name, rest[name].load().view(torch.uint8), (rows, width // 2))}
    if not scales.is_floating_point():
        _refuse_other_values(name, "nested_quant_map", rest, kinds_nf4.scale_map(values.device))
        offset, size = state.get("nested_offset"), state.get("nested_blocksize")
        if type(offset) is not float or not math.isfinite(offset) or size != kinds_nf4.GROUP:
            raise broken(name, "nested")
        nested = _part(name, "nested_absmax", rest).load().float()
        parts["scales"] = _sized(name, scales, (rows, across), torch.uint8)
        parts["nested"] = _sized(name, nested, (-(-rows * across // kinds_nf4.GROUP),))
        parts["offset"] = torch.tensor(offset)
    else:
        parts["scales"] = _sized(name, scales.float(), (rows, across))
    return _lazy(KINDS[kind], shape, width, parts)


def _eight_bits(name: str, owner: str, rest: dict[str, LazyTensor]) -> LazyTensor:
    """Do as `_four_bits`; a part has the name of the weight's owner."""
    largest = rest.pop(f"{owner}{_ROWS}").load().float()
    layout = rest.pop(f"{owner}.{_FORMAT}", None)
    if name not in rest or rest[name].dtype != torch.int8:
        raise broken(name, "codes")
    if layout is not None and layout.load().any():
        raise broken(name, "layout")
    shape = _shape(name, list(rest[name].shape))
    codes = rest[name].load().reshape(-1, shape[-1])
    scales = _sized(name, largest, (len(codes),)) / _STEPS
    return _lazy(KINDS["int8"], shape, shape[-1], {"codes": codes, "scales": scales})


def _lazy(
    kind: Kind, shape: tuple[int, ...], width: int, parts: Mapping[str, Tensor]
) -> LazyTensor:
    """Wrap what is stored; blocks that reach over the end of a row are only read whole."""
    stacked, whole = len(shape) == 3, Matrix(kind, (math.prod(shape) // width, width), parts)
    *groups, outputs, inputs = shape

    def load() -> Tensor:
        numbers = whole.rows(0, slice(None), torch.float32).view(shape)
        return numbers.mT if stacked else numbers

    matrices = (Matrix(kind, shape, parts),) if width == inputs else ()
    return LazyTensor(
        (*groups, inputs, outputs) if stacked else shape, torch.float32, load, matrices
    )


def _state(name: str, tensor: LazyTensor) -> dict[str, Any]:
    """Read the JSON of a matrix."""
    if tensor.dtype != torch.uint8 or tensor.nbytes > _LARGEST_STATE:
        raise broken(name, "state")
    try:
        found = json.loads(bytes(tensor.load().flatten().tolist()))
    except (ValueError, RecursionError):
        raise broken(name, "state") from None
    if not isinstance(found, dict):
        raise broken(name, "state")
    return found


def _shape(name: str, given: Any) -> tuple[int, ...]:
    counts = isinstance(given, list) and all(type(size) is int and size > 0 for size in given)
    if not counts or len(given) not in (2, 3) or math.prod(given) >= 1 << 48:
        raise broken(name, "shape", given=str(given)[:100])
    return tuple(given)


def _part(name: str, part: str, rest: dict[str, LazyTensor]) -> LazyTensor:
    found = rest.pop(f"{name}.{part}", None)
    if found is None:
        raise broken(name, "missing", part=part)
    return found


def _sized(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> Tensor:
    """Give a part its shape; refuse another number of elements, or another dtype."""
    if tensor.numel() != math.prod(shape) or tensor.dtype != (dtype or tensor.dtype):
        raise broken(name, "size", given=str(list(tensor.shape)))
    return tensor.reshape(shape)


def _refuse_other_values(name: str, part: str, rest: dict[str, LazyTensor], ours: Tensor) -> None:
    given = _part(name, part, rest)
    if given.shape != ours.shape or not torch.allclose(given.load().float(), ours, atol=1e-6):
        raise broken(name, "values", part=part)


def broken(name: str, why: str, **values: Any) -> CheckpointError:
    """Say what is wrong with a stored matrix: Q404, by the key of a reason."""
    return CheckpointError(
        "Q404.stored", name=name, why=Sentence.of(f"reasons.stored.{why}", **values)
    )


def refuse_infinite_scales(name: str, matrix: Matrix) -> None:
    """Refuse scales that are not finite numbers. Raises Q404."""
    for part in matrix.parts.values():
        if part.is_floating_point() and not bool(part.isfinite().all()):
            raise broken(name, "finite")


def stored_as(kind: str, tensors: Mapping[str, LazyTensor], dtype: str) -> dict[str, LazyTensor]:
    """Store a model's matrices as nf4 or int8; each is read and encoded when it is written.

    Args:
        kind: nf4 or int8.
        tensors: of the model.
        dtype: to which other programs decode the matrices, as config.json spells it.

    Raises:
        CheckpointError: Q411 for rows that are not whole blocks.
    """
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if may_be_stored(name):
            refuse_width(name, tensor.shape[1], KINDS[kind])
            found.update(_in_parts(name, tensor, kind, dtype))
        else:
            found[name] = tensor
    return found


class _Encoded:
    """The parts of a matrix: made when the first is taken, let go one by one."""

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self.make = make
        self.held: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor:
        if not self.held:
            self.held = self.make()
        return self.held.pop(name)


def _in_parts(
    name: str, tensor: LazyTensor, kind: str, dtype: str
) -> Iterator[tuple[str, LazyTensor]]:
    """List the parts of a matrix by their names in the file."""
    shape = outputs_first(torch.empty(tensor.shape, device="meta")).shape
    sizes = (_sizes_of_nf4 if kind == "nf4" else _sizes_of_int8)(name, shape)

    def make() -> dict[str, Tensor]:
        parts = _encoded(tensor, KINDS[kind])
        if kind == "nf4":
            made = _written_nf4(name, parts, shape, dtype)
        else:
            made = _written_int8(name, parts)
        return {part: one.reshape(sizes[part][0]) for part, one in made.items()}

    encoded = _Encoded(make)
    for part, (size, dtype_of_part) in sizes.items():
        yield part, LazyTensor(size, dtype_of_part, partial(encoded.take, part))


def _sizes_of_nf4(name: str, shape: tuple[int, ...]) -> Sizes:
    number = math.prod(shape)
    scales = number // kinds_nf4.BLOCK
    return {
        name: ((number // 2, 1), torch.uint8),
        f"{name}.absmax": ((scales,), torch.uint8),
        f"{name}.nested_absmax": ((-(-scales // kinds_nf4.GROUP),), torch.float32),
        f"{name}.nested_quant_map": ((256,), torch.float32),
        f"{name}.quant_map": ((16,), torch.float32),
        f"{name}{_STATE}nf4": ((_STATE_BYTES,), torch.uint8),
    }


def _sizes_of_int8(name: str, shape: tuple[int, ...]) -> Sizes:
    owner = name.removesuffix(".weight")
    return {
        name: (shape, torch.int8),
        f"{owner}{_ROWS}": (shape[:-1], torch.float32),
        f"{owner}.{_FORMAT}": ((), torch.uint8),
    }


def _encoded(tensor: LazyTensor, kind: Kind) -> dict[str, Tensor]:
    """Encode a weight; what is stored in this way already is taken as it is."""
    if len(tensor.matrices) == 1:
        (stored,) = tensor.matrices
        alike = stored.kind is kind and stored.order is None
        if alike and (kind.name == "int8" or "nested" in stored.parts):
            return stored.parts
    return encode(kind, outputs_first(tensor.load()))


def outputs_first(weight: Tensor) -> Tensor:
    """Give a parameter as kinds store it: [O, I] or [E, O, I]."""
    return weight.mT if weight.dim() == 3 else weight


def _written_nf4(
    name: str, parts: Mapping[str, Tensor], shape: tuple[int, ...], dtype: str
) -> dict[str, Tensor]:
    cpu = torch.device("cpu")
    state = {
        "quant_type": "nf4", "blocksize": kinds_nf4.BLOCK, "dtype": dtype, "shape": shape,
        "nested_blocksize": kinds_nf4.GROUP, "nested_dtype": "float32",
        "nested_offset": float(parts["offset"]),
        **({_ORDER: _OUTPUTS_FIRST} if len(shape) == 3 else {}),
    }  # fmt: skip
    text = json.dumps(state).encode().ljust(_STATE_BYTES)
    return {
        name: parts["codes"], f"{name}.absmax": parts["scales"],
        f"{name}.nested_absmax": parts["nested"],
        f"{name}.nested_quant_map": kinds_nf4.scale_map(cpu),
        f"{name}.quant_map": kinds_nf4.values(cpu),
        f"{name}{_STATE}nf4": torch.frombuffer(bytearray(text), dtype=torch.uint8),
    }  # fmt: skip


def _written_int8(name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    owner = name.removesuffix(".weight")
    return {
        name: parts["codes"], f"{owner}{_ROWS}": _largest(parts["scales"]),
        f"{owner}.{_FORMAT}": torch.zeros((), dtype=torch.uint8),
    }  # fmt: skip


def _largest(scales: Tensor) -> Tensor:
    """Find numbers whose 127th parts are the scales, to the last bit."""
    found = scales * _STEPS
    for towards in (torch.inf, -torch.inf):
        other = torch.nextafter(scales * _STEPS, torch.full_like(scales, towards))
        found = torch.where(found / _STEPS == scales, found, other)
    assert torch.equal(found / _STEPS, scales)
    return found
