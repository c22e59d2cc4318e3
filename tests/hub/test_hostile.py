"""Whoever opens a hostile directory gets a code, and nothing in it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foreign import text_tools
from hostile import HARMFUL
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.open import open_source
from tiny import tiny_config, tiny_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound") / "model"
    tiny_model(tiny_config(vocab_size=512)).save_pretrained(directory)
    text_tools(directory)
    return directory


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(HARMFUL) >= 60


def test_the_sound_directory_opens(sound: Path) -> None:
    assert Answerer(sound).answer("Où ?", max_new_tokens=2).completion_tokens <= 2
    assert open_source(sound).kind == "llama4"


@pytest.mark.parametrize("name", HARMFUL)
def test_it_is_refused(name: str, sound: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(sound, directory)
    HARMFUL[name](directory)
    with pytest.raises(CheckpointError) as raised:
        Answerer(directory)
    assert raised.value.code.startswith("Q4")
    assert not (directory / "executed").exists()
