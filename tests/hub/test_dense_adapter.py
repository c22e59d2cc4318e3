"""Adapters of dense Llamas: whichever form the base has, what PEFT computes, or a refusal."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from adapted import adapted_model
from dense_models import dense
from foreign import silently
from llamacpp import LlamaCpp
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.check import prompts_of
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.open import open_source
from quatrain.model.llama import LlamaModel
from tiny import random_ids

IDS = random_ids(2, 40, vocab_size=500)
LLAMA: dict[str, Any] = dict(hidden_size=64, intermediate_size=96)
TARGETS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "all": {"target_modules": "all-linear"},
    "q and patterns": {
        "target_modules": ["q_proj", "mlp.up_proj"], "rank_pattern": {"mlp.up_proj": 5},
        "alpha_pattern": {"^model.layers.1.mlp.up_proj": 9}, "use_rslora": True,
    },
    "values": {"target_modules": ["v_proj", "o_proj"]},
}  # fmt: skip


def made_by_peft(directory: Path, base: Path, **options: Any) -> torch.Tensor:
    """Write PEFT's adapter of a base; return its logits there."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    config = PeftConfig(r=3, lora_alpha=4, init_lora_weights=False, **options)
    theirs = silently(get_peft_model, model, config).eval()
    theirs.peft_config["default"].base_model_name_or_path = str(base)
    silently(theirs.save_pretrained, directory)
    return logits_of(theirs)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(IDS)
    return out if isinstance(out, torch.Tensor) else out.logits


def peft_logits(base: Path, adapter: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits_of(silently(PeftModel.from_pretrained, model, adapter).eval())


def renamed_base(adapter: Path, name: str) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bases")
    dense(directory / "dense", **LLAMA)
    convert(directory / "dense", directory / "four", Conversion(to="llama4", check=False))
    return directory


@pytest.fixture
def bases(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A dense base, and the Llama 4 that it becomes."""
    for name in ("dense", "four"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path / "dense", tmp_path / "four"


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare sums in another order: float32 leaves 1e-4 of logits of some tens."""
    return float((one - other).abs().max()) < 1e-4 * float(other.abs().max())


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("which", [None, "dense", "four"])
@pytest.mark.parametrize("to", ["llama4", "hf"])
def test_an_adapter_of_the_dense_model_merges_into_either_form(
    targets: str, which: str | None, to: Any, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS[targets])
    base = tmp_path / which if which else None
    asked = Conversion(to=to, merge=True, base=base, check=to == "llama4")
    convert(tmp_path / "adapter", tmp_path / "out", asked)
    result = (LlamaModel if to == "llama4" else LlamaForCausalLM).from_pretrained(tmp_path / "out")
    assert near(logits_of(result.eval()), expected)


@pytest.mark.parametrize("which", ["dense", "four"])
@pytest.mark.parametrize("lora", [{}, {"targets": "attention"}], ids=str)
def test_an_adapter_trained_here_merges_into_either_form(
    lora: dict[str, Any], which: str, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    model = adapted_model(LlamaModel.from_pretrained(bases[1]), **lora).eval()
    model.base = str(bases[1])
    model.save_pretrained(tmp_path / "adapter")
    shutil.move(bases[1], tmp_path / "moved")  # the directory that it names is no longer there
    base = tmp_path / ("moved" if which == "four" else "dense")
    convert(tmp_path / "adapter", tmp_path / "out", Conversion(to="hf", merge=True, base=base))
    result = LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert near(logits_of(result), logits_of(model))


@pytest.mark.parametrize("targets", ["attention", "all", "q and patterns"])
def test_an_adapter_of_the_dense_model_is_copied_for_either_form(
    targets: str, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS[targets])
    convert(tmp_path / "adapter", tmp_path / "same", Conversion(to="hf"))
    assert near(peft_logits(bases[0], tmp_path / "same"), expected)
    convert(tmp_path / "adapter", tmp_path / "for-four", Conversion(to="hf", base=bases[1]))
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "for-four")), expected)
    assert near(peft_logits(bases[1], tmp_path / "for-four"), expected)
    asked = Conversion(to="hf", base=bases[0])
    convert(tmp_path / "for-four", tmp_path / "for-dense", asked)
    assert near(peft_logits(bases[0], tmp_path / "for-dense"), expected)


def test_an_adapter_of_the_dense_model_leaves_as_gguf(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    """llama.cpp's log-probabilities are PEFT's, whichever form the base's file was made of."""
    made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["attention"])
    model = AutoModelForCausalLM.from_pretrained(bases[0], dtype=torch.float32)
    theirs = silently(PeftModel.from_pretrained, model, tmp_path / "adapter").eval()
    for base in bases:
        convert(base, tmp_path / f"{base.name}-gguf", Conversion(to="gguf", dtype="f32"))
        out = tmp_path / f"adapter-{base.name}"
        convert(tmp_path / "adapter", out, Conversion(to="gguf", base=base))
        file = tmp_path / f"{base.name}-gguf" / "model-f32.gguf"
        llama, compared = LlamaCpp(file, adapter=out / "adapter-f32.gguf", context=256), 0
        for prompt in prompts_of(open_source(base)):
            said = llama.next_token(prompt, top=5)
            with torch.no_grad():
                ours = theirs(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            for one in said["top_logprobs"] if said else []:
                compared += 1
                assert abs(one["logprob"] - float(ours[one["id"]])) <= 0.002
        assert compared >= 5


def test_a_gguf_file_of_the_dense_model_takes_its_adapter(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["attention"])
    convert(bases[0], tmp_path / "gguf", Conversion(to="gguf", dtype="f32"))
    file = tmp_path / "gguf" / "model-f32.gguf"
    asked = Conversion(to="hf", merge=True, base=file)
    convert(tmp_path / "adapter", tmp_path / "out", asked)
    assert near(logits_of(LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()), expected)
    with pytest.raises(CheckpointError, match=r"(?s)\[Q411\].*is a GGUF file.*--base"):
        convert(tmp_path / "adapter", tmp_path / "alone", Conversion(to="hf", base=file))


def test_a_model_with_an_adapter_of_the_dense_model_is_not_asked_before_it_is_merged(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["attention"])
    with pytest.raises(CheckpointError, match=r"(?s)\[Q415\].*dense.*convert .* --merge"):
        Answerer(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["someone/a-model-that-is-not-here", "/nowhere"])
def test_an_adapter_that_could_be_of_either_form_is_refused(
    name: str, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["attention"])
    renamed_base(tmp_path / "adapter", name)
    for to, merge in (("hf", True), ("hf", False), ("gguf", False), ("llama4", True)):
        asked = Conversion(to=to, merge=merge, base=bases[1])  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=r"(?s)\[Q415\].*rows of q and k.*--base"):
            convert(tmp_path / "adapter", tmp_path / "out", asked)
    asked = Conversion(to="llama4", merge=True, base=bases[0])
    convert(tmp_path / "adapter", tmp_path / "out", asked)  # given a dense base, it is of that
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "out")), expected)


def test_an_adapter_that_names_no_row_of_q_and_k_is_of_both_forms(
    bases: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["values"])
    renamed_base(tmp_path / "adapter", "someone/a-model-that-is-not-here")
    with caplog.at_level(logging.WARNING):
        asked = Conversion(to="llama4", merge=True, base=bases[1])
        convert(tmp_path / "adapter", tmp_path / "out", asked)
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "out")), expected)
    assert caplog.text == ""


def test_the_names_of_its_tensors_tell_the_form(bases: tuple[Path, Path], tmp_path: Path) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["all"])
    renamed_base(tmp_path / "adapter", "someone/a-model-that-is-not-here")
    asked = Conversion(to="llama4", merge=True, base=bases[1])
    convert(tmp_path / "adapter", tmp_path / "out", asked)
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "out")), expected)


def test_an_adapter_that_peft_trained_on_the_llama_4_form_opens(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[1], **TARGETS["attention"])
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "adapter")), expected)
    asked = Conversion(to="hf", merge=True, base=bases[0])
    convert(tmp_path / "adapter", tmp_path / "out", asked)
    assert near(logits_of(LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()), expected)


def test_a_written_adapter_says_its_form_where_peft_does_not_look(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[0], **TARGETS["attention"])
    convert(tmp_path / "adapter", tmp_path / "copy", Conversion(to="hf", base=bases[1]))
    shutil.move(bases[1], tmp_path / "moved")
    merge = Conversion(to="hf", merge=True, base=bases[0])
    convert(tmp_path / "copy", tmp_path / "out", merge)
    assert near(logits_of(LlamaForCausalLM.from_pretrained(tmp_path / "out").eval()), expected)
    path = tmp_path / "copy" / "adapter_model.safetensors"
    save_file(load_file(path), path)  # without what it says of its form
    (tmp_path / "copy" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="rows of q and k"):
        convert(tmp_path / "copy", tmp_path / "other", Conversion(to="hf", base=tmp_path / "moved"))


@pytest.mark.parametrize("kind", ["biases", "qwen2", "smollm3"])
@pytest.mark.parametrize("targets", ["attention", "all"])
def test_an_adapter_of_each_kind_serves_both_forms(kind: str, targets: str, tmp_path: Path) -> None:
    """Also where some layers have no RoPE, whose rows of q and k keep their places."""
    dense_form, four = tmp_path / "dense", tmp_path / "four"
    dense(dense_form, kind)
    convert(dense_form, four, Conversion(to="llama4", check=False))
    expected = made_by_peft(tmp_path / "adapter", dense_form, **TARGETS[targets])
    for to, base in (("llama4", four), ("hf", None)):
        merge = Conversion(to=to, merge=True, base=base)  # type: ignore[arg-type]
        convert(tmp_path / "adapter", tmp_path / to, merge)
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "llama4")), expected)
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert near(logits_of(result), expected)
    convert(tmp_path / "adapter", tmp_path / "for-four", Conversion(to="hf", base=four))
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "for-four")), expected)
    asked = Conversion(to="hf", base=dense_form)
    convert(tmp_path / "for-four", tmp_path / "for-dense", asked)
    assert near(peft_logits(dense_form, tmp_path / "for-dense"), expected)


def test_an_adapter_that_could_be_of_either_form_is_refused_without_rope_everywhere_too(
    tmp_path: Path,
) -> None:
    dense(tmp_path / "dense", "smollm3")
    convert(tmp_path / "dense", tmp_path / "four", Conversion(to="llama4", check=False))
    made_by_peft(tmp_path / "adapter", tmp_path / "dense", **TARGETS["attention"])
    renamed_base(tmp_path / "adapter", "someone/a-model-that-is-not-here")
    asked = Conversion(to="llama4", merge=True, base=tmp_path / "four")
    with pytest.raises(CheckpointError, match=r"(?s)\[Q415\].*rows of q and k.*--base"):
        convert(tmp_path / "adapter", tmp_path / "out", asked)
