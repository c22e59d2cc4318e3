"""A Git LFS pointer in place of a file is reported as one, once, and misfits are reported first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from adapted import adapted_model
from foreign import reshard, text_tools
from gguf_files import DENSE_MODEL, source_of
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer, seal
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.gguf_write import write_gguf
from quatrain.text.tokenizer import Tokenizer, train_bpe
from tiny import tiny_config, tiny_model

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
SAID = (
    r"^\[Q401\] (.*/)?{} is a Git LFS pointer\. The file itself has not been downloaded\."
    r"\nhelp: .*git lfs pull"
)


def model(directory: Path) -> Path:
    tiny_model(tiny_config(vocab_size=512)).save_pretrained(directory)
    text_tools(directory)
    return directory


def refused(name: str, act: Callable[[], Any]) -> None:
    with pytest.raises(CheckpointError, match=SAID.format(name)) as raised:
        act()
    assert str(raised.value).count("[Q") == 1


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
     "chat_format.json"],
)  # fmt: skip
def test_a_pointer_in_a_model_directory_is_called_one(name: str, tmp_path: Path) -> None:
    model(tmp_path / "model")
    (tmp_path / "model" / name).write_text(POINTER)
    refused(name, lambda: Answerer(tmp_path / "model"))
    refused(name, lambda: convert(tmp_path / "model", tmp_path / "out", Conversion(to="hf")))


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.json", "model-00002-of-00005.safetensors"]
)
def test_a_pointer_among_shards_is_called_one(name: str, tmp_path: Path) -> None:
    model(tmp_path / "model")
    reshard(tmp_path / "model", into=5)
    (tmp_path / "model" / name).write_text(POINTER)
    refused(name, lambda: Answerer(tmp_path / "model"))


def test_a_pointer_in_a_sealed_directory_is_called_one(tmp_path: Path) -> None:
    seal(model(tmp_path / "model"), {})
    (tmp_path / "model" / "model.safetensors").write_text(POINTER)
    refused("model.safetensors", lambda: Answerer(tmp_path / "model"))


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "base/config.json"]
)
def test_a_pointer_in_an_adapter_is_called_one(name: str, tmp_path: Path) -> None:
    model(tmp_path / "base")
    adapter = adapted_model(tiny_model(tiny_config(vocab_size=512)))
    adapter.base = str(tmp_path / "base")
    adapter.save_pretrained(tmp_path / "adapter")
    directory = tmp_path if "/" in name else tmp_path / "adapter"
    (directory / name).write_text(POINTER)
    refused(name, lambda: Answerer(tmp_path / "adapter"))


def test_pointers_for_a_tokenizer_model_and_a_gguf_file_are_called_so(tmp_path: Path) -> None:
    for name in ("tokenizer.model", "m.gguf"):
        (tmp_path / name).write_text(POINTER)
    refused("tokenizer.model", lambda: Tokenizer.load(tmp_path))
    asked = Conversion(to="hf")
    refused("m.gguf", lambda: convert(tmp_path / "m.gguf", tmp_path / "out", asked))


def test_what_only_mentions_git_lfs_is_no_pointer(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("", "version", f" {POINTER}", POINTER + "x" * 4096):
        path.write_text(text)
        assert not is_lfs_pointer(path)
    assert not is_lfs_pointer(tmp_path)
    assert not is_lfs_pointer(tmp_path / "absent")


def test_a_pickle_that_is_a_pointer_beside_good_weights_is_no_matter(tmp_path: Path) -> None:
    (model(tmp_path) / "pytorch_model.bin").write_text(POINTER)
    Answerer(tmp_path)


def larger(directory: Path) -> None:
    """Put a tokenizer of 600 tokens into a directory whose model has 512 rows."""
    train_bpe(pretraining_text(count=300), vocab_size=600).save(directory)


@pytest.mark.parametrize("to", ["hf", "llama4", "gguf"])
@pytest.mark.parametrize("kind", ["dense", "llama4"])
@pytest.mark.parametrize("check", [True, False])
def test_a_tokenizer_larger_than_the_embedding_is_refused_before_writing(
    to: Any, kind: str, check: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    if kind == "dense":
        LlamaForCausalLM(LlamaConfig(
            vocab_size=512, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=4)).save_pretrained(directory)  # fmt: skip
        text_tools(directory)
    else:
        model(directory)
    larger(directory)
    monkeypatch.setattr("quatrain.hub.convert._write", lambda *_: pytest.fail("written"))
    with pytest.raises(CheckpointError, match=r"\[Q404\] .*/model.*tokenizer.*600.*512") as raised:
        convert(directory, tmp_path / "out", Conversion(to=to, check=check))
    assert "tmp-" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_with_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    source = source_of(DENSE_MODEL, train_bpe(pretraining_text(count=300), vocab_size=512))
    rows = source.tensors["model.embed_tokens.weight"].map(lambda x: x[:400])
    source = source.replace(tensors=source.tensors | {"model.embed_tokens.weight": rows})
    write_gguf(source, tmp_path / "m.gguf", "f32")
    with pytest.raises(CheckpointError, match=r"\[Q404\] .*has shape \[400, 64\].*\[512, 64\]"):
        convert(tmp_path / "m.gguf", tmp_path / "out", Conversion(to="hf", check=False))


@pytest.mark.parametrize("change", [{"length": 2**63}, {"length": 10**6}])
def test_a_refusal_holds_one_code(change: dict[str, int], tmp_path: Path) -> None:
    model(tmp_path)
    header = json.dumps({}).encode()
    (tmp_path / "model.safetensors").write_bytes(change["length"].to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError) as raised:
        Answerer(tmp_path)
    assert str(raised.value).count("[Q") == 1
    assert "header" in str(raised.value)
