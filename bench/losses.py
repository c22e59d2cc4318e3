"""What runs wrote of their losses, and the frame of a picture of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """Read the rows of a run's metrics."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def held_out(run_dir: Path) -> list[tuple[int, float]]:
    """Give the held-out losses of a run, by step."""
    return [(row["step"], row["eval_loss"]) for row in rows_of(run_dir) if "eval_loss" in row]


def draw(picture: Path, lines: Callable[[Any], None]) -> None:
    """Draw losses by step; `lines` plots them on the axes that it gets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    lines(axes)
    axes.set(xlabel="steps", ylabel="loss of the answers, nats a token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=160)
