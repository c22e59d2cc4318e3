"""Stopping, damage and resuming."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import quatrain.train.run as run_module
from quatrain.errors import ConfigError, DataError, ResourceError
from quatrain.files import sha256
from quatrain.train.checkpoint import Keeper
from quatrain.train.run import run
from tiny_run import stop_after, timeless_metrics, tiny_run


def weights(run_dir: Path, step: int = 12) -> str:
    return sha256(run_dir / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


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
    assert "an uninterrupted run: num_threads was 1, now it is 2" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_at_the_end_of_the_step(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = run_module.Judge.evaluate

    def signalling(self: Any, step: int) -> Any:
        if step == 4:
            signal.raise_signal(number)
        return evaluate(self, step)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(run_module.Judge, "evaluate", signalling)
    result = run(tiny_run(tmp_path), quiet=True)
    assert result.stopped_by == number
    assert not result.state.finished
    assert (result.run_dir / "checkpoints" / f"step-{result.state.step:06d}").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_said_and_leaves_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    save, before = Keeper.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self: Keeper, model: Any, optimizer: Any, state: Any) -> Path:
        if state.step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return save(self, model, optimizer, state)

    monkeypatch.setattr(Keeper, "save", full)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ResourceError, match=r"step-000006 could not be written .*too large"):
            run(tiny_run(tmp_path), quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-000003", "step-000004", "best"}


def test_changed_data_is_refused_before_anything_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        run(tiny_run(tmp_path), quiet=True)
    questions = tmp_path / "questions.jsonl"
    before = questions.read_text()
    prepared = sha256(tmp_path / "run" / "data" / "train" / "ids.bin")
    questions.write_text(before + before.splitlines()[0].replace("ballon", "wagon") + "\n")
    with pytest.raises(DataError, match="has changed since the run began"):
        run(tiny_run(tmp_path), quiet=True)
    assert sha256(tmp_path / "run" / "data" / "train" / "ids.bin") == prepared
    questions.write_text(before)
    assert run(tiny_run(tmp_path), quiet=True).state.finished


def test_a_first_attempt_that_failed_does_not_bind_the_directory(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    with pytest.raises(DataError, match="would lose part of"):
        run(config.replace(data=config.data.replace(block_size=8)), quiet=True)
    assert run(config, quiet=True).state.finished


def test_damaged_newer_checkpoints_do_not_crowd_out_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = run(tiny_run(tmp_path, save_interval=1, eval_interval=12), quiet=True)
    checkpoints = finished.run_dir / "checkpoints"
    for directory in checkpoints.glob("step-*"):
        (directory / "state.json").write_text("{}")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        run(tiny_run(tmp_path, save_interval=1, eval_interval=12), quiet=True)
    assert {"step-000002", "step-000003"} <= {path.name for path in checkpoints.iterdir()}


def test_a_copy_that_somebody_made_of_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    first = run(tiny_run(tmp_path), quiet=True)
    mine = first.run_dir / "checkpoints" / "step-000012.bak"
    shutil.copytree(first.run_dir / "checkpoints" / "step-000012", mine)
    assert run(tiny_run(tmp_path), quiet=True).state.finished
    assert mine.is_dir()


def test_best_is_a_copy_where_links_are_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    result = run(tiny_run(tmp_path), quiet=True)
    best = result.run_dir / "checkpoints" / "best"
    expected = best.with_name(f"step-{result.state.best_step:06d}")
    assert not best.is_symlink()
    assert sha256(best / "manifest.json") == sha256(expected / "manifest.json")


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"train\.device=cuda"):
        run(tiny_run(tmp_path, device="cuda"), quiet=True)
