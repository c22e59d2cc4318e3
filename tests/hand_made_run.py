"""A run directory written by hand, so that every number on its page can be checked by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quatrain.files import write_json
from quatrain.recipe import build, to_yaml

HOSTILE = "<script>alert(1)</script> \u202eenvers\u202c \x1b[31mrouge \ud800 ' \" &"


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train_row(step: int, load: dict[str, list[int]] | None = None, **other: Any) -> dict[str, Any]:
    row = {"step": step, "loss": 8.0 / step, "lr": 1e-3 / step, "grad_norm": 1.5,
           "tokens": 100 * step, "tokens_per_second": 50.0, "seconds": 2.0}  # fmt: skip
    return row | ({"expert_load": load} if load else {}) | other


def eval_row(step: int, loss: float, exact: float | None, f1: float | None) -> dict[str, Any]:
    return {"step": step, "eval_loss": loss, "exact_match": exact, "f1": f1, "seconds": 0.5}


def sample(step: int, question: str, answer: str, exact: float, gold: str = "oui") -> Any:
    return {"step": step, "question": question, "answer": answer, "gold": [gold],
            "exact_match": exact, "f1": exact, "finish_reason": "stop"}  # fmt: skip


def hand_made(directory: Path, steps: int = 4, hostile: str = "Est-ce ?", **train: Any) -> Path:
    """A finished run of `steps` steps, an evaluation at 0, half-way and at the end."""
    run_dir, half = directory / "main", steps // 2
    checkpoint = run_dir / "checkpoints" / f"step-{steps:06d}"
    (run_dir / "data").mkdir(parents=True)
    checkpoint.mkdir(parents=True)
    config = build({"run_dir": str(run_dir), "data": {"train": ["questions.jsonl"]},
                    "train": {"max_steps": steps, "learning_rate": 1e-3, **train}})  # fmt: skip
    for name in ("recipe.yaml", "config.yaml"):
        (run_dir / name).write_text(to_yaml(config), encoding="utf-8")
    write_json(run_dir / "env.json", {"quatrain": "0.1.0", "gpu": None})
    write_json(checkpoint / "state.json", {"step": steps, "best_step": half, "finished": True})
    loads = {"0": [30, 10, 0, 0], "2": [10, 10, 10, 10]}
    rows = [eval_row(0, 8.0, 0.0, 0.0), *(train_row(step, loads) for step in range(1, steps + 1))]
    rows.insert(half + 1, eval_row(half, 2.0, 50.0, 75.0))
    lines(run_dir / "metrics.jsonl", [*rows, eval_row(steps, 3.0, 40.0, 60.0)])
    lines(run_dir / "samples.jsonl", [
        sample(0, hostile, hostile, 0.0, hostile), sample(0, "Deux ?", "oui", 1.0),
        sample(half, hostile, "oui", 1.0, hostile), sample(half, "Deux ?", "non", 0.0),
    ])  # fmt: skip
    lines(run_dir / "data" / "rejected.jsonl", [{"location": "q:3", "reason": hostile}])
    counts = {"conversations": 9, "documents": 0, "tokens": 90, "rows": 3, "answer_tokens": 20,
              "positions_used": 0.75, "longest": 12, "too_long": 1, "control_like": 0,
              "lengths": {"bin": 4, "counts": [1, 6, 2]}}  # fmt: skip
    report = {"records": 12, "rejected": 1, "duplicates": 2, "leaks": 0,
              "notes": [{"text": hostile, "key": hostile, "values": hostile}],
              "train": counts, "eval": None}  # fmt: skip
    (run_dir / "data" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return run_dir
