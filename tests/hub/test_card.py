"""The card of a trained model: what the Hub reads in it, and what is left for the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from quatrain.config import Config
from quatrain.hub.card import write_run_card
from quatrain.recipe import build

ROW = {"step": 4, "eval_loss": 1.25, "exact_match": 50.0, "f1": 66.666666}


def card(directory: Path, row: dict[str, Any] | None = ROW, **sections: Any) -> ModelCard:
    config: Config = build({"run_dir": str(directory / "mine"), **sections})
    write_run_card(directory, config, 4, 1234, row)
    return ModelCard.load(directory / "README.md")


def test_the_hub_reads_the_scores_back(tmp_path: Path) -> None:
    (exact, f1) = card(tmp_path, data={"train": ["q.jsonl"], "holdout": 0.1}).data.eval_results
    assert (exact.metric_type, exact.metric_value) == ("exact_match", 50.0)
    assert (f1.metric_type, f1.metric_value) == ("f1", 66.67)
    assert f1.task_type == "question-answering"
    assert f1.dataset_name == "held-out part of q.jsonl"


def test_names_of_the_hub_are_linked_and_paths_are_not(tmp_path: Path) -> None:
    data = {"train": ["someone/questions", "q.jsonl"]}
    linked = card(tmp_path, data=data, model={"init": "someone/base"}).data
    assert linked.base_model == "someone/base"
    assert linked.datasets == ["someone/questions"]
    plain = card(tmp_path, data={"train": ["q.jsonl"]}, model={"init": "./base"})
    assert plain.data.base_model is None
    assert plain.data.datasets is None
    assert "| started from | ./base |" in plain.text


def test_no_licence_is_claimed(tmp_path: Path) -> None:
    found = card(tmp_path)
    assert found.data.language == ["fr"]
    assert found.data.license is None
    assert "## Licence\n\nNot stated." in found.text


@pytest.mark.parametrize("row", [None, {**ROW, "exact_match": None, "f1": None}])
def test_what_was_not_measured_is_not_claimed(tmp_path: Path, row: dict[str, Any] | None) -> None:
    found = card(tmp_path, row)
    assert found.data.eval_results is None
    assert ("Not evaluated at this step." in found.text) == (row is None)


def test_a_name_cannot_leave_its_cell(tmp_path: Path) -> None:
    assert "| trained on | a\\|b c.jsonl |" in card(tmp_path, data={"train": ["a|b\nc.jsonl"]}).text


def test_the_best_checkpoint_of_a_run_has_its_scores(tmp_path: Path) -> None:
    from quatrain.train.run import run
    from tiny_run import tiny_run

    result = run(tiny_run(tmp_path), quiet=True)
    best = ModelCard.load(result.run_dir / "checkpoints" / "best" / "README.md")
    assert {one.metric_type for one in best.data.eval_results} == {"exact_match", "f1"}
    assert best.data.model_name == "run"
    assert f"| steps | {result.state.best_step} of 12 |" in best.text
