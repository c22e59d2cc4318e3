"""Stopping, damage and going on."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import quatrain.train.run as run_module
from quatrain.errors import ConfigError, ResourceError
from quatrain.files import sha256
from quatrain.train.checkpoint import Keeper
from quatrain.train.loop import Around
from quatrain.train.run import run
from tiny_run import timeless_metrics, tiny_run


def weights(run_dir: Path, step: int = 12) -> str:
    return sha256(run_dir / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the run to stop once a step is done, as a signal would."""
    original = run_module.Around

    def around(evaluate: Any, keeper: Any, journal: Any, display: Any, _: Any) -> Around:
        seen = {"step": 0}
        shown = display.trained
        display.trained = lambda row: (seen.update(step=row["step"]), shown(row))
        return original(evaluate, keeper, journal, display, lambda: seen["step"] >= step)

    monkeypatch.setattr(run_module, "Around", around)


def test_a_run_stopped_twice_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(tiny_run(tmp_path, "calm"), quiet=True)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            assert run(tiny_run(tmp_path, "stopped"), quiet=True).state.step == step
    stopped = run(tiny_run(tmp_path, "stopped"), quiet=True)
    assert weights(stopped.run_dir) == weights(calm.run_dir)
    assert timeless_metrics(stopped.run_dir) == timeless_metrics(calm.run_dir)


def test_a_finished_run_does_nothing_when_run_again(tmp_path: Path) -> None:
    first = run(tiny_run(tmp_path), quiet=True)
    before = weights(first.run_dir)
    again = run(tiny_run(tmp_path), quiet=True)
    assert again.state == first.state
    assert again.last_evaluation is None
    assert weights(first.run_dir) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_skipped_and_said(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(tiny_run(tmp_path), quiet=True)
    expected = weights(first.run_dir)
    victim = first.run_dir / "checkpoints" / "step-000012" / "optimizer.safetensors"
    content = bytearray(victim.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "delete":
        victim.unlink()
    else:
        victim.write_bytes(content[: -9 if damage == "truncate" else None])
    with caplog.at_level(logging.WARNING):
        again = run(tiny_run(tmp_path), quiet=True)
    assert "step-000012 is damaged (optimizer.safetensors" in caplog.text
    assert again.state.step == 12
    assert weights(again.run_dir) == expected


def test_another_recipe_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    run(tiny_run(tmp_path), quiet=True)
    with pytest.raises(ConfigError, match=r"train\.learning_rate: 0\.003 -> 0\.1"):
        run(tiny_run(tmp_path, learning_rate=0.1), quiet=True)


def test_a_second_run_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / "run.lock"),
        pytest.raises(ConfigError, match="another process is training"),
    ):
        run(tiny_run(tmp_path), quiet=True)


def test_another_number_of_threads_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        run(tiny_run(tmp_path, threads=1), quiet=True)
    with caplog.at_level(logging.WARNING):
        run(tiny_run(tmp_path, threads=2), quiet=True)
    assert "not bit-identical to an uninterrupted run: num_threads was 1, is 2" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_end_of_the_step(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = run_module.Judge.evaluate

    def signalling(self: Any, step: int, journal: Any = None) -> Any:
        if step == 4:
            signal.raise_signal(number)
        return evaluate(self, step, journal)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(run_module.Judge, "evaluate", signalling)
    result = run(tiny_run(tmp_path), quiet=True)
    assert result.stopped_by == number
    assert not result.state.finished
    assert (result.run_dir / "checkpoints" / f"step-{result.state.step:06d}").is_dir()


def test_a_full_disk_is_said_and_leaves_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Keeper.save

    def full(self: Keeper, model: Any, optimizer: Any, state: Any) -> Path:
        if state.step == 6:
            self.extras = lambda directory: (_ for _ in ()).throw(OSError(28, "No space left"))
        return save(self, model, optimizer, state)

    monkeypatch.setattr(Keeper, "save", full)
    with pytest.raises(ResourceError, match=r"step-000006 could not be written .*No space left"):
        run(tiny_run(tmp_path), quiet=True)
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-000003", "step-000004", "best"}
