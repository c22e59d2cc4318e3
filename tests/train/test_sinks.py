"""TensorBoard and Trackio get the rows of metrics.jsonl; a failing sink only gives a warning."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quatrain.train.log import METRICS, Journal, read_rows
from quatrain.train.run import run
from quatrain.train.sinks import scalars_of
from tiny_run import tiny_run

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
ROWS = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.0}]


def test_scores_of_both_kinds_are_numbers_of_their_own() -> None:
    kinds = {k: {"count": 2, "exact_match": 50.0, "f1": 75.0} for k in ("has_answer", "no_answer")}
    row = {"step": 4, "eval_loss": 1.0, "f1": 75.0,
           "abstention": {**kinds, "abstained": 1, "risk_coverage": [[1.0, 0.5]]}}  # fmt: skip
    found = dict(scalars_of(row))
    assert found["eval/no_answer/f1"] == 75.0
    assert found["eval/has_answer/exact_match"] == 50.0
    assert all(isinstance(value, float) for value in found.values())


def read_back(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]}  # fmt: skip


class Recorder:
    """Stands in for trackio: its run records what it is given, or fails."""

    def __init__(self, failing: bool = False) -> None:
        self.failing, self.logged, self.closed = failing, list[Any](), False

    def init(self, **_: Any) -> Recorder:
        print("* greeting")
        return self

    def log(self, scalars: dict[str, float], step: int) -> None:
        if self.failing:
            raise OSError("no space")
        self.logged.append((step, scalars))

    def finish(self) -> None:
        print("* farewell")
        self.closed = True


def test_a_row_becomes_scalars_of_its_kind() -> None:
    row = {"step": 3, "loss": 1.5, "expert_load": {"0": [6, 2, 0, 0]}}
    assert dict(scalars_of(row)) == {"train/loss": 1.5, "train/expert_load/0": 3.0}
    judged = {"step": 3, "eval_loss": 1.0, "f1": None}
    assert dict(scalars_of(judged)) == {"eval/eval_loss": 1.0}


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_what_metrics_hold(tmp_path: Path) -> None:
    run_dir = run(tiny_run(tmp_path, sinks=["tensorboard"]), quiet=True).run_dir
    rows, found = read_rows(run_dir / METRICS), read_back(run_dir)
    for tag in ("train/loss", "train/grad_norm", "eval/eval_loss", "eval/f1"):
        name = tag.split("/")[1]
        kept = [(row["step"], row[name]) for row in rows if name in row]
        assert [step for step, _ in found[tag]] == [step for step, _ in kept]
        assert [v for _, v in found[tag]] == pytest.approx([v for _, v in kept], rel=1e-6)


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_steps_done_again_are_not_in_tensorboard_twice(tmp_path: Path) -> None:
    first = Journal(tmp_path, -1, ["tensorboard"])
    for step in (1, 2, 3):
        first.metrics({"step": step, "loss": float(step)})
    first.sinks.close()
    second = Journal(tmp_path, 1, ["tensorboard"])
    second.metrics({"step": 2, "loss": 20.0})
    second.sinks.close()
    assert read_back(tmp_path)["train/loss"] == [(1, 1.0), (2, 20.0)]


def test_trackio_gets_every_row_and_is_closed_and_what_it_prints_stays_off_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "trackio", recorder)  # type: ignore[arg-type]
    journal = Journal(tmp_path, -1, ["trackio"])
    for row in ROWS:
        journal.metrics(row)
    journal.sinks.close()
    assert recorder.logged == [
        (1, {"train/loss": 2.0}), (2, {"train/loss": 1.5}), (2, {"eval/eval_loss": 1.0}),
    ]  # fmt: skip
    assert recorder.closed
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["* greeting", "* farewell"]


@pytest.mark.parametrize("fault", ["missing", "failing", "broken"])
def test_a_sink_that_does_not_work_is_one_warning_and_metrics_are_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    modules = {"missing": None, "failing": Recorder(failing=True), "broken": SimpleNamespace()}
    monkeypatch.setitem(sys.modules, "trackio", modules[fault])  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        journal = Journal(tmp_path, -1, ["trackio"])
        for row in ROWS:
            journal.metrics(row)
        journal.sinks.close()
    assert caplog.text.count("trackio does not receive metrics") == 1
    assert ("quatrain[log]" in caplog.text) == (fault == "missing")
    assert read_rows(tmp_path / METRICS) == ROWS


def test_sinks_may_change_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny_run(tmp_path, max_steps=2), quiet=True)
    monkeypatch.setitem(sys.modules, "trackio", Recorder())  # type: ignore[arg-type]
    assert run(tiny_run(tmp_path, max_steps=2, sinks=["trackio"]), quiet=True).state.step == 2
