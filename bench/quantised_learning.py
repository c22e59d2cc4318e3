"""Adapters learnt beside one base in several forms: what four or eight bits cost in held-out loss.

    python bench/quantised_learning.py WORK --base DIR --gguf FILE --questions piaf_train.json

DIR is a base in Llama 4's form, whose weights FILE has too, as Q4_1. Its numbers in bf16 are the
reference; beside it stand nf4 and int8 made while it is read, its Q8_0 file, and FILE as it is.
Every side takes the same steps on the same rows from the same first factors. A side that is done is
not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from losses import draw, held_out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    work: Path = options.work
    bf16, q8_0 = work / "bf16", work / "q8_0"
    if not bf16.exists():
        quatrain("convert", options.base, bf16, "--to", "llama4", "--dtype", "bf16")
    if not q8_0.exists():
        quatrain("convert", options.base, q8_0, "--to", "gguf", "--dtype", "q8_0")
    sides = {
        "bf16": [f"model.init={bf16}"],
        "int8": [f"model.init={bf16}", "model.quantize=int8"],
        "Q8_0 file": [f"model.init={next(q8_0.glob('*.gguf'))}"],
        "nf4": [f"model.init={bf16}", "model.quantize=nf4"],
        "Q4_1 file": [f"model.init={options.gguf}"],
    }
    found = {name: trained(work / "runs" / name.replace(" ", "-"), words, options)
             for name, words in sides.items()}  # fmt: skip
    reference = found["bf16"][-1][1]
    for name, losses in found.items():
        first, last = losses[0][1], losses[-1][1]
        print(f"{name:10} {first:.4f} -> {last:.4f}  {100 * (last / reference - 1):+.2f} %")
    if options.picture:
        draw(options.picture, partial(lines_of, found))


def trained(run_dir: Path, words: list[str], options: argparse.Namespace) -> list[Any]:
    """Train one side; give its held-out losses by step."""
    quatrain(
        "sft", "piaf", f"run_dir={run_dir}", f"data.train={options.questions}",
        "data.holdout=0.05", "data.block_size=512", "train.adapter=lora", "train.precision=bf16",
        "train.batch_size=4", f"train.max_steps={options.steps}", "train.learning_rate=1e-3",
        f"train.eval_interval={max(1, options.steps // 4)}", "evaluate.questions=1",
        "evaluate.rows=40", *words,
    )  # fmt: skip
    return held_out(run_dir)


def lines_of(found: dict[str, list[Any]], axes: Any) -> None:
    """Plot held-out loss by step, a line for each side."""
    for name, losses in found.items():
        axes.plot(*zip(*losses, strict=True), marker="o", markersize=3, linewidth=1.2, label=name)


def quatrain(*words: Any) -> None:
    subprocess.run([sys.executable, "-m", "quatrain", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
