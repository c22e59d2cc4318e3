"""The kind nf4: four-bit codes of values that a normal distribution has equally often.

A block of 64 numbers has a scale. The scales, less their mean (the offset), are stored in eight
bits, each 256 of them with a scale of their own ("nested"). Dettmers et al., QLoRA, 2023;
bitsandbytes stores the same numbers.

    number = VALUES[code] * (MAP[scale] * nested + offset)

The kind fp4, which is only read, has other values: a sign, two bits of exponent, one of mantissa.
Of both kinds there are files whose scales are plain numbers in float32.

Shapes: O outputs and I inputs of a stored matrix; n rows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

BLOCK = 64
GROUP = 256
"""Scales that share one of their own."""
TAIL = 0.9677083
"""The quantile of the largest value (QLoRA, appendix E, and bitsandbytes)."""
GRID = 65535
"""Steps between -1 and 1 to which a scale is rounded before its code is looked up."""
LEAST = 1e-38
"""The smallest divisor of a block."""


@cache
def values(device: torch.device) -> Tensor:
    """Give the 16 values: quantiles of a normal distribution, 0 among them, the largest 1."""
    inverse = NormalDist().inv_cdf
    above = [inverse(p) for p in torch.linspace(TAIL, 0.5, 9)[:-1].tolist()]
    below = [-inverse(p) for p in torch.linspace(TAIL, 0.5, 8)[:-1].tolist()]
    found = torch.tensor(sorted([*below, 0.0, *above]))
    return (found / found.max()).to(device)


@cache
def scale_map(device: torch.device) -> Tensor:
    """Give the 256 values of a stored scale: the dynamic data type (Dettmers, 2016).

    Of each sign there is one number between 0.1e-6 and 1e-6, two up to 1e-5, and so on, 64 up to 1:
    the middles of equal parts. 0 and 1 are added.
    """
    found = [0.0, 1.0]
    for exponent in range(7):
        ends = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = (ends[:-1] + ends[1:]) / 2 * 10.0 ** (exponent - 6)
        found += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(found)).to(device)


@cache
def values_of_fp4(device: torch.device) -> Tensor:
    """Give the 16 values of fp4, as bitsandbytes numbers them: 12 is the largest, as 1."""
    above = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
    return torch.cat([above, -above]).to(device)


@cache
def _pairs(name: str, device: torch.device) -> Tensor:
    """Give for each byte its two values, the upper half first, as one int64."""
    byte = torch.arange(256)
    table = TABLES[name](torch.device("cpu"))
    pairs = table[torch.stack([byte >> 4, byte & 15], 1)]
    return pairs.view(torch.int64).view(-1).to(device)


TABLES = {"nf4": values, "fp4": values_of_fp4}
"""What gives the values of a kind."""


def taken(parts: Mapping[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    """Take rows of every part; give the nested scale of each scale, if scales are nested."""
    scales, nested = parts["scales"], parts.get("nested")
    if nested is None:
        return {"codes": parts["codes"][rows], "scales": scales[rows]}
    if isinstance(rows, slice):
        numbers = torch.arange(rows.start, rows.stop, device=scales.device)
    else:
        numbers = rows
    across = scales.shape[1]
    flat = numbers[:, None] * across + torch.arange(across, device=scales.device)
    return {
        "codes": parts["codes"][rows], "scales": scales[rows], "offset": parts["offset"],
        "nested": nested[flat // GROUP],
    }  # fmt: skip


def write(name: str, parts: Mapping[str, Tensor], wide: Tensor) -> None:
    """Write the rows that the parts hold, as `taken` gives them, to float32 [n, I]."""
    codes, scales = parts["codes"], parts["scales"]
    if "nested" in parts:
        scales = scale_map(codes.device)[scales.int()]
        scales.mul_(parts["nested"]).add_(parts["offset"])
    pairs = wide.view(-1).view(torch.int64)
    torch.index_select(_pairs(name, codes.device), 0, codes.int().view(-1), out=pairs)
    wide.view(-1, BLOCK).mul_(scales.view(-1, 1))


def encode(pieces: Iterable[Tensor], codes: Tensor) -> dict[str, Tensor]:
    """Store a matrix.

    Args:
        pieces: contiguous float32 pieces [n, I] of its rows, in order.
        codes: uint8 [O, I/2], which is filled.
    """
    each, row = list[Tensor](), 0
    for piece in pieces:
        blocks = piece.view(-1, BLOCK)
        each.append(blocks.abs().amax(1))
        scaled = (blocks * (1 / each[-1].clamp(min=LEAST))[:, None]).clamp_(-1, 1)
        table = values(piece.device)
        found = torch.bucketize(scaled, (table[:-1] + table[1:]) / 2, out_int32=True)
        found = found.to(torch.uint8).view(piece.shape)
        codes[row : row + len(piece)] = found[:, ::2] << 4 | found[:, 1::2]
        row += len(piece)
    largest = torch.cat(each)
    offset = largest.mean()
    scales, nested = _encode_scales(largest - offset)
    return {
        "codes": codes, "scales": scales.view(len(codes), -1), "nested": nested,
        "offset": offset,
    }  # fmt: skip


def _encode_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Give the nearest code of each scale, and the largest magnitude of each group.

    A scale is first rounded to a grid, as bitsandbytes does on a CPU: near the middle between two
    codes it may get the one that is further away, by 1.5e-5 of the largest scale at most.
    """
    number = len(scales)
    groups = torch.nn.functional.pad(scales, (0, -number % GROUP)).view(-1, GROUP)
    nested = groups.abs().amax(1)
    scaled = groups * (1 / nested)[:, None]
    steps = ((scaled.clamp_(-1, 1) + 1) * 0.5 * GRID + 0.5).floor_()
    table = scale_map(scales.device).double()
    codes = torch.bucketize(steps.double() / GRID * 2 - 1, (table[:-1] + table[1:]) / 2)
    codes[nested == 0] = 0
    return codes.to(torch.uint8).view(-1)[:number], nested
