"""All that is claimed of one H100 or H200, in one command that stops at nine minutes.

    python bench/gpu.py [--save]

First that CUDA computes what the CPU does (device_parity.py); nothing is timed where it does not.
Then, in bfloat16: the step of a model of d 2048, 16 layers, 16 experts of 4096, a vocabulary of
32,768 and 64k tokens in rows of 4096; the MoE layer alone, at small dimensions against
transformers, and at Scout's; a step with FSDP2 and the exchange of rows, in a group of one
process, against one without (at most 3 % slower); last the first step against transformers on
fewer layers and tokens, checkpointed alike on both sides, since transformers runs each expert on
each token. A part that fails or has no time left is named, and the others go on.
"""

from __future__ import annotations

import sys
import time

import torch
from device_parity import NO_CUDA
from parts import run, run_parts

LIMIT = 520.0
"""Seconds in all."""
STEP = (
    "step.py", "--device", "cuda", "--dtype", "bf16", "--width", "2048", "--experts", "16",
    "--inner", "4096", "--heads", "16", "--kv-heads", "4", "--vocab", "32768", "--row", "4096",
)  # fmt: skip
PARTS: dict[str, tuple[str, ...]] = {
    "a step of 64k tokens": (
        *STEP, "--layers", "16", "--tokens", "65536", "--micro-rows", "4", "--checkpointing",
        "--against", "none", "--repeats", "1",
    ),
    "one MoE layer": (
        "moe_layer.py", "--device", "cuda", "--dtype", "bf16", "--experts", "4,16,64",
        "--repeats", "2", "--steps", "10",
    ),
    "a step with all that divides a model, by one": (
        *STEP, "--dtype", "autocast", "--layers", "4", "--tokens", "16384", "--micro-rows", "2",
        "--against", "wrapped", "--repeats", "2",
    ),
    "a step against transformers": (
        *STEP, "--layers", "4", "--tokens", "8192", "--micro-rows", "1", "--checkpointing",
        "--repeats", "2",
    ),
}  # fmt: skip


def main() -> int:
    if not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    begun = time.monotonic()
    save = [word for word in sys.argv[1:] if word == "--save"]
    if run("device_parity.py", *save, seconds=120):
        print("CUDA does not compute what the CPU does: nothing was timed.", file=sys.stderr)
        return 1
    return run_parts(PARTS, LIMIT - (time.monotonic() - begun), save)


if __name__ == "__main__":
    sys.exit(main())
