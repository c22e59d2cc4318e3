"""Runs whose model.init is an adapter: it is trained further, on its own base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dense_models import dense
from foreign import silently
from quatrain.config import Config
from quatrain.errors import QuatrainError
from quatrain.files import sha256
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.model.llama import LlamaModel
from quatrain.recipe import build
from quatrain.train.adapted import settle_adapters
from quatrain.train.run import build_model, run
from quatrain.train.start import read_settled, resolve
from tiny_run import stop_after, timeless_metrics, tiny_run

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "state.json", "adapter_config.json")


def values_of(directory: Path, init: Path, name: str = "run", **sections: Any) -> dict[str, Any]:
    values = tiny_run(directory, name, max_steps=4).model_dump(exclude_unset=True)
    return {**values, "model": {"init": str(init)}, **sections}


def goes_on(directory: Path, init: Path, name: str = "run", **lora: Any) -> Config:
    """A run from an adapter; with fields of lora, train.adapter says so too."""
    values = values_of(directory, init, name)
    if lora:
        values["train"]["adapter"] = "lora"
        values["lora"] = lora
    return build(values)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny_run(tmp_path_factory.mktemp("base"), "text", max_steps=4), quiet=True).run_dir


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run that trained adapters of ranks of their own."""
    directory = tmp_path_factory.mktemp("first")
    values = values_of(directory, base, lora={"rank": 4, "alpha": 6, "ranks": {"experts": 2}})
    values["train"]["adapter"] = "lora"
    return run(build(values), quiet=True).run_dir


def adapter_in(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:06d}"


def begins_as(config: Config, adapter: Path) -> bool:
    """Whether a run's model at step 0 has an adapter's weights, and its base's."""
    start = settle_adapters(resolve(config))
    state = build_model(start.config, start, None).state_dict()
    expected = LlamaModel.from_pretrained(adapter).state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], tensor) for name, tensor in expected.items()
    )


def test_it_begins_as_the_adapter_was_and_learns(tmp_path: Path, first: Path) -> None:
    assert begins_as(goes_on(tmp_path, first), first / "checkpoints" / "best")
    done = run(goes_on(tmp_path, first), quiet=True)
    before = load_file(first / "checkpoints" / "best" / "adapter_model.safetensors")
    after = load_file(adapter_in(done.run_dir, 4) / "adapter_model.safetensors")
    assert not any(torch.equal(after[name], before[name]) for name in before)
    was, now = (json.loads((d / "adapter_config.json").read_text()) for d in
                (first / "checkpoints" / "best", adapter_in(done.run_dir, 4)))  # fmt: skip
    assert was == now


def test_its_base_stays_and_it_is_asked_and_converted(
    tmp_path: Path, first: Path, base: Path
) -> None:
    done = run(goes_on(tmp_path, first), quiet=True)
    model = LlamaModel.from_pretrained(adapter_in(done.run_dir, 4))
    weights = dict(model.named_parameters())
    whole = load_file(base / "checkpoints" / "best" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole.items())
    assert Answerer(done.run_dir).answer("Le mur ?", max_new_tokens=2).completion_tokens <= 2
    convert(done.run_dir, tmp_path / "merged", Conversion(to="llama4", merge=True))
    convert(done.run_dir, tmp_path / "alone", Conversion(to="hf"))


def test_a_stopped_run_equals_a_calm_one(
    tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(goes_on(tmp_path, first, "calm", dropout=0.2), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert run(goes_on(tmp_path, first, "stopped", dropout=0.2), quiet=True).state.step == 2
    stopped = run(goes_on(tmp_path, first, "stopped", dropout=0.2), quiet=True)
    for name in FILES:
        one, other = (adapter_in(r.run_dir, 4) / name for r in (calm, stopped))
        assert sha256(one) == sha256(other), name
    assert timeless_metrics(stopped.run_dir) == timeless_metrics(calm.run_dir)


def test_what_it_has_is_said(tmp_path: Path, first: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        settle_adapters(resolve(goes_on(tmp_path, first)))
    assert "its training continues: attention of rank 4, shared of" in caplog.text


def test_what_was_settled_says_what_the_adapter_has(tmp_path: Path, first: Path) -> None:
    settled = read_settled(run(goes_on(tmp_path, first), quiet=True).run_dir)
    assert settled is not None
    assert settled.train.adapter == "lora"
    assert (settled.lora.rank, settled.lora.alpha, settled.lora.ranks) == (4, 6, {"experts": 2})
    again = {**settled.model_dump(), "run_dir": str(tmp_path / "again")}
    run(build({**again, "model": {"init": str(first)}}), quiet=True)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"rank": 8}, r"lora\.rank=8.*q_proj: 4"),
        ({"ranks": {"attention": 3}}, r"lora\.ranks=.*attention"),
        ({"rank": 4, "alpha": 16}, r"lora\.alpha=16"),
        ({"targets": "attention"}, r"lora\.targets=.*attention"),
        ({"train_router": True}, r"lora\.train_router=True"),
        ({"dropouts": {"dense": 0.1}}, r"lora\.dropouts names dense"),
    ],
    ids=str,
)
def test_a_field_that_contradicts_it_is_refused_by_its_name(
    lora: dict[str, Any], said: str, tmp_path: Path, first: Path
) -> None:
    with pytest.raises(QuatrainError, match=rf"(?s)\[Q203\].*{said}"):
        run(goes_on(tmp_path, first, **lora), quiet=True)
    assert not (tmp_path / "run" / "data").exists()  # nothing was prepared


def test_fields_that_say_what_it_has_are_taken(tmp_path: Path, first: Path) -> None:
    lora = {"rank": 4, "alpha": 6, "ranks": {"experts": 2}, "dropouts": {"attention": 0.3}}
    assert run(goes_on(tmp_path, first, **lora), quiet=True).state.finished


@pytest.fixture
def four(tmp_path: Path) -> Path:
    dense(tmp_path / "dense", "llama3")
    convert(tmp_path / "dense", tmp_path / "four", Conversion(to="llama4", check=False))
    return tmp_path / "four"


def made_by_peft(directory: Path, base: Path, **options: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=4, init_lora_weights=False, **options)
    theirs = silently(peft.get_peft_model, model, config)
    theirs.peft_config["default"].base_model_name_or_path = str(base)
    silently(theirs.save_pretrained, directory)
    return directory


def test_an_adapter_of_some_layers_that_peft_made_goes_on(four: Path, tmp_path: Path) -> None:
    options = {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2],
               "rank_pattern": {r".*\.2\..*q_proj": 5}}  # fmt: skip
    adapter = made_by_peft(tmp_path / "adapter", four, **options)
    assert begins_as(goes_on(tmp_path, adapter), adapter)
    done = run(goes_on(tmp_path, adapter), quiet=True)
    before, after = (load_file(d / "adapter_model.safetensors") for d in
                     (adapter, adapter_in(done.run_dir, 4)))  # fmt: skip
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    reread = LlamaModel.from_pretrained(adapter_in(done.run_dir, 4))
    assert {site.layer for site in reread.adapters} == {0, 2}


def test_an_adapter_of_the_head_is_not_trained_on(four: Path, tmp_path: Path) -> None:
    adapter = made_by_peft(tmp_path / "adapter", four, target_modules=["q_proj", "lm_head"])
    with pytest.raises(QuatrainError, match=r"(?s)\[Q203\].*lm_head\.weight.*--merge"):
        run(goes_on(tmp_path, adapter), quiet=True)


def test_an_adapter_of_a_dense_base_is_told_what_to_do(four: Path, tmp_path: Path) -> None:
    dense_base = four.parent / "dense"
    adapter = made_by_peft(tmp_path / "adapter", dense_base, target_modules=["q_proj"])
    with pytest.raises(QuatrainError, match=r"(?s)\[Q415\].*dense model.*--base"):
        run(goes_on(tmp_path, adapter), quiet=True)
    convert(adapter, tmp_path / "for-four", Conversion(to="hf", base=four))
    assert run(goes_on(tmp_path, tmp_path / "for-four"), quiet=True).state.finished


def test_without_its_base_it_is_refused(four: Path, tmp_path: Path) -> None:
    adapter = made_by_peft(tmp_path / "adapter", four, target_modules=["q_proj"])
    shutil.move(four, tmp_path / "moved")
    with pytest.raises(QuatrainError, match=r"\[Q401\].*is an adapter of .*four"):
        run(goes_on(tmp_path, adapter), quiet=True)
