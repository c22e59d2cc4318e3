"""Llama 4 directories in and out, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Llama4ForConditionalGeneration

from foreign import SHAPES, multimodal, silently
from quatrain.errors import CheckpointError
from quatrain.hub.convert import Conversion, convert
from quatrain.model.llama import LlamaModel
from tiny import random_ids

IDS = random_ids(2, 70, vocab_size=500)
"""Longer than two chunks of 32."""


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def text_logits(model: Llama4ForConditionalGeneration) -> torch.Tensor:
    """Ask its language model: with text alone, transformers 5.24 fails in the whole one."""
    logits: torch.Tensor = model.language_model(input_ids=IDS, use_cache=False).logits
    return logits


@pytest.mark.parametrize("old_spelling", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_multimodal_directory_is_read_and_written_back(
    shape: str, old_spelling: bool, tmp_path: Path
) -> None:
    base, result = tmp_path / "base", tmp_path / "result"
    oracle = multimodal(base, shape, old_spelling)
    with torch.no_grad():
        expected = text_logits(oracle)
        ours = LlamaModel.from_pretrained(base)(IDS)
    assert float((ours - expected).abs().max()) < 1e-4

    done = convert(base, result, Conversion(to="hf-multimodal", shard_bytes=40_000))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference == 0
    before, after = tensors_of(base), tensors_of(result)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    back, info = silently(
        Llama4ForConditionalGeneration.from_pretrained, result, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        again = text_logits(back)
    assert float((again - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_the_text_part_alone_is_a_model_of_its_own(shape: str, tmp_path: Path) -> None:
    base, result = tmp_path / "base", tmp_path / "result"
    oracle = multimodal(base, shape)
    convert(base, result, Conversion(to="llama4"))
    back, info = silently(AutoModelForCausalLM.from_pretrained, result, output_loading_info=True)
    assert type(back).__name__ == "Llama4ForCausalLM"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        expected = text_logits(oracle)
        assert float((back(input_ids=IDS, use_cache=False).logits - expected).abs().max()) < 1e-4


def test_every_stop_id_is_named(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    convert(tmp_path / "base", tmp_path / "result", Conversion(to="hf"))
    fields = json.loads((tmp_path / "result" / "generation_config.json").read_text())
    vocabulary = json.loads((tmp_path / "result" / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    stops = [ids[name] for name in ("<|end_of_text|>", "<|eom|>", "<|eot|>")]
    assert sorted(fields["eos_token_id"]) == sorted(stops)


def test_weights_are_rounded_as_asked(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    done = convert(tmp_path / "base", tmp_path / "bf16", Conversion(to="hf", dtype="bf16"))
    assert done.dtype == "bf16"
    read = tensors_of(tmp_path / "bf16")
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_card_tells_what_was_checked(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "maverick")
    convert(tmp_path / "base", tmp_path / "checked", Conversion(to="hf"))
    convert(tmp_path / "base", tmp_path / "unchecked", Conversion(to="hf", check=False))
    card = (tmp_path / "checked" / "README.md").read_text()
    assert card.startswith("---\nlanguage:")
    assert "# checked\n" in card
    assert "256 of 256 greedy tokens are equal" in card
    assert "**Not checked**" in (tmp_path / "unchecked" / "README.md").read_text()


def test_a_result_that_is_another_function_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    multimodal(tmp_path / "base", "scout")
    import quatrain.hub.convert as module

    write = module.write_text_only

    def wrong(source: Any, directory: Path, shard_bytes: int, *more: Any) -> None:
        name = "model.layers.0.self_attn.q_proj.weight"
        broken = {**source.tensors, name: source.tensors[name].map(lambda x: -x)}
        write(source.replace(tensors=broken), directory, shard_bytes, *more)

    monkeypatch.setattr(module, "write_text_only", wrong)
    with pytest.raises(CheckpointError, match="differs from the source") as raised:
        convert(tmp_path / "base", tmp_path / "result", Conversion(to="hf"))
    assert raised.value.code == "Q412"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_directory_in_use_is_replaced_only_when_asked(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="already exists") as raised:
        convert(tmp_path / "base", tmp_path / "mine", Conversion(to="hf"))
    assert raised.value.code == "Q413"
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    convert(tmp_path / "base", tmp_path / "mine", Conversion(to="hf", force=True, check=False))
    assert not (tmp_path / "mine" / "thesis.txt").exists()


def test_replacing_never_deletes_what_is_being_read(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    before = tensors_of(tmp_path / "base")
    for result in (tmp_path / "base", tmp_path):
        with pytest.raises(
            CheckpointError, match="contains the source of the conversion"
        ) as raised:
            convert(tmp_path / "base", result, Conversion(to="hf", force=True))
        assert raised.value.code == "Q413"
    assert tensors_of(tmp_path / "base").keys() == before.keys()


def test_a_dtype_without_a_name_is_refused(tmp_path: Path) -> None:
    oracle = multimodal(tmp_path / "base", "scout")
    oracle.double().save_pretrained(tmp_path / "base")
    with pytest.raises(
        CheckpointError, match=r"float64, which cannot be written.\nhelp: Use --dtype f32"
    ):
        convert(tmp_path / "base", tmp_path / "result", Conversion(to="hf", check=False))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Conversion(to="hf", dtype="q8_0"), "q8_0 is a format of GGUF"),
        (Conversion(to="hf", base=Path("x")), "--base names a vision part"),
        (Conversion(to="hf", merge=True), "is not an adapter, so there is nothing to merge"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: Conversion, said: str, tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    with pytest.raises(CheckpointError, match=said):
        convert(tmp_path / "base", tmp_path / "result", asked)


def test_a_base_without_vision_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    multimodal(tmp_path / "scout", "scout")
    multimodal(tmp_path / "maverick", "maverick")
    convert(tmp_path / "scout", tmp_path / "text", Conversion(to="hf", check=False))
    with pytest.raises(CheckpointError, match="has no vision part"):
        convert(tmp_path / "text", tmp_path / "a", Conversion(to="hf-multimodal"))
    other = Conversion(to="hf-multimodal", base=tmp_path / "maverick")
    with pytest.raises(CheckpointError, match=r"tensors|shape"):
        convert(tmp_path / "text", tmp_path / "b", other)
