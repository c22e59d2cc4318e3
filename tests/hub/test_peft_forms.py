"""Adapters in all the forms that PEFT writes give PEFT's logits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dense_models import dense, logits_of
from foreign import silently
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.model.llama import LlamaModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}"
    r"\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj"
    r"|gate_proj|up_proj|down_proj)))"
)
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FORMS: dict[str, dict[str, Any]] = {
    "pattern": {"target_modules": UNSLOTH},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {
        "target_modules": EVERY, "exclude_modules": ["k_proj", "layers.1.self_attn.q_proj"],
    },
    "excluded by a pattern": {"target_modules": "all-linear", "exclude_modules": r".*\.1\..*"},
    "some layers": {"target_modules": EVERY, "layers_to_transform": [0, 2],
                    "layers_pattern": "layers"},
    "one layer": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
    "patterns": {
        "target_modules": EVERY, "rank_pattern": {r".*\.1\..*q_proj": 5, "up_proj": 2},
        "alpha_pattern": {r"model\.layers\.(0|2)\.self_attn\.[kq]_proj": 9, "^model.layers.1.*": 7},
    },
    "rank-stabilised": {"target_modules": EVERY, "use_rslora": True, "rank_pattern": {"q_proj": 5}},
    "whole head": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole head and embeddings": {
        "target_modules": EVERY, "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "whole norms and a projection": {
        "target_modules": ["v_proj"], "modules_to_save": ["input_layernorm", "norm", "k_proj"],
    },
    "head": {"target_modules": ["q_proj", "lm_head"], "rank_pattern": {"lm_head": 5}},
    "embeddings": {"target_modules": ["k_proj", "embed_tokens"], "alpha_pattern": {"embed.*": 9}},
    "head and embeddings": {"target_modules": [*EVERY, "lm_head", "embed_tokens"]},
    "all biases": {"target_modules": ["q_proj", "o_proj"], "bias": "all"},
    "adapted biases": {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"},
}  # fmt: skip
BASES = ("llama3", "smollm", "biases", "qwen2_tied", "smollm3_other")
"""With a head and without, with biases, and without RoPE on every layer."""
OF_THESE: dict[str, list[str]] = {
    "llama3": list(FORMS),
    "smollm": [form for form in FORMS if re.search("head|embeddings", form)],
    "biases": ["all biases", "adapted biases", "whole norms and a projection"],
    "qwen2_tied": ["all biases", "whole head", "embeddings"],
    "smollm3_other": ["pattern", "adapted biases", "whole norms and a projection"],
}
CASES = [(form, kind) for kind, forms in OF_THESE.items() for form in forms]
RUNS_BESIDE = {name for name in FORMS if not re.search("whole|head|embeddings|biases", name)}
Made = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Of each kind a dense directory and the Llama 4 that it becomes."""
    directory, made = tmp_path_factory.mktemp("bases"), {}
    for kind in BASES:
        made[kind] = directory / f"{kind}-dense", directory / f"{kind}-four"
        dense(made[kind][0], kind)
        convert(*made[kind], Conversion(to="llama4", check=False))
    return made


def made_by_peft(directory: Path, base: Path, **options: Any) -> torch.Tensor:
    """Write PEFT's adapter of a base, all that learns drawn; return PEFT's logits."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 4, "init_lora_weights": False, **options})
    theirs = silently(get_peft_model, model, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.15)
    theirs.peft_config["default"].base_model_name_or_path = str(base)
    silently(theirs.save_pretrained, directory)
    return logits_of(theirs)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare sums in another order: float32 leaves 1e-4 of logits of some tens."""
    return float((one - other).abs().max()) < 1e-4 * float(other.abs().max())


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_an_adapter_of_a_dense_base_merges_into_either_form(
    form: str, kind: str, bases: Made, tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[kind][0], **FORMS[form])
    for to, base in (("hf", None), ("llama4", bases[kind][1])):
        asked = Conversion(to=to, merge=True, base=base, check=False)  # type: ignore[arg-type]
        convert(tmp_path / "adapter", tmp_path / to, asked)
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert near(logits_of(result), expected)
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "llama4")), expected)


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_an_adapter_of_the_llama_4_form_is_asked(
    form: str, kind: str, bases: Made, tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases[kind][1], **FORMS[form])
    model = LlamaModel.from_pretrained(tmp_path / "adapter")
    assert near(logits_of(model), expected)
    without_biases = "biases" in form and kind == "llama3"
    assert bool(model.adapters) == (form in RUNS_BESIDE or without_biases)
    assert Answerer(tmp_path / "adapter").answer("Où ?", max_new_tokens=2).completion_tokens <= 2
    convert(tmp_path / "adapter", tmp_path / "out", Conversion(to="llama4", merge=True))
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "out")), expected)


@pytest.mark.parametrize("form", ["whole head", "head", "embeddings", "whole embeddings"])
def test_what_is_no_adapter_of_a_layer_is_written_merged_alone(
    form: str, bases: Made, tmp_path: Path
) -> None:
    expected = made_by_peft(tmp_path / "adapter", bases["llama3"][1], **FORMS[form])
    for to in ("hf", "gguf"):
        with pytest.raises(CheckpointError, match=r"(?s)\[Q411\].*(lm_head|embed_tokens).*--merge"):
            convert(tmp_path / "adapter", tmp_path / "out", Conversion(to=to))  # type: ignore[arg-type]
    LlamaModel.from_pretrained(tmp_path / "adapter").save_pretrained(tmp_path / "whole")
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "whole")), expected)


def test_a_merged_adapter_has_the_dtype_of_its_base(bases: Made, tmp_path: Path) -> None:
    convert(bases["llama3"][1], tmp_path / "half", Conversion(to="llama4", dtype="bf16"))
    made_by_peft(tmp_path / "adapter", tmp_path / "half", **FORMS["whole head and embeddings"])
    convert(tmp_path / "adapter", tmp_path / "out", Conversion(to="llama4", merge=True))
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    model = LlamaModel.from_pretrained(tmp_path / "adapter")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def renamed(directory: Path, change: Callable[[str], str]) -> None:
    tensors = load_file(directory / WEIGHTS)
    save_file({change(name): one for name, one in tensors.items()}, directory / WEIGHTS)


ROOT = "base_model.model."
NAMES: dict[str, Callable[[str], str]] = {
    "the adapter's name": lambda n: re.sub(r"(lora_(?:embedding_)?[AB])", r"\1.default", n),
    "another name": lambda n: re.sub(r"(lora_(?:embedding_)?[AB])", r"\1.mine", n),
    "no prefix": lambda n: n.removeprefix(ROOT),
    "the prefix twice": lambda n: ROOT + n,
    "of a multimodal model": lambda n: n.replace(ROOT, f"{ROOT}language_model."),
    "of a later one": lambda n: n.replace(".model.model.", ".model.model.language_model."),
    "compiled": lambda n: n.replace(ROOT, f"{ROOT}_orig_mod."),
    "saved modules by name": lambda n: re.sub(
        r"(?<!base_layer)\.weight$", ".modules_to_save.default.weight", n
    ) if "lora" not in n else n,
}  # fmt: skip


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("which", [0, 1], ids=["dense", "four"])
def test_names_of_other_versions_say_the_same(
    how: str, which: int, bases: Made, tmp_path: Path
) -> None:
    options = {"target_modules": [*EVERY, "embed_tokens"], "modules_to_save": ["lm_head"]}
    expected = made_by_peft(tmp_path / "adapter", bases["llama3"][which], **options)
    renamed(tmp_path / "adapter", NAMES[how])
    convert(tmp_path / "adapter", tmp_path / "out", Conversion(to="llama4", merge=True))
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "out")), expected)


def test_two_adapters_in_a_file_are_refused(bases: Made, tmp_path: Path) -> None:
    made_by_peft(tmp_path / "adapter", bases["llama3"][1], target_modules=["q_proj"])
    path = tmp_path / "adapter" / WEIGHTS
    tensors = load_file(path)
    twice = {n.replace("lora_A", "lora_A.other").replace("lora_B", "lora_B.other"): t.clone()
             for n, t in tensors.items()}  # fmt: skip
    save_file(tensors | twice, path)
    with pytest.raises(CheckpointError, match=r"(?s)\[Q404\].*several adapters.*other"):
        LlamaModel.from_pretrained(tmp_path / "adapter")


OTHERS: dict[str, tuple[Any, str]] = {
    "dora": (lambda: peft.LoraConfig(r=3, target_modules=["q_proj"], use_dora=True),
             r"use_dora=True.*merge_and_unload"),
    "lora_bias": (lambda: peft.LoraConfig(r=3, target_modules=["q_proj"], lora_bias=True),
                  "lora_bias=True.*merge_and_unload"),
    "tokens": (lambda: peft.LoraConfig(r=3, target_modules=["q_proj"],
                                       trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "ia3": (lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
            "peft_type='IA3'.*merge_and_unload"),
    "loha": (lambda: peft.LoHaConfig(r=3, target_modules=["q_proj"]), "peft_type='LOHA'"),
    "adalora": (lambda: peft.AdaLoraConfig(init_r=3, target_modules=["q_proj"], total_step=9),
                "peft_type='ADALORA'"),
    "prompts": (lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
                "peft_type='PROMPT_TUNING'.*train LoRA"),
    "prefixes": (lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
                 "peft_type='PREFIX_TUNING'"),
}  # fmt: skip


@pytest.mark.parametrize("method", OTHERS)
def test_another_method_is_refused_by_its_name(method: str, bases: Made, tmp_path: Path) -> None:
    make, said = OTHERS[method]
    model = AutoModelForCausalLM.from_pretrained(bases["llama3"][1], dtype=torch.float32)
    theirs = silently(get_peft_model, model, make())
    theirs.peft_config["default"].base_model_name_or_path = str(bases["llama3"][1])
    silently(theirs.save_pretrained, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=rf"(?s)\[Q415\].*{said}"):
        LlamaModel.from_pretrained(tmp_path / "adapter")


def test_what_dora_and_biases_write_is_refused_without_the_config_too(
    bases: Made, tmp_path: Path
) -> None:
    for method, said in (("dora", "lora_magnitude_vector"), ("lora_bias", r"lora_B\.bias")):
        directory = tmp_path / method
        model = AutoModelForCausalLM.from_pretrained(bases["llama3"][1], dtype=torch.float32)
        theirs = silently(get_peft_model, model, OTHERS[method][0]())
        theirs.peft_config["default"].base_model_name_or_path = str(bases["llama3"][1])
        silently(theirs.save_pretrained, directory)
        set_fields(directory, use_dora=False, lora_bias=False)
        with pytest.raises(CheckpointError, match=rf"\[Q404\].*unexpected.*{said}"):
            LlamaModel.from_pretrained(directory)


def set_fields(directory: Path, **changes: Any) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "target_modules='k_proj'"),
        ({"target_modules": ["q_proj"]}, r"target_modules=\['q_proj'\].*layers\.0.*v_proj"),
        ({"exclude_modules": ["v_proj"]}, r"exclude_modules=\['v_proj'\].*v_proj"),
        ({"layers_to_transform": [0, 1]}, r"layers_to_transform=\[0, 1\].*layers\.2"),
        ({"layers_to_transform": 1}, r"layers_to_transform=1.*layers\.0"),
        ({"layers_to_transform": "all"}, "layers_to_transform='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save='lm_head'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save='lm_head'"),
        ({"target_parameters": ["feed_forward.experts.down_proj"]}, "target_parameters="),
        ({"bias": "some"}, "bias='some'"),
        ({"alpha_pattern": {"(x*)*q_proj": 3}}, r"alpha_pattern='\(x\*\)\*q_proj'"),
        ({"alpha_pattern": {".*.*.*q_proj": 3}}, "alpha_pattern="),
        ({"alpha_pattern": {"q_proj[": 3}}, "alpha_pattern="),
        ({"alpha_pattern": {"a" * 1000: 3}}, "alpha_pattern="),
    ],
    ids=str,
)
def test_a_field_that_contradicts_the_weights_is_refused_by_its_name(
    changes: dict[str, Any], said: str, bases: Made, tmp_path: Path
) -> None:
    made_by_peft(tmp_path / "adapter", bases["llama3"][1], target_modules=["q_proj", "v_proj"])
    LlamaModel.from_pretrained(tmp_path / "adapter")
    set_fields(tmp_path / "adapter", **changes)
    with pytest.raises(CheckpointError, match=rf"(?s)\[Q415\].*{said}"):
        LlamaModel.from_pretrained(tmp_path / "adapter")


def test_whole_weights_of_another_vocabulary_are_refused(bases: Made, tmp_path: Path) -> None:
    made_by_peft(tmp_path / "adapter", bases["llama3"][1], **FORMS["whole head"])
    path = tmp_path / "adapter" / WEIGHTS
    name = "base_model.model.lm_head.weight"
    save_file(load_file(path) | {name: torch.zeros(520, 48)}, path)
    with pytest.raises(CheckpointError, match=r"\[Q404\] .*lm_head\.weight has shape \[520, 48\]"):
        LlamaModel.from_pretrained(tmp_path / "adapter")


def test_whole_rows_that_may_stand_in_either_order_are_refused(bases: Made, tmp_path: Path) -> None:
    options = {"target_modules": ["v_proj"], "modules_to_save": ["k_proj"]}
    made_by_peft(tmp_path / "adapter", bases["llama3"][0], **options)
    set_fields(tmp_path / "adapter", base_model_name_or_path="someone/a-model-that-is-not-here")
    asked = Conversion(to="llama4", merge=True, base=bases["llama3"][1])
    with pytest.raises(CheckpointError, match=r"(?s)\[Q415\].*rows of q and k.*--base"):
        convert(tmp_path / "adapter", tmp_path / "out", asked)


def test_a_pattern_of_targets_is_never_run(bases: Made, tmp_path: Path) -> None:
    """What a file holds counts: a pattern could take for ever."""
    expected = made_by_peft(tmp_path / "adapter", bases["llama3"][1], target_modules=["q_proj"])
    set_fields(tmp_path / "adapter", target_modules="(.*.*)*x" * 50)
    assert near(logits_of(LlamaModel.from_pretrained(tmp_path / "adapter")), expected)
    shutil.rmtree(tmp_path / "adapter")
