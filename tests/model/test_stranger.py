"""A path that is not a model is named for what it is, with the command that makes it one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from quatrain.errors import CheckpointError
from quatrain.model.hf_config import read_config
from quatrain.model.locate import locate


def lay(*names: str) -> Callable[[Path], None]:
    """Make files of these names."""

    def make(directory: Path) -> None:
        for name in names:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"GGUF" if path.suffix == ".gguf" else b"{}")

    return make


STRANGERS: list[tuple[Callable[[Path], None], str, str, str]] = [
    (lay("out/m.gguf", "out/Modelfile"), "out", "holds the GGUF file",
     "Give the file: {at}/out/m.gguf."),
    (lay("two words/m.gguf", "two words/mmproj-m.gguf"), "two words", "holds the GGUF file m.gguf",
     "Give the file: '{at}/two words/m.gguf'."),
    (lay("model.safetensors"), "model.safetensors", "holds only weights", "config.json"),
    (lay("m/config.json", "m/model-00001-of-00002.safetensors"),
     "m/model-00001-of-00002.safetensors", "one file of a model", "Give the directory: {at}/m."),
    (lay("m/config.json"), "m/config.json", "one file of a model", "Give the directory: {at}/m."),
    (lay("a/adapter_config.json", "a/adapter_model.safetensors"), "a/adapter_model.safetensors",
     "one file of a model", "Give the directory: {at}/a."),
    (lay("m/config.json", "m/model.safetensors", "m/pytorch_model.bin"), "m/pytorch_model.bin",
     "one file of a model", "Give the directory: {at}/m."),
    *[(lay(name), name, "can run code", "safetensors")
      for name in ("pytorch_model.bin", "m.pt", "m.pth", "m.ckpt", "m.pkl")],
    (lay("meta/consolidated.00.pth", "meta/params.json"), "meta", "can run code", "safetensors"),
    (lay("m.zip"), "m.zip", "compressed", "Unpack"),
    (lay("m.tar.gz"), "m.tar.gz", "compressed", "Unpack"),
    (lay("q.jsonl"), "q.jsonl", "is a file", "a directory"),
    (lay("t/tokenizer.json", "t/tokenizer_config.json"), "t", "a tokenizer but no weights",
     "tokenizer.path={at}/t"),
    (lay("t/tokenizer.model"), "t", "a tokenizer but no weights", "tokenizer.path={at}/t"),
    (lay("w/model.safetensors", "w/tokenizer.json"), "w", "but no config.json", "Download"),
    (lay("w/adapter_model.safetensors"), "w", "but no adapter_config.json", "Download"),
    (lay("runs/one/config.json", "runs/two/checkpoints/best/config.json"), "runs",
     "not a model directory, but it contains some", "{at}/runs/one or {at}/runs/two"),
    (lay("models--o--n/snapshots/abc/config.json"), "models--o--n",
     "not a model directory, but it contains some", "{at}/models--o--n/snapshots/abc"),
    (lay("runs/mine/config.json"), "runs/mime", "does not exist", "{at}/runs/mine"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "what", "remedy"), STRANGERS)
def test_what_is_no_model_is_told_for_what_it_is(
    make: Callable[[Path], None], name: str, what: str, remedy: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(CheckpointError, match=what) as caught:
        locate(tmp_path / name)
    assert caught.value.code == "Q401"
    assert remedy.format(at=tmp_path) in str(caught.value)


def test_a_gguf_file_and_a_pickle_are_known_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "sha256-0f").write_bytes(b"GGUF\x03\0\0\0")
    assert locate(tmp_path / "sha256-0f") == tmp_path / "sha256-0f"
    (tmp_path / "weights").write_bytes(b"\x80\x02}q\0.")
    with pytest.raises(CheckpointError, match="can run code"):
        locate(tmp_path / "weights")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_dense_directory_is_told_with_its_command(kind: str, tmp_path: Path) -> None:
    for place, source, made in (
        ("My SmolLM", "'{}/My SmolLM'", "'My SmolLM-llama4'"),
        ("models--org--Small/snapshots/0f0f", "org/Small", "Small-llama4"),
    ):
        directory = tmp_path / place
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(CheckpointError, match=rf"Q410.*model_type '{kind}'") as caught:
            read_config(directory)
        command = f"quatrain convert {source.format(tmp_path)} {made} --to llama4"
        assert command in caught.value.remedy


@pytest.mark.parametrize(
    "name",
    ["https://huggingface.co/org/name", "huggingface.co/org/name/tree/main", "hf.co/org/name",
     "hf://org/name", "hf:org/name", "https://hf.co/org/name/blob/main/model.safetensors"],
)  # fmt: skip
def test_an_address_of_the_hub_is_told_as_its_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"is a URL") as caught:
        locate(name)
    assert "Use org/name" in caught.value.remedy


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (lambda: RepositoryNotFoundError("no", response=MagicMock()), "no model org/Smalll",
         "Check the name"),
        (lambda: GatedRepoError("no", response=MagicMock()), "licence",
         "https://huggingface.co/org/Smalll"),
        (lambda: LocalEntryNotFoundError("first\nsecond"), "did not deliver it: first ", "network"),
        (lambda: HFValidationError("bad name"), "did not deliver it: bad name ", "Check the name"),
    ],
)  # fmt: skip
def test_a_name_that_the_hub_does_not_give_is_told_with_the_near_ones(
    error: Callable[[], Exception], what: str, remedy: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: object, **__: object) -> Any:
        raise error()

    (tmp_path / "models--org--Small").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(CheckpointError) as caught:
        locate("org/Smalll")
    assert what in caught.value.message
    assert remedy in caught.value.remedy
    near = "Did you mean 'org/Small'?" in caught.value.message
    assert near is not isinstance(error(), GatedRepoError)


def test_a_repository_without_weights_that_are_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"org/Small-GGUF on the Hub has neither config"):
        locate("org/Small-GGUF")
