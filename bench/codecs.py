"""Numbers of stored weights that are decoded in a second: ours, bitsandbytes, and gguf's numpy.

    OMP_NUM_THREADS=2 python bench/codecs.py [--kinds q8_0,nf4] [--threads 2] [--repeats 9]

A matrix [2048, 2048] of each kind is decoded to bfloat16 and to float32, by the compiled decoders,
by torch alone, and by a peer that is installed: bitsandbytes for nf4, the package gguf (float32
only) for the kinds of GGUF files. All sides take turns in one process. A table of medians is
printed, in 1e9 numbers a second, with the slowest and the fastest turn of ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from saving import command, commit, machine, versions
from torch import Tensor

from quatrain.model import kinds_native
from quatrain.model.kinds import KINDS, Kind, decode, decode_by_torch, encode

SIDE = 2048
SECONDS = 0.03
"""Of a turn, at least."""
HALVES = {"q6_k": 208}
"""Where a block has its scale; elsewhere it is at the start."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Sides = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--smoke", action="store_true", help="a small matrix, one turn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.smoke:
        options.repeats = 1
    width = 256 if options.smoke else SIDE
    peers = {name: version(name) for name in ("gguf", "bitsandbytes") if installed(name)}
    print(f"{command(sys.argv)}\n{machine()}\n{versions() | peers}\ncommit {commit()}\n")
    print("| kind | to | compiled | torch | peer | compiled / peer | torch / peer |")
    print("|---|---|---|---|---|---|---|")
    for name in options.kinds.split(","):
        for words, dtype in DTYPES.items():
            print(f"| {name} | {words} | {row(KINDS[name], dtype, width, options)} |", flush=True)


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def row(kind: Kind, dtype: torch.dtype, width: int, options: argparse.Namespace) -> str:
    """Measure a kind; give the cells of its row."""
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    if kind.name in ("nf4", "fp4", "int8"):  # the codes of fp4 lie as those of nf4
        parts = encode(KINDS[kind.name.replace("fp4", "nf4")], weight)
    elif kind.name == "fp8":
        scales = weight.abs().amax(1) / torch.finfo(torch.float8_e4m3fn).max
        codes = (weight / scales[:, None]).to(torch.float8_e4m3fn).view(torch.uint8)
        parts = {"codes": codes, "scales": scales}
    else:
        parts = blocks(kind, width)
    sides = ours(kind, parts, width, dtype) | peer(kind, parts, weight, dtype)
    rates = in_turn(sides, width * width, options.repeats)
    middle = {side: statistics.median(found) for side, found in rates.items()}
    cells = [
        f"{middle[side]:.2f} ({min(rates[side]):.2f} to {max(rates[side]):.2f})"
        if side in rates else "" for side in ("compiled", "torch")
    ]  # fmt: skip
    cells.append(f"{middle['peer']:.2f}" if "peer" in middle else "")
    for side in ("compiled", "torch"):
        both = side in middle and "peer" in middle
        cells.append(f"{middle[side] / middle['peer']:.2f}" if both else "")
    return " | ".join(cells)


def blocks(kind: Kind, width: int) -> dict[str, Tensor]:
    """Draw bytes of any value, with scales that are ordinary numbers."""
    draw = torch.Generator().manual_seed(0)
    shape = (width, width // kind.block)
    found = torch.randint(0, 256, (*shape, kind.num_bytes), dtype=torch.uint8, generator=draw)
    halves = torch.rand(*shape, 2, generator=draw).half().view(torch.uint8)
    at = HALVES.get(kind.name, 0)
    room = min(4, kind.num_bytes - at)
    found[..., at : at + room] = halves[..., :room]
    return {"blocks": found.view(width, -1)}


def ours(kind: Kind, parts: dict[str, Tensor], width: int, dtype: torch.dtype) -> Sides:
    """Decode as the model does, and by torch alone."""
    rows, out = slice(0, width), torch.empty(width, width, dtype=dtype)
    sides: Sides = {"torch": lambda: decode_by_torch(kind, parts, rows, out)}
    if kinds_native.decode(kind.name, parts, rows, out):
        sides["compiled"] = lambda: decode(kind, parts, rows, width, dtype)
    return sides


def peer(kind: Kind, parts: dict[str, Tensor], weight: Tensor, dtype: torch.dtype) -> Sides:
    """Decode the same by another program, where one is installed that can."""
    if kind.name == "nf4" and installed("bitsandbytes"):
        import bitsandbytes.functional as theirs

        codes, state = theirs.quantize_4bit(
            weight, blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        state.dtype = dtype
        return {"peer": lambda: theirs.dequantize_4bit(codes, state)}
    if kind.name not in ("nf4", "fp4", "int8", "fp8") and dtype == torch.float32 and installed("gguf"):
        import gguf

        read, theirs_kind = parts["blocks"].numpy(), gguf.GGMLQuantizationType[kind.name.upper()]
        return {"peer": lambda: gguf.quants.dequantize(read, theirs_kind)}
    return {}


def in_turn(sides: Sides, numbers: int, repeats: int) -> dict[str, list[float]]:
    """Let each side decode for a while, again and again; give 1e9 numbers a second."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for run in sides.values():
        run()
    for _ in range(repeats):
        for side, run in sides.items():
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < SECONDS:
                run()
                count += 1
            rates[side].append(numbers * count / spent / 1e9)
    return rates


if __name__ == "__main__":
    main()
