"""MODEL to a directory: the best checkpoint, else the newest; never a damaged one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quatrain.errors import CheckpointError
from quatrain.files import new_directory
from quatrain.model.locate import learnt_single_questions, locate


def checkpoint(run_dir: Path, name: str) -> Path:
    """Write a sealed directory that looks like a model's."""
    directory = run_dir / "checkpoints" / name
    with new_directory(directory, {}) as temporary:
        (temporary / "config.json").write_text("{}")
        (temporary / "model.safetensors").write_bytes(bytes(range(64)))
    return directory


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def test_a_run_means_its_best_checkpoint(tmp_path: Path) -> None:
    best = checkpoint(tmp_path, "best")
    checkpoint(tmp_path, "step-000009")
    assert locate(tmp_path) == best


def test_a_model_directory_means_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # no manifest: nothing to compare with
    assert locate(str(tmp_path)) == tmp_path
    named = checkpoint(tmp_path, "step-000009")
    assert locate(named) == named


def test_before_its_first_evaluation_a_run_means_its_newest_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("step-000009", "step-1000000", "step-000100", "step-000011.old"):
        checkpoint(tmp_path, name)
    (tmp_path / "checkpoints" / "step-2000000").mkdir()  # not a model
    with caplog.at_level(logging.WARNING):
        assert locate(tmp_path).name == "step-1000000"
    assert "has not been evaluated yet; using its checkpoint step-1000000" in caplog.text


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_a_flipped_bit_is_refused(file: str, tmp_path: Path) -> None:
    best = checkpoint(tmp_path, "best")
    assert locate(tmp_path) == best
    flip_a_bit(best / file)
    for model in (tmp_path, best):
        with pytest.raises(CheckpointError, match=rf"Q402.*best is damaged: {file}") as caught:
            locate(model)
        assert "resume from the latest intact checkpoint" in caught.value.remedy


def test_a_damaged_newest_checkpoint_is_refused_too(tmp_path: Path) -> None:
    checkpoint(tmp_path, "step-000001")
    flip_a_bit(checkpoint(tmp_path, "step-000002") / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"step-000002 is damaged: model\.safetensors"):
        locate(tmp_path)


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a model directory"):
        locate(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        locate(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("train", "single"),
    [
        ('{"conversations": 9, "several_turns": 0}', True),
        ('{"conversations": 9, "several_turns": 1}', False),
        ('{"conversations": 0, "several_turns": 0}', False),
        ('{"conversations": 9}', False),
        ("3", False),
        ("{", False),
    ],
)
def test_a_run_says_whether_it_taught_single_questions(
    tmp_path: Path, train: str, single: bool
) -> None:
    best, other = checkpoint(tmp_path / "run", "best"), checkpoint(tmp_path / "base", "best")
    (tmp_path / "run" / "data").mkdir()
    (tmp_path / "run" / "data" / "report.json").write_text(f'{{"train": {train}}}')
    assert learnt_single_questions(best) is single
    assert not learnt_single_questions(other)
