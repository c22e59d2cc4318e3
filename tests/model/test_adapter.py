"""PEFT directories: ours opened by PEFT, PEFT's opened here, and those that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adapted import adapted_model
from foreign import silently
from hostile import Sentinel
from oracle import oracle_logits, oracle_of
from quatrain.errors import CheckpointError
from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_config, tiny_model

IDS = random_ids(2, 40)
EXPERTS = ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "all groups": ("every_layer_moe", {"train_router": True}),
    "experts alone": ("every_layer_moe", {"targets": "experts"}),
    "one projection of experts": ("every_layer_moe", {"targets": "experts.gate_up_proj"}),
    "the other": ("every_layer_moe", {"targets": "experts.down_proj"}),
    "attention": ("every_layer_moe", {"targets": "attention"}),
    "other ranks": ("base", {"ranks": {"experts": 2, "shared": 5}, "alpha": 7}),
    "dense layers": ("no_moe", {}),
    "one expert": ("one_expert", {}),
    "sixteen experts": ("top_3_of_16", {}),
    "dropout": ("base", {"dropout": 0.5}),
}


@pytest.mark.parametrize("case", OURS)
def test_peft_computes_our_adapters(case: str, tmp_path: Path) -> None:
    name, lora = OURS[case]
    model = adapted_model(name, **lora).eval()
    model.base = "base"
    model.save_pretrained(tmp_path)
    oracle = oracle_of(tiny_model(tiny_config(name)))
    theirs = silently(PeftModel.from_pretrained, oracle, tmp_path).eval()
    trained = load_file(tmp_path / WEIGHTS)
    assert set(trained) == {n.replace(".default", "") for n in theirs.state_dict() if "lora_" in n}
    with torch.no_grad():
        found, base = model(IDS), tiny_model(tiny_config(name))(IDS)
        assert (found - oracle_logits(theirs, IDS)).abs().max() < 1e-4
    assert (found - base).abs().max() > 1e-2


THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "modules": ("base", {"target_modules": ["q_proj", "o_proj", "shared_expert.down_proj"]}),
    "all feed-forward": ("base", {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    "parameters": ("base", {"target_modules": [], "target_parameters": EXPERTS}),
    "one parameter": ("base", {"target_parameters": EXPERTS[:1]}),
    "router": ("base", {"target_parameters": ["feed_forward.router.weight", *EXPERTS]}),
    "rank-stabilised": ("base", {"target_modules": ["k_proj"], "target_parameters": EXPERTS,
                                 "use_rslora": True}),
    "patterns": ("base", {
        "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 5},
        "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 9, "layers.2.self_attn.v_proj": 1},
    }),
    "one layer": ("base", {"target_modules": ["model.layers.2.self_attn.q_proj"]}),
    "dense": ("no_moe", {"target_modules": "all-linear"}),
    "dropout": ("base", {"target_modules": ["q_proj"], "lora_dropout": 0.5}),
}  # fmt: skip


def peft_made(directory: Path, case: str) -> Any:
    """Write a base and PEFT's adapter of it; return PEFT's model."""
    name, options = THEIRS[case]
    base = tiny_model(tiny_config(name))
    base.save_pretrained(directory / "base")
    config = PeftConfig(r=3, lora_alpha=4, init_lora_weights=False, **options)
    torch.manual_seed(0)
    theirs = silently(get_peft_model, oracle_of(base), config).eval()
    theirs.peft_config["default"].base_model_name_or_path = str(directory / "base")
    silently(theirs.save_pretrained, directory / "adapter")
    return theirs


@pytest.mark.parametrize("case", THEIRS)
def test_adapters_that_peft_made_open_here(case: str, tmp_path: Path) -> None:
    theirs = peft_made(tmp_path, case)
    model = LlamaModel.from_pretrained(tmp_path / "adapter")
    base = LlamaModel.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        found = model(IDS)
        assert (found - oracle_logits(theirs, IDS)).abs().max() < 1e-4
        assert (found - base(IDS)).abs().max() > 1e-3


def test_an_adapter_is_written_and_read_bit_for_bit(tmp_path: Path) -> None:
    model = adapted_model(train_router=True)
    tiny_model(model.config).save_pretrained(tmp_path / "base")
    model.base = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    read = LlamaModel.from_pretrained(tmp_path / "adapter")
    assert read.adapters == model.adapters
    assert all(torch.equal(read.state_dict()[n], p) for n, p in model.state_dict().items())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    model = adapted_model("every_layer_moe", targets="attention,experts")
    tiny_model(model.config).save_pretrained(directory / "base")
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")
    return directory / "adapter"


Change = Callable[[Path], None]


def fields(**changes: Any) -> Change:
    def change(directory: Path) -> None:
        path = directory / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def change(directory: Path) -> None:
        held = load_file(directory / WEIGHTS)
        edit(held)
        save_file(held, directory / WEIGHTS)

    return change


def pickled(directory: Path) -> None:
    torch.save({"w": Sentinel(directory)}, directory / "adapter_model.bin")
    (directory / WEIGHTS).unlink()


def linked_away(directory: Path) -> None:
    outside = directory.parent / "outside.safetensors"
    shutil.move(directory / WEIGHTS, outside)
    (directory / WEIGHTS).symlink_to(outside)


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
HARMFUL: dict[str, tuple[Change, str, str]] = {
    "pickle": (pickled, "Q401", "Pickled weights can run code"),
    "link": (linked_away, "Q401", "outside the model directory"),
    "not json": (lambda d: (d / CONFIG).write_text("{") and None, "Q401", "is not valid JSON"),
    "a list": (lambda d: (d / CONFIG).write_text("[]") and None, "Q401", "must hold a JSON object"),
    "cut": (lambda d: (d / WEIGHTS).write_bytes(b"\0" * 9), "Q401", "cannot be read"),
    "another method": (fields(peft_type="IA3"), "Q415", "peft_type='IA3'"),
    "no method": (fields(peft_type=None), "Q415", "peft_type=None"),
    "no base": (fields(base_model_name_or_path=None), "Q415", "base_model_name_or_path=None"),
    "base of no text": (fields(base_model_name_or_path=7), "Q415", "base_model_name_or_path=7"),
    "base that is nowhere": (
        fields(base_model_name_or_path="/nowhere"), "Q401", "adapter of /nowhere, which cannot"),
    "whole modules": (fields(modules_to_save=["lm_head"]), "Q415", "modules_to_save="),
    "dora": (fields(use_dora=True), "Q415", "use_dora=True"),
    "biases of a kind": (fields(bias="some"), "Q415", "bias='some'"),
    "field of tomorrow": (fields(use_next_thing=True), "Q415", "use_next_thing=True"),
    "some layers": (fields(layers_to_transform=[0]), "Q415", "layers_to_transform"),
    "changed base": (fields(init_lora_weights="pissa"), "Q415", "init_lora_weights='pissa'"),
    "revision": (fields(revision="v2"), "Q415", "revision='v2'"),
    "targets of text": (fields(target_modules=7), "Q415", "target_modules=7"),
    "pattern of ranks": (fields(rank_pattern={"(a+)+$": 1}), "Q415", "might never finish"),
    "ranks in a list": (fields(rank_pattern=[1]), "Q415", r"rank_pattern=\[1\]"),
    "head": (fields(target_modules=["lm_head"]), "Q415", "target_modules='lm_head'"),
    "targets of numbers": (fields(target_modules=[1]), "Q415", r"target_modules=\[1\]"),
    "no targets": (fields(target_modules=[], target_parameters=None), "Q415", r"s=\[\]"),
    "no factors": (tensors(lambda t: t.clear()), "Q415", "changes no weight of the base model"),
    "rank of zero": (fields(r=0), "Q415", "r=0"),
    "rank of text": (fields(r="3"), "Q415", "r='3'"),
    "rank of a truth": (fields(r=True), "Q415", "r=True"),
    "huge rank": (fields(r=10**9), "Q415", "r=1000000000"),
    "another rank": (fields(r=4), "Q404", "has shape"),
    "scale of infinity": (fields(lora_alpha=float("inf")), "Q415", "lora_alpha=inf"),
    "scale of nothing": (fields(lora_alpha=None), "Q415", "lora_alpha=None"),
    "missing tensor": (tensors(lambda t: t.pop(Q)), "Q404", "missing tensors: 1, .*q_proj"),
    "extra tensor": (
        tensors(lambda t: t.update({"base_model.model.lm_head.scale": torch.zeros(1)})),
        "Q404", "unexpected tensors: 1"),
    "a head of another shape": (
        tensors(lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(1)})),
        "Q404", r"lm_head.weight has shape \[1\]"),
    "wrong shape": (tensors(lambda t: t.update({Q: torch.zeros(3, 47)})), "Q404", r"\[3, 47\]"),
    "integers": (
        tensors(lambda t: t.update({Q: torch.zeros(3, 48, dtype=torch.int64)})), "Q404", "int64"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_a_malformed_adapter_is_refused(name: str, sound: Path, tmp_path: Path) -> None:
    change, code, message = HARMFUL[name]
    directory = tmp_path / "adapter"
    shutil.copytree(sound, directory)
    LlamaModel.from_pretrained(directory)
    change(directory)
    with pytest.raises(CheckpointError, match=message) as raised:
        LlamaModel.from_pretrained(directory)
    assert raised.value.code == code
    assert not (directory / "executed").exists()


def test_an_adapter_of_an_adapter_is_refused(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "adapter")
    fields(base_model_name_or_path=str(sound))(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"which is itself an adapter") as raised:
        LlamaModel.from_pretrained(tmp_path / "adapter")
    assert raised.value.code == "Q415"
