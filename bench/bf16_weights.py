"""All weights learnt in float32 and in bfloat16, side by side: losses, seconds and memory.

    python bench/bf16_weights.py WORK --base DIR --questions piaf_train.json

DIR is a model in Llama 4's form. Both sides take the same steps on the same rows from the same
numbers; the other recipe differs by train.weights=bf16 alone. The peak is that of the process's
anonymous memory, read every 10 ms. A side that is done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from losses import draw, held_out, rows_of

from quatrain.train.calibrate import anonymous

SIDES = ("float32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", default="2e-4")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=4)
    parser.add_argument("--held-out", type=int, default=8, help="rows whose loss is compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    found = {side: trained(side, options) for side in options.sides}
    if len(found) < len(SIDES):
        return
    print("| step | held-out loss, float32 | held-out loss, bf16 |\n|---|---|---|")
    for (step, wide), (_, narrow) in zip(*(one["held_out"] for one in found.values()), strict=True):
        print(f"| {step} | {wide:.4f} | {narrow:.4f} |")
    for side, one in found.items():
        print(f"{side:8} peak {one['peak'] / 1e6:,.0f} MB, {one['seconds']:.1f} s a step (median)")
    if options.picture:
        draw(options.picture, partial(lines_of, found))


def trained(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one side; give its losses by step, its peak and the seconds of a step."""
    run_dir, record = options.work / side, options.work / f"{side}.json"
    if not record.exists():
        peak = peak_of(
            "sft", "piaf", f"run_dir={run_dir}", f"data.train={options.questions}",
            f"model.init={options.base}", "data.holdout=0.05", f"data.block_size={options.length}",
            f"train.batch_size={options.rows}", f"train.micro_batch_size={options.rows}",
            f"train.max_steps={options.steps}", f"train.learning_rate={options.rate}",
            f"train.eval_interval={max(1, options.steps // options.evaluations)}",
            "evaluate.questions=1", f"evaluate.rows={options.held_out}",
            "generate.max_new_tokens=8", f"train.seed={options.seed}",
            f"train.threads={options.threads}", f"train.weights={side}",
        )  # fmt: skip
        record.write_text(json.dumps({"peak": peak}), encoding="utf-8")
    rows = rows_of(run_dir)
    steps = [row for row in rows if "grad_norm" in row]
    return {
        **json.loads(record.read_text(encoding="utf-8")),
        "held_out": held_out(run_dir),
        "learning": [(row["step"], row["loss"]) for row in steps],
        "seconds": sorted(row["seconds"] for row in steps)[len(steps) // 2],
    }


def peak_of(*words: Any) -> int:
    """Run the command; give the most anonymous memory that it had."""
    child = subprocess.Popen([sys.executable, "-m", "quatrain", *map(str, words)])
    status, highest = Path(f"/proc/{child.pid}/status"), 0
    while child.poll() is None:
        highest = max(highest, anonymous(status) or 0)
        time.sleep(0.01)
    if child.returncode:
        raise SystemExit(f"the run failed: {child.returncode}")
    return highest


def lines_of(found: dict[str, dict[str, Any]], axes: Any) -> None:
    """Plot the losses by step: of the rows of each step, and held out."""
    for colour, (side, one) in zip(("C0", "C1"), found.items(), strict=True):
        axes.plot(*zip(*one["learning"], strict=True), linewidth=0.8, alpha=0.5, color=colour)
        axes.plot(*zip(*one["held_out"], strict=True), marker="o", markersize=3, linewidth=1.2,
                  color=colour, label=f"weights in {side}")  # fmt: skip


if __name__ == "__main__":
    main()
