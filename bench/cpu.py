"""All that is claimed of a CPU, in one command that stops at forty minutes.

    python bench/cpu.py [QUESTIONS...] [--threads 2] [--floor 140] [--save]

Children are few where a peer's step takes most of a minute; a step under autocast is not among the
parts (`step.py --dtype autocast`). Answer tokens need files of real questions, and bfloat16 a CPU
that multiplies it: what lacks either is left out and named, and the others go on, as they do when a
part fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from parts import run_parts

from quatrain.train.products import emulates_bfloat16

LIMIT = 2380.0
"""Seconds for all parts; what is before, between and behind them has the rest of forty minutes."""
SETTLED = ("--against", "none", "--warm-up", "8", "--steps", "10", "--repeats", "1")
"""Our side alone, after the first steps of a run, which are slower."""
PARTS: dict[str, tuple[str, ...]] = {
    "a settled step in float32": ("step.py", *SETTLED),
    "a settled step in bfloat16": ("step.py", "--dtype", "bf16", *SETTLED),
    "a step in float32": ("step.py", "--steps", "1", "--repeats", "2"),
    "a step in bfloat16": ("step.py", "--dtype", "bf16", "--steps", "1", "--repeats", "1"),
    "a step of 64 experts": (
        "step.py", "--layers", "2", "--experts", "64", "--steps", "1", "--repeats", "1",
    ),
    "a step of the dense twin": ("step.py", "--against", "dense", "--repeats", "2"),
    "one MoE layer in float32": ("moe_layer.py", "--steps", "2", "--repeats", "2"),
    "one MoE layer in bfloat16": (
        "moe_layer.py", "--dtype", "bf16", "--experts", "16", "--steps", "2", "--repeats", "2",
    ),
    "answer tokens": ("answer_tokens.py", "--repeats", "1"),
    "preparing data": ("prepare.py", "--growth", "1000000", "--repeats", "1"),
    "a step in float32, both by oneDNN": ("step.py", "--even", "--steps", "1", "--repeats", "1"),
    "how cost grows": ("scaling.py", "--steps", "2", "--repeats", "1"),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("questions", nargs="*", help="files of questions and answers")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--floor", default="0", help="GFLOP/s, see paired.py")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    parts = dict(PARTS)
    there = [name for name in options.questions if Path(name).exists()]
    if there:
        parts["answer tokens"] = (*parts["answer tokens"], *there)
    else:
        print("No file of questions is there: answer tokens are left out.", file=sys.stderr)
        del parts["answer tokens"]
    if emulates_bfloat16():
        print("This CPU only emulates bfloat16 products: they are left out.", file=sys.stderr)
        parts = {name: part for name, part in parts.items() if "bf16" not in part}
    more = ["--threads", options.threads, "--floor", options.floor, *["--save"] * options.save]
    return run_parts(parts, LIMIT, more)


if __name__ == "__main__":
    sys.exit(main())
