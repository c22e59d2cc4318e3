"""Runs from converted Qwen2s, SmolLM3s and Llamas with biases: what is trained and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dense_models import dense, logits_of
from quatrain.config import Config
from quatrain.hub.convert import Conversion, convert
from quatrain.model.llama import LlamaModel
from quatrain.recipe import build
from quatrain.train.run import run
from tiny_run import stop_after, timeless_metrics, tiny_run

KINDS = pytest.mark.parametrize("kind", ["biases", "qwen2_tied", "smollm3", "smollm3_other"])
LEAVES_AS = {"smollm3": "smollm3", "biases": "llama", "qwen2_tied": "llama"}


def run_from(directory: Path, kind: str, name: str = "run", **train: Any) -> Config:
    """A run of a few steps from the Llama 4 that a tiny dense model becomes."""
    if not (directory / "four").exists():
        dense(directory / "dense", kind)
        convert(directory / "dense", directory / "four", Conversion(to="llama4", check=False))
    values = tiny_run(directory, name, max_steps=4).model_dump(exclude_unset=True)
    values["train"] |= train
    return build({**values, "model": {"init": str(directory / "four")}})


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "checkpoints" / "step-000004" / "model.safetensors")


@KINDS
def test_every_bias_learns_and_a_checkpoint_is_opened_as_it_was(kind: str, tmp_path: Path) -> None:
    done = run(run_from(tmp_path, kind, learning_rate=1e-2), quiet=True)
    before, after = load_file(tmp_path / "four" / "model.safetensors"), weights_of(done.run_dir)
    assert before.keys() == after.keys()
    still = [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
    assert not still
    model = LlamaModel.from_pretrained(done.run_dir / "checkpoints" / "step-000004")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in after.items())


@KINDS
def test_lora_leaves_biases_as_they_are(kind: str, tmp_path: Path) -> None:
    done = run(run_from(tmp_path, kind, adapter="lora"), quiet=True)
    model = LlamaModel.from_pretrained(done.run_dir / "checkpoints" / "step-000004")
    before, state = load_file(tmp_path / "four" / "model.safetensors"), model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert any(bool(one.any()) for name, one in state.items() if name.endswith("lora.B"))


def test_a_run_with_biases_that_goes_on_equals_a_calm_one(tmp_path: Path) -> None:
    calm = run(run_from(tmp_path, "biases", "calm"), quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(2, patch)
        assert run(run_from(tmp_path, "biases", "stopped"), quiet=True).state.step == 2
    stopped = run(run_from(tmp_path, "biases", "stopped"), quiet=True)
    assert timeless_metrics(stopped.run_dir) == timeless_metrics(calm.run_dir)
    one, other = weights_of(calm.run_dir), weights_of(stopped.run_dir)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("adapter", [None, "lora"])
@pytest.mark.parametrize("kind", LEAVES_AS)
def test_what_was_trained_leaves_as_a_dense_model(
    kind: str, adapter: str | None, tmp_path: Path
) -> None:
    done = run(run_from(tmp_path, kind, adapter=adapter, learning_rate=1e-2), quiet=True)
    convert(done.run_dir, tmp_path / "hf", Conversion(to="hf", merge=adapter is not None))
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert twin.config.model_type == LEAVES_AS[kind]
    ours = LlamaModel.from_pretrained(done.run_dir / "checkpoints" / "best").eval()
    assert float((logits_of(twin) - logits_of(ours)).abs().max()) < 1e-3
