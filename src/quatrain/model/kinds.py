"""Kinds of stored weights: how the numbers of a matrix lie in bytes, and what these bytes say.

    q8_0    32 numbers: a scale in float16, then 32 signed bytes
    nf4     64 numbers: a scale, and for each number one of 16 values in four bits

Kinds of GGUF files (kinds_gguf.py), fp4 and fp8 are read; nf4 (kinds_nf4.py) and int8 are written
too.
A matrix is stored row after row, so that any rows are read without the others.

Shapes: O outputs and I inputs of a stored matrix; n rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quatrain.model import kinds_gguf, kinds_native, kinds_nf4

TILE = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Numbers that are decoded at once: on a CPU, what stays in its cache between two operations."""
_ENCODED = 1 << 22
"""Numbers that are encoded at once."""

Parts = Mapping[str, Tensor]
Write = Callable[[Parts, Tensor], None]
"""Writes the rows that the parts hold to a contiguous float32 tensor [n, I]."""


@dataclass(frozen=True)
class Kind:
    """How the numbers of a row are stored."""

    name: str
    block: int
    """Numbers that are stored together."""
    num_bytes: int
    """Bytes of a block; scales that are stored elsewhere are not among them."""
    write: Write

    def row_bytes(self, width: int) -> int:
        """Count the bytes of a row of so many numbers."""
        return width // self.block * self.num_bytes


def fits(kind: Kind, width: int) -> bool:
    """Tell whether rows of this width can be stored."""
    return width % kind.block == 0


def decode(
    kind: Kind, parts: Parts, rows: slice | Tensor, width: int, dtype: torch.dtype
) -> Tensor:
    """Give rows [n, width] of a stored matrix.

    Args:
        kind: of the matrix.
        parts: by name, as `encode` gives them; for kinds of GGUF files `blocks`, uint8
            [O, bytes of a row]. Nothing is copied but the chosen rows.
        rows: which ones, in this order; numbers of rows count from 0.
        width: numbers of a row.
        dtype: float32, or bfloat16: the same numbers, rounded to nearest.
    """
    assert dtype in (torch.float32, torch.bfloat16), dtype
    assert fits(kind, width), (kind.name, width)
    main = parts[main_part(kind)]
    assert main.shape[1] * main.element_size() == kind.row_bytes(width), main.shape
    chosen = chosen_rows(rows, len(main), main.device)
    number = chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)
    out = torch.empty(number, width, dtype=dtype, device=main.device)
    if not kinds_native.decode(kind.name, parts, chosen, out):
        decode_by_torch(kind, parts, chosen, out)
    return out


def main_part(kind: Kind) -> str:
    """Name the part that has a row for each row of the matrix."""
    return "codes" if kind.name in ("nf4", "fp4", "int8", "fp8") else "blocks"


def chosen_rows(rows: slice | Tensor, number: int, device: torch.device) -> slice | Tensor:
    """Give a slice without negative numbers and of step 1, or row numbers that exist."""
    if isinstance(rows, slice):
        start, stop, step = rows.indices(number)
        if step == 1:
            return slice(start, max(start, stop))
        return torch.arange(number, device=device)[list(range(start, stop, step))]
    assert rows.dtype in (torch.int64, torch.int32), rows.dtype  # a mask would be read as numbers
    if device.type == "cpu" and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < number:
        raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of a matrix of {number}")
    return rows.to(device)


def decode_by_torch(kind: Kind, parts: Parts, rows: slice | Tensor, out: Tensor) -> None:
    """Decode tile after tile by operations of torch, which every device has."""
    number, width = out.shape
    step = max(1, TILE.get(out.device.type, TILE["cuda"]) // max(width, 1))
    narrow = out.dtype != torch.float32 and kind.name != "bf16"
    buffer = out.new_empty(min(step, number), width, dtype=torch.float32) if narrow else out
    for start in range(0, number, step):
        stop = min(start + step, number)
        tile = taken(kind, parts, _part_of(rows, start, stop))
        wide = buffer[: stop - start] if narrow else out[start:stop]
        kind.write(tile, wide)
        if narrow:
            out[start:stop].copy_(wide)


def _part_of(rows: slice | Tensor, start: int, stop: int) -> slice | Tensor:
    """Take some of the chosen rows."""
    if isinstance(rows, slice):
        return slice(rows.start + start, rows.start + stop)
    return rows[start:stop]


def taken(kind: Kind, parts: Parts, rows: slice | Tensor) -> Parts:
    """Take rows of every part."""
    if kind.name in kinds_nf4.TABLES:
        return kinds_nf4.taken(parts, rows)
    if kind.name in ("int8", "fp8"):
        return {name: part[rows] for name, part in parts.items()}
    blocks = parts["blocks"][rows]
    if blocks.storage_offset() % 2 or not blocks.is_contiguous():
        blocks = blocks.clone(memory_format=torch.contiguous_format)
    return {"blocks": blocks.view(-1, kind.num_bytes)}


@torch.no_grad()
def encode(kind: Kind, weight: Tensor) -> dict[str, Tensor]:
    """Store a matrix [O, I], or a stack of them [E, O, I], of any float dtype, as nf4 or int8.

    A stack is one matrix of E x O rows. It is read a tile at a time, in whatever order its numbers
    lie, and never made float32 whole.

    nf4 gives codes, uint8 [O, I/2]; scales, uint8 [O, I/64]; nested, float32 [groups of 256
    scales]; offset, float32 []. int8 gives codes, int8 [O, I], and scales, float32 [O].
    """
    assert fits(kind, weight.shape[-1]), (kind.name, weight.shape)
    assert kind.name in ("nf4", "int8"), f"{kind.name} is only read"
    shape = (weight.numel() // weight.shape[-1], weight.shape[-1])
    tiles, device = _wide_tiles(weight), weight.device
    if kind.name == "nf4":
        parts = kinds_nf4.encode(tiles, shape, device, kinds_native.encode_nf4)
    else:
        parts = encode_int8(tiles, shape, device)
    largest = parts["offset" if kind.name == "nf4" else "scales"]
    assert largest.isfinite().all(), "weights that are not finite, or too large to be averaged"
    return parts


def _wide_tiles(weight: Tensor) -> Iterator[Tensor]:
    """Give all rows in order as float32, some at a time."""
    for matrix in weight if weight.ndim == 3 else weight[None]:
        step = max(1, _ENCODED // max(matrix.shape[1], 1))
        for start in range(0, len(matrix), step):
            yield matrix[start : start + step].float().contiguous()


def encode_int8(
    tiles: Iterable[Tensor], shape: tuple[int, int], device: torch.device
) -> dict[str, Tensor]:
    """Divide each row by a 127th of its largest magnitude, and round half to even.

    A row of zeros has the scale 0. The scale of a row of the smallest float32 numbers is itself
    rounded, so that a quotient may be above 127; it is stored as 127.
    """
    codes = torch.empty(shape, dtype=torch.int8, device=device)
    scales_O = torch.empty(shape[0], device=device)
    start = 0
    for tile in tiles:
        own = slice(start, start + len(tile))
        scales_O[own] = tile.abs().amax(1) / 127
        divisors = torch.where(scales_O[own] == 0, 1, scales_O[own])
        codes[own] = (tile / divisors[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        start += len(tile)
    return {"codes": codes, "scales": scales_O}


def _write_int8(parts: Parts, wide: Tensor) -> None:
    wide.copy_(parts["codes"]).mul_(parts["scales"][:, None])


def _write_fp8(parts: Parts, wide: Tensor) -> None:
    codes = parts["codes"].view(torch.float8_e4m3fn)
    wide.copy_(codes).mul_(parts["scales"][:, None])


def _write_f32(parts: Parts, wide: Tensor) -> None:
    wide.copy_(parts["blocks"].view(torch.float32).view_as(wide))


def _write_f16(parts: Parts, wide: Tensor) -> None:
    wide.copy_(parts["blocks"].view(torch.float16).view_as(wide))


def _write_bf16(parts: Parts, wide: Tensor) -> None:
    wide.copy_(parts["blocks"].view(torch.bfloat16).view_as(wide))


def _kinds() -> dict[str, Kind]:
    kinds = [Kind(name, block, size, write)
             for name, (block, size, write) in kinds_gguf.LAYOUTS.items()]  # fmt: skip
    kinds += [Kind("f32", 1, 4, _write_f32), Kind("f16", 1, 2, _write_f16)]
    kinds.append(Kind("bf16", 1, 2, _write_bf16))
    kinds += [Kind(name, kinds_nf4.BLOCK, kinds_nf4.BLOCK // 2, partial(kinds_nf4.write, name))
              for name in kinds_nf4.TABLES]  # fmt: skip
    kinds += [Kind("int8", 1, 1, _write_int8), Kind("fp8", 1, 1, _write_fp8)]
    return {kind.name: kind for kind in kinds}


KINDS = _kinds()
"""By name."""
PLAIN = ("f32", "f16", "bf16")
"""Kinds whose numbers lie in no blocks."""
