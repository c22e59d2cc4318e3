"""Runs that train adapters: what is trained, what is kept, and that stopping changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quatrain.config import Config
from quatrain.errors import CheckpointError, ConfigError
from quatrain.files import sha256
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.recipe import build
from quatrain.train.run import run
from tiny_run import stop_after, timeless_metrics, tiny_run

FILES = ("adapter_model.safetensors", "optimizer.safetensors", "state.json", "adapter_config.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run to adapt."""
    return run(tiny_run(tmp_path_factory.mktemp("base"), "text", max_steps=4), quiet=True).run_dir


def adapter_run(directory: Path, base: Path, name: str = "run", **lora: Any) -> Config:
    values = tiny_run(directory, name).model_dump(exclude_unset=True)
    values["model"] = {"init": str(base)}
    values["train"]["adapter"] = "lora"
    return build({**values, "lora": {"rank": 4, "dropout": 0.2, **lora}})


def test_a_run_trains_adapters_and_keeps_them_alone(tmp_path: Path, base: Path) -> None:
    before = load_file(base / "checkpoints" / "best" / "model.safetensors")
    result = run(adapter_run(tmp_path, base), quiet=True)
    best = result.run_dir / "checkpoints" / "best"
    names = {path.name for path in best.iterdir()}
    assert {*FILES, "tokenizer.json", "chat_format.json", "manifest.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    config = json.loads((best / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == (base / "checkpoints" / "best").resolve()
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0)

    model = LlamaModel.from_pretrained(result.run_dir / "checkpoints" / "best")
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())
    learnt = set(weights) - set(before)
    moments = load_file(result.run_dir / "checkpoints" / "step-000012" / "optimizer.safetensors")
    assert set(moments) == {f"{m}.{n}" for n in learnt for m in ("exp_avg", "exp_avg_sq")}
    assert any(bool(weights[name].any()) for name in learnt if name.endswith("B"))


def test_a_run_of_adapters_is_asked_as_any_other(tmp_path: Path, base: Path) -> None:
    result = run(adapter_run(tmp_path, base), quiet=True)
    answerer = Answerer(result.run_dir)
    assert answerer.model.adapters
    assert answerer.answer("Le mur est bleu. De quelle couleur ?", max_new_tokens=3).prompt_tokens


def test_a_run_with_dropout_that_is_stopped_twice_equals_a_calm_one(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(adapter_run(tmp_path, base, "calm"), quiet=True)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            assert run(adapter_run(tmp_path, base, "stopped"), quiet=True).state.step == step
    stopped = run(adapter_run(tmp_path, base, "stopped"), quiet=True)
    for name in FILES:
        one, other = (r.run_dir / "checkpoints" / "step-000012" / name for r in (calm, stopped))
        assert sha256(one) == sha256(other), name
    assert timeless_metrics(stopped.run_dir) == timeless_metrics(calm.run_dir)


def test_what_learns_is_said_at_the_start(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(adapter_run(tmp_path, base, targets="attention,router"))
    said = capsys.readouterr().err
    # rank 4; d_model 32, 2 heads of 16; 4 experts; 2 layers
    assert f"adapters: {2 * 4 * 4 * 64 + 2 * 4 * 36:,} trainable parameters: " in said
    assert f"attention {2 * 4 * 4 * 64:,}, router {2 * 4 * 36:,}" in said


def test_another_rank_in_the_same_directory_is_refused(tmp_path: Path, base: Path) -> None:
    run(adapter_run(tmp_path, base), quiet=True)
    with pytest.raises(ConfigError, match=r"lora\.rank: 4 -> 5"):
        run(adapter_run(tmp_path, base, rank=5), quiet=True)


def test_a_base_that_is_gone_is_named(tmp_path: Path, base: Path) -> None:
    adapter = run(adapter_run(tmp_path, base), quiet=True).run_dir / "checkpoints" / "step-000012"
    fields = json.loads((adapter / "adapter_config.json").read_text())
    fields["base_model_name_or_path"] = "/nowhere/at all"
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    (adapter / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is an adapter of /nowhere/at all, which cannot be"):
        LlamaModel.from_pretrained(adapter)
