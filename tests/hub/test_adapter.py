"""Exported adapters: merged into every format, or copied alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapted import adapted_model
from foreign import multimodal, text_tools
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.open import open_source
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import merge
from tiny import random_ids, tiny_config, tiny_model

IDS = random_ids(2, 40)


def made(directory: Path, **config: Any) -> tuple[Path, LlamaModel]:
    """Write a base with a tokenizer, and an adapter of it with none; return that and its model."""
    base = tiny_model(tiny_config(vocab_size=512, initializer_range=0.1, **config))
    base.save_pretrained(directory / "base")
    text_tools(directory / "base")
    model = adapted_model(base, train_router=bool(base.config.moe_layers))
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")
    return directory / "adapter", model.eval()


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        (Conversion(to="llama4", merge=True), {}),
        (Conversion(to="hf", merge=True, dtype="bf16"), {}),
        (
            Conversion(to="gguf", merge=True, dtype="f32"),
            {"attention_chunk_size": 8192, "floor_scale": 8192},
        ),
        (Conversion(to="llama4", merge=True, experts=2), {"moe_layers": ()}),
    ],
    ids=lambda one: f"{one.to}-{one.dtype}" if isinstance(one, Conversion) else "",
)
def test_a_merged_model_is_the_adapted_one(
    asked: Conversion, config: dict[str, Any], tmp_path: Path
) -> None:
    adapter, model = made(tmp_path, **config)
    done = convert(adapter, tmp_path / "result", asked)
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-3
    assert done.agreement.greedy_tokens_equal == done.agreement.greedy_tokens
    if asked.to == "llama4":
        result = LlamaModel.from_pretrained(tmp_path / "result")
        assert not result.adapters
        with torch.no_grad():
            expected = model(IDS)
            assert (result(IDS) - expected).abs().max() < 1e-5 * float(expected.abs().max())
    card = (tmp_path / "result" / "README.md").read_text()
    assert "attention of rank 3" in card


@pytest.mark.parametrize(
    "config", [{"rope_layers": (1,) * 4, "use_qk_norm": False}, {}], ids=["once dense", "llama 4"]
)
def test_an_adapter_written_here_tells_its_form_whatever_base_it_names(
    config: dict[str, Any], tmp_path: Path
) -> None:
    adapter, model = made(tmp_path, **config)
    fields = json.loads((adapter / "adapter_config.json").read_text())
    fields["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    asked = Conversion(to="llama4", merge=True, base=tmp_path / "base")
    convert(adapter, tmp_path / "result", asked)
    result = LlamaModel.from_pretrained(tmp_path / "result")
    with torch.no_grad():
        expected = model(IDS)
        assert (result(IDS) - expected).abs().max() < 1e-5 * float(expected.abs().max())


def test_merging_on_the_way_out_is_merging_in_memory(tmp_path: Path) -> None:
    adapter, model = made(tmp_path)
    source = open_source(adapter)
    merge(model)
    weights = dict(model.named_parameters())
    assert source.kind == "adapter"
    for name, tensor in source.tensors.items():
        assert torch.equal(tensor.load(), weights[name]), name


def test_an_adapter_of_a_multimodal_base_leaves_with_its_vision_part(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    base = LlamaModel.from_pretrained(tmp_path / "base")
    model = adapted_model(base)
    model.base = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    asked = Conversion(to="hf-multimodal", merge=True, base=tmp_path / "base")
    convert(tmp_path / "adapter", tmp_path / "result", asked)
    result = LlamaModel.from_pretrained(tmp_path / "result")
    with torch.no_grad():
        expected = model(IDS)
        assert (result(IDS) - expected).abs().max() < 1e-5 * float(expected.abs().max())


def test_an_adapter_leaves_alone_as_a_clean_directory(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    (adapter / "optimizer.safetensors").write_bytes(b"moments")
    done = convert(adapter, tmp_path / "copy", Conversion(to="hf"))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference == 0
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_format.json", "chat_template.jinja", "README.md",
        "manifest.json",
    }  # fmt: skip
    one, other = (load_file(d / "adapter_model.safetensors") for d in (adapter, tmp_path / "copy"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "library_name: peft" in (tmp_path / "copy" / "README.md").read_text()


def test_a_copy_may_name_another_place_of_its_base(tmp_path: Path) -> None:
    adapter, model = made(tmp_path)
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"convert ADAPTER NEW --to hf --base BASE"):
        LlamaModel.from_pretrained(adapter)
    convert(adapter, tmp_path / "copy", Conversion(to="hf", base=tmp_path / "moved"))
    fields = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str((tmp_path / "moved").resolve())
    with torch.no_grad():
        assert torch.equal(LlamaModel.from_pretrained(tmp_path / "copy")(IDS), model(IDS))


def test_an_adapter_without_a_tokenizer_is_asked_with_its_bases(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    assert not (adapter / "tokenizer.json").exists()
    assert Answerer(adapter).answer("Où ?", max_new_tokens=2).completion_tokens <= 2


@pytest.mark.parametrize(
    "asked",
    [Conversion(to="llama4"), Conversion(to="gguf", experts=2), Conversion(to="hf", dtype="bf16"),
     Conversion(to="hf", experts=2)],
)  # fmt: skip
def test_an_adapter_that_is_not_merged_is_no_model(asked: Conversion, tmp_path: Path) -> None:
    adapter, _ = made(tmp_path, moe_layers=())
    with pytest.raises(CheckpointError, match=r"is an adapter, not a model.\n.*--merge"):
        convert(adapter, tmp_path / "result", asked)
    assert not (tmp_path / "result").exists()


def test_an_adapter_of_a_merged_adapter_is_refused(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    with pytest.raises(CheckpointError, match=r"\[Q415\].*which is itself an adapter"):
        convert(adapter, tmp_path / "out", Conversion(to="hf", merge=True, base=adapter))
