"""A run of a dozen steps on a dozen questions, for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import quatrain.train.run as run_module
from quatrain.config import Config
from quatrain.recipe import build, to_yaml
from quatrain.train.log import METRICS, read_rows
from quatrain.train.loop import Around

COLOURS = ["rouge", "vert", "bleu", "jaune", "noir", "blanc"]
THINGS = ["Le ballon", "Le toit", "Le mur", "Le livre"]
OF_THE_CLOCK = {"seconds", "tokens_per_second"}


def questions_file(directory: Path) -> Path:
    path = directory / "questions.jsonl"
    pairs = [(f"{t} est {c}. De quelle couleur ?", c) for t in THINGS for c in COLOURS]
    rows = [{"instruction": q, "input": "", "output": a} for q, a in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_run(directory: Path, run_dir: str = "run", **train: Any) -> Config:
    """The config of a run in directory/run_dir; `train` changes its train section."""
    path = directory / "questions.jsonl"
    if not path.exists():
        questions_file(directory)
    values: dict[str, Any] = {
        "run_dir": str(directory / run_dir),
        "model": {
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 2,
            "num_local_experts": 4,
            "no_rope_layer_interval": 2,
            "vocab_size": 320,
            "attention_chunk_size": 16,
        },
        "data": {"train": [str(path)], "holdout": 0.25, "block_size": 96},
        "train": {
            "max_steps": 12,
            "batch_size": 2,
            "learning_rate": 3e-3,
            "eval_interval": 4,
            "save_interval": 3,
            "threads": 1,
            **train,
        },
        "evaluate": {"questions": 4, "samples": 2},
        "generate": {"max_new_tokens": 4},
    }
    return build(values)


def timeless_metrics(run_dir: Path) -> list[dict[str, Any]]:
    rows = read_rows(run_dir / METRICS)
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in rows]


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the run to stop once a step is done, as a signal would."""
    original = run_module.Around

    def around(
        evaluate: Any, keeper: Any, journal: Any, display: Any, _: Any, *rest: Any
    ) -> Around:
        seen = {"step": 0}
        shown = display.trained
        display.trained = lambda row: (seen.update(step=row["step"]), shown(row))
        return original(evaluate, keeper, journal, display, lambda: seen["step"] >= step, *rest)

    monkeypatch.setattr(run_module, "Around", around)


def recipe_in(directory: Path, **train: Any) -> Path:
    """Write a tiny run's recipe as a file."""
    path = directory / "tiny.yaml"
    path.write_text(to_yaml(tiny_run(directory, **train)), encoding="utf-8")
    return path
