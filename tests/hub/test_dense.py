"""Dense checkpoints against transformers: the same function in, the same tensors out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    SmolLM3Config,
)

from dense_models import IDS, KINDS, dense, logits_of
from quatrain.errors import CheckpointError
from quatrain.hub.convert import Conversion, Dtype, convert
from quatrain.hub.dense import as_dense, deinterleave, dense_config, interleave
from quatrain.hub.open import open_source
from quatrain.hub.upcycle import upcycle
from quatrain.model.io import model_of
from quatrain.model.llama import LlamaModel
from quatrain.text.chat import CHATML, ChatFormat
from quatrain.text.tokenizer import train_bpe


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_model_is_the_same_function(kind: str, tmp_path: Path) -> None:
    oracle = dense(tmp_path / "dense", kind)
    done = convert(tmp_path / "dense", tmp_path / "result", Conversion(to="llama4"))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-4
    assert done.agreement.greedy_tokens_equal == done.agreement.greedy_tokens
    assert done.agreement.judged_by == "transformers"
    model = LlamaModel.from_pretrained(tmp_path / "result")
    assert float((logits_of(model) - logits_of(oracle)).abs().max()) < 1e-4
    fields = json.loads((tmp_path / "result" / "config.json").read_text())
    assert fields["model_type"] == "llama4_text"
    rope = getattr(oracle.config, "no_rope_layers", None) or [1, 1, 1]
    assert fields["no_rope_layers"] == rope
    assert fields["moe_layers"] == []
    assert set(fields["layer_types"]) == {"full_attention"}


def test_the_judge_draws_no_bars_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense(tmp_path / "dense")
    capfd.readouterr()
    convert(tmp_path / "dense", tmp_path / "result", Conversion(to="llama4"))
    assert "%|" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", ["bf16", None])
def test_what_rounding_a_dense_model_costs_is_told_apart(
    dtype: Dtype | None, tmp_path: Path
) -> None:
    dense(tmp_path / "dense")
    asked = Conversion(to="llama4", dtype=dtype)
    done = convert(tmp_path / "dense", tmp_path / "result", asked)
    assert done.agreement is not None
    assert done.agreement.judged_by == "transformers"
    assert done.agreement.max_logit_difference < 1e-4
    assert done.agreement.rounding.nothing is (dtype is None)


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_in_transformers_as_llama4(kind: str, tmp_path: Path) -> None:
    from transformers import Llama4ForCausalLM

    oracle = dense(tmp_path / "dense", kind)
    convert(tmp_path / "dense", tmp_path / "result", Conversion(to="llama4", check=False))
    twin = Llama4ForCausalLM.from_pretrained(tmp_path / "result").eval()
    assert float((logits_of(twin) - logits_of(oracle)).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_again_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """A Qwen2 leaves as a Llama: its output has a bias there, which is zero."""
    oracle = dense(tmp_path / "dense", kind)
    convert(tmp_path / "dense", tmp_path / "four", Conversion(to="llama4", check=False))
    convert(tmp_path / "four", tmp_path / "back", Conversion(to="hf"))
    model_type = json.loads((tmp_path / "back" / "config.json").read_text())["model_type"]
    assert model_type == ("smollm3" if kind.startswith("smollm3") else "llama")
    before = load_file(tmp_path / "dense" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    added = {name for name in after if name.endswith("o_proj.bias")} - before.keys()
    assert len(added) == 3 * kind.startswith("qwen2")
    assert not any(after.pop(name).any() for name in added)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert torch.equal(logits_of(twin), logits_of(oracle))


def test_rows_change_places_and_come_back() -> None:
    rows = torch.arange(12.0).view(12, 1)
    turned = interleave(rows, 6).flatten().tolist()
    assert turned == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(deinterleave(interleave(rows, 6), 6), rows)


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("mistral", {"sliding_window": 16}, "sliding_window=16"),
        ("mistral", {"attention_bias": True}, "attention_bias=true"),
        ("llama3", {"mlp_bias": True}, "mlp_bias=true"),
        ("smollm3", {"mlp_bias": True}, "mlp_bias=true"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16}, "sliding_window=16"),
        ("qwen2", {"rope_parameters": YARN}, "rope_type is 'yarn'. It must be default or llama3"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "layer_types has sliding_attention"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 16}, "sliding_window=16"),
        ("smollm3", {"rope_parameters": YARN}, "rope_type is 'yarn'. It must be default or llama3"),
        ("llama3", {"hidden_act": "gelu"}, "hidden_act is 'gelu'. It must be silu"),
        ("llama3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type"),
    ],
)
def test_another_function_is_refused_by_name(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    dense(tmp_path, kind, **changes)
    with pytest.raises(CheckpointError, match=said) as raised:
        open_source(tmp_path)
    assert raised.value.code == "Q410"


@pytest.mark.parametrize(
    ("field", "value"),
    [("quantization_config", {"quant_method": "awq"}), ("auto_map", {"AutoModel": "x.Y"}),
     ("num_hidden_layers", 10**9), ("num_hidden_layers", "many"), ("hidden_size", -1),
     ("sliding_window", "wide")],
)  # fmt: skip
def test_a_strange_config_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    dense(tmp_path, "mistral")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointError) as raised:
        open_source(tmp_path)
    assert raised.value.code == "Q410"


def rewrite(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path) | changes
    save_file({name: one for name, one in tensors.items() if one is not None}, path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.ones(48)},
            "unexpected tensors: 1, .*q_proj.bias",
        ),
        ({"model.layers.1.mlp.up_proj.weight": None}, "missing tensors: 1, .*feed_forward.up_proj"),
        ({"model.layers.1.mlp.up_proj.weight": torch.ones(3, 3)}, r"up_proj.* has shape \[3, 3\]"),
        (
            {"model.layers.0.self_attn.k_proj.weight": torch.ones(7, 48)},
            "be divided into heads of 12",
        ),
        ({"model.norm.weight": torch.ones(48, dtype=torch.int32)}, "model.norm.weight holds int32"),
    ],
)
def test_tensors_of_another_model_are_refused_before_they_are_read(
    changes: dict[str, torch.Tensor | None], said: str, tmp_path: Path
) -> None:
    dense(tmp_path)
    rewrite(tmp_path, changes)
    with pytest.raises(CheckpointError, match=rf"\[Q404\].*{said}"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"), [("biases", "k_proj"), ("biases", "o_proj"), ("qwen2", "q_proj"),
                       ("smollm3_other", "v_proj")],
)  # fmt: skip
def test_a_bias_that_is_missing_is_not_taken_for_zero(kind: str, name: str, tmp_path: Path) -> None:
    dense(tmp_path, kind)
    rewrite(tmp_path, {f"model.layers.1.self_attn.{name}.bias": None})
    with pytest.raises(
        CheckpointError, match=rf"\[Q404\] missing tensors: 1, .*layers.1.*{name}.bias"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize("kind", ["smollm3", "qwen2"])
def test_a_field_that_a_kind_does_not_read_is_nothing_to_it(kind: str, tmp_path: Path) -> None:
    """SmolLM3-3B says pretraining_tp=2, which splits the sums of a Llama alone."""
    dense(tmp_path / "dense", kind)
    path = tmp_path / "dense" / "config.json"
    fields = json.loads(path.read_text()) | {"pretraining_tp": 2, "max_window_layers": 1}
    path.write_text(json.dumps(fields))
    done = convert(tmp_path / "dense", tmp_path / "four", Conversion(to="llama4"))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-4


def test_a_tied_heads_copy_is_left_out_and_another_head_is_refused(tmp_path: Path) -> None:
    dense(tmp_path, "smollm")
    embeddings = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(tmp_path, {"lm_head.weight": embeddings.clone()})
    assert "lm_head.weight" not in open_source(tmp_path).tensors
    rewrite(tmp_path, {"lm_head.weight": embeddings + 1})
    with pytest.raises(CheckpointError, match=r"=true, but lm_head\.weight differs"):
        open_source(tmp_path)


def test_fields_left_out_have_the_values_of_transformers() -> None:
    for config_class in (LlamaConfig, MistralConfig, Qwen2Config, SmolLM3Config):
        kind = config_class.model_type
        written = config_class().to_dict() | {"model_type": kind, "sliding_window": None}
        bare = {"model_type": kind, "sliding_window": None}
        assert dense_config(bare) == dense_config(written)
    with pytest.raises(CheckpointError, match="sliding_window=4096"):
        dense_config({"model_type": "mistral"})


@pytest.mark.parametrize("kind", ["qwen3", "mixtral", None])
def test_other_model_types_are_told_which_are_read(kind: str | None, tmp_path: Path) -> None:
    dense(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
    with pytest.raises(CheckpointError, match=rf"(?s)model_type {kind!r}.*of model_type llama, "):
        open_source(tmp_path)


@pytest.mark.parametrize("number", [0, -1, 4097])
def test_a_number_of_experts_that_no_model_has_is_refused(number: int, tmp_path: Path) -> None:
    dense(tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"\[Q411\] {number} experts are not possible. A layer has 1 to 4096"
    ):
        upcycle(open_source(tmp_path), number)


def test_a_models_own_template_gives_its_chat_format(tmp_path: Path) -> None:
    dense(tmp_path / "dense")
    chat = CHATML.model_copy(update={"default_system": "Sois bref."})
    train_bpe(["Bonjour."], 300, control_tokens=chat.control_tokens()).save(tmp_path / "dense")
    (tmp_path / "dense" / "chat_format.json").unlink()
    (tmp_path / "dense" / "chat_template.jinja").write_text(chat.chat_template())
    convert(tmp_path / "dense", tmp_path / "result", Conversion(to="llama4"))
    assert ChatFormat.load(tmp_path / "result").default_system == "Sois bref."


def test_an_upcycled_model_starts_as_the_same_function(tmp_path: Path) -> None:
    oracle = dense(tmp_path / "dense")
    done = convert(tmp_path / "dense", tmp_path / "result", Conversion(to="llama4", experts=4))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-4
    assert done.notes["experts"].startswith("4 ")
    model = LlamaModel.from_pretrained(tmp_path / "result")
    assert model.config.moe_layers == (0, 1, 2)
    assert float((logits_of(model) - logits_of(oracle)).abs().max()) < 1e-4


def test_the_router_learns_from_the_second_step_on(tmp_path: Path) -> None:
    dense(tmp_path)
    source = upcycle(open_source(tmp_path), 4)
    model = model_of(source.config, source.tensors)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moe = model.model.layers[0].feed_forward
    norms = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(
            model(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        norms.append((float(moe.router.weight.grad.norm()),
                      float(moe.experts.gate_up_proj.grad.norm()),
                      float(moe.experts.down_proj.grad.norm())))  # fmt: skip
        optimizer.step()
    (router, gate_up, down), second = norms
    assert router == 0
    assert gate_up == 0
    assert down > 0
    assert min(second) > 0


def test_upcycling_is_for_dense_models_and_the_same_each_time(tmp_path: Path) -> None:
    dense(tmp_path)
    source = open_source(tmp_path)
    one, other = upcycle(source, 4), upcycle(source, 4)
    assert all(torch.equal(one.tensors[n].load(), other.tensors[n].load()) for n in one.tensors)
    with pytest.raises(CheckpointError, match="already has experts"):
        upcycle(one, 4)


def test_a_model_with_experts_is_no_llama(tmp_path: Path) -> None:
    dense(tmp_path)
    source = upcycle(open_source(tmp_path), 2)
    with pytest.raises(AssertionError):
        as_dense(source, "float32")
