"""Adapters as GGUF files: read back, and used by real llama.cpp beside their base's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapted import adapted_model
from llamacpp import LlamaCpp
from quatrain.config import ModelConfig
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.hub.check import observe, prompts_of
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.gguf_read import read_file, read_gguf
from quatrain.hub.open import open_source
from quatrain.model.llama import LlamaModel
from quatrain.text.chat import LLAMA4, ChatFormat
from quatrain.text.tokenizer import train_bpe
from tiny import tiny_model

MOE: dict[str, Any] = dict(
    vocab_size=512, d_model=64, n_layers=4, n_heads=4, n_kv_heads=2, d_k=32, num_local_experts=4,
    intermediate_size_expert=96, intermediate_size_mlp=128, interleave_moe_layer_step=2,
    max_position_embeddings=1024, initializer_range=0.15,
)  # fmt: skip
DENSE: dict[str, Any] = MOE | dict(
    interleave_moe_layer_step=0, rope_layers=(1, 1, 1, 1), use_qk_norm=False,
    attention_chunk_size=None, attn_temperature_tuning=False, tie_word_embeddings=True,
)  # fmt: skip


def made(directory: Path, shape: dict[str, Any] = MOE, **lora: Any) -> tuple[Path, LlamaModel]:
    """Write a base and an adapter of it, each with its text tools; return that and its model."""
    base = tiny_model(ModelConfig(**shape))
    tokenizer = train_bpe(pretraining_text(count=300), vocab_size=512)
    base.save_pretrained(directory / "base")
    model = adapted_model(base, **lora)
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")
    for place in ("base", "adapter"):
        tokenizer.save(directory / place)
        LLAMA4.save(directory / place)
    return directory / "adapter", model.eval()


@pytest.mark.parametrize(
    ("shape", "lora", "dtype", "bound"),
    [
        (MOE, {"targets": ("attention",)}, "f32", 0.002),
        (MOE, {"targets": ("experts",)}, "f32", 0.002),
        (MOE, {"targets": ("router",), "train_router": True}, "f32", 0.002),
        (MOE, {"train_router": True, "ranks": {"experts": 5}}, "f32", 0.002),
        (MOE, {"train_router": True}, "f16", 0.1),
        (DENSE, {}, "f32", 0.002),
    ],
    ids=["attention", "experts", "router", "all", "all in f16", "dense"],
)
def test_llama_cpp_says_what_the_adapted_model_says(
    shape: dict[str, Any], lora: dict[str, Any], dtype: str, bound: float, tmp_path: Path
) -> None:
    adapter, model = made(tmp_path, shape, **lora)
    convert(tmp_path / "base", tmp_path / "base-gguf", Conversion(to="gguf", dtype="f32"))
    done = convert(adapter, tmp_path / "result", Conversion(to="gguf", dtype=dtype))  # type: ignore[arg-type]
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-3
    source = open_source(adapter)
    base_file = tmp_path / "base-gguf" / "model-f32.gguf"
    llama = LlamaCpp(base_file, adapter=tmp_path / "result" / f"adapter-{dtype}.gguf")
    alone = observe(LlamaModel.from_pretrained(tmp_path / "base").eval(), source)
    compared = moved = 0
    for prompt, (logits, _), (before, _) in zip(
        prompts_of(source), observe(model, source), alone, strict=True
    ):
        said = llama.next_token(prompt, top=5)
        ours, bare = (one[-1].log_softmax(-1) for one in (logits, before))
        for one in said["top_logprobs"] if said else []:
            compared += 1
            moved += abs(float(ours[one["id"]] - bare[one["id"]])) > 10 * bound
            assert abs(one["logprob"] - float(ours[one["id"]])) <= bound
    assert compared >= 5
    assert moved >= 1  # the adapter says something else than its base


def test_scales_that_differ_are_kept(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    path = adapter / "adapter_config.json"
    text = path.read_text()
    assert '"alpha_pattern": {}' in text
    path.write_text(text.replace('"alpha_pattern": {}', '"alpha_pattern": {"q_proj": 48}'))
    for dtype in ("f32", "bf16"):
        asked = Conversion(to="gguf", dtype=dtype)  # type: ignore[arg-type]
        done = convert(adapter, tmp_path / dtype, asked)
        assert done.agreement is not None
        assert done.agreement.max_logit_difference < 1e-3


def test_gate_and_up_share_their_first_factor(tmp_path: Path) -> None:
    adapter, model = made(tmp_path)
    convert(adapter, tmp_path / "result", Conversion(to="gguf"))
    keys, tensors = read_file(tmp_path / "result" / "adapter-f32.gguf")
    assert keys["general.architecture"] == "llama4"
    assert keys["general.type"] == "adapter"
    lora = model.get_submodule("model.layers.1.feed_forward.experts.gate_up_proj_lora")
    for part, half in (("gate", slice(0, 96)), ("up", slice(96, 192))):
        a, b = (tensors[f"blk.1.ffn_{part}_exps.weight.lora_{one}"].load() for one in "ab")
        assert torch.equal(a.transpose(1, 2), lora.get_parameter("A"))
        assert torch.equal(b.transpose(1, 2), lora.get_parameter("B")[..., half])
    card = (tmp_path / "result" / "README.md").read_text()
    assert str(tmp_path / "base") in card
    assert "experts of rank 3" in card


def test_what_is_no_adapter_file_is_refused(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"(?s)Q411.*cannot be rounded to q8_0.*base model may still be q8_0"
    ):
        convert(adapter, tmp_path / "result", Conversion(to="gguf", dtype="q8_0"))
    convert(adapter, tmp_path / "result", Conversion(to="gguf"))
    with pytest.raises(CheckpointError, match=r"Q410.*holds an adapter, not a model"):
        read_gguf(tmp_path / "result" / "adapter-f32.gguf")


def test_a_base_that_llama_cpp_lacks_is_refused_by_its_field(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path, MOE | {"attention_chunk_size": 32})
    with pytest.raises(CheckpointError, match=r"attention_chunk_size=32"):
        convert(adapter, tmp_path / "result", Conversion(to="gguf"))
    assert not (tmp_path / "result").exists()


def test_another_tokenizer_is_refused_and_another_template_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, _ = made(tmp_path)
    ChatFormat(default_system="Sois bref.").save(adapter)
    convert(adapter, tmp_path / "result", Conversion(to="gguf"))
    assert "a different chat format" in caplog.text
    train_bpe(pretraining_text(seed=5, count=300), vocab_size=512).save(adapter)
    with pytest.raises(CheckpointError, match=r"(?s)Q411.*a different tokenizer.*--merge"):
        convert(adapter, tmp_path / "other", Conversion(to="gguf"))


def test_an_adapter_without_text_tools_takes_its_base_s(tmp_path: Path) -> None:
    adapter, _ = made(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_format.json"):
        (adapter / name).unlink()
    convert(adapter, tmp_path / "result", Conversion(to="gguf"))
