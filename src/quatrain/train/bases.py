"""Bases: models that fine-tuning may start from, and whose shapes are known for sure.

Each has a byte-level tokenizer and a chat template that is recognised. How well it speaks French is
what its authors say, less for small models; it was not measured here. Not for what training takes
(plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quatrain.config import ModelConfig

French = Literal["well", "some", "little"]


@dataclass(frozen=True, slots=True)
class Base:
    """A published model."""

    shape: ModelConfig
    """After conversion."""
    licence: str
    french: French
    published: int | None = None
    """Parameters as published; None where these include a vision part."""


_APACHE, _LLAMA, _QWEN = "Apache 2.0", "Llama {}", "Qwen Research"


def _dense(vocabulary: int, width: int, layers: int, heads: int, keys: int, inner: int,
           tied: bool = True, d_k: int = 64, biases: bool = False,
           nope: int | None = None) -> ModelConfig:  # fmt: skip
    """Describe a dense model, with a layer without RoPE every `nope`."""
    rope = tuple(int(not nope or (layer + 1) % nope != 0) for layer in range(layers))
    return ModelConfig(
        vocab_size=vocabulary, d_model=width, n_layers=layers, n_heads=heads, n_kv_heads=keys,
        d_k=d_k, intermediate_size_mlp=inner, moe_layers=(), rope_layers=rope,
        use_qk_norm=False, tie_word_embeddings=tied, attention_chunk_size=None,
        attention_bias=biases,
    )  # fmt: skip


def _qwen(width: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int = 151936,
          tied: bool = True, d_k: int = 128) -> ModelConfig:  # fmt: skip
    return _dense(vocabulary, width, layers, heads, keys, inner, tied, d_k, biases=True)


def _llama4(experts: int, step: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=202048, d_model=5120, n_layers=48, n_heads=40, n_kv_heads=8, d_k=128,
        num_local_experts=experts, intermediate_size_expert=8192, intermediate_size_mlp=16384,
        interleave_moe_layer_step=step,
    )  # fmt: skip


def bases() -> dict[str, Base]:
    """List them by Hub id, smallest first.

    Convert the dense ones before training: quatrain convert ID DIR --to llama4.
    """
    smollm3 = _dense(128256, 2048, 36, 16, 4, 11008, d_k=128, nope=4)
    llama3 = _dense(128256, 3072, 28, 24, 8, 8192, d_k=128)
    large = _dense(128256, 4096, 32, 32, 8, 14336, False, 128)
    qwen = _qwen(3584, 28, 28, 4, 18944, 152064, tied=False)
    found = {
        "HuggingFaceTB/SmolLM2-135M-Instruct":
            Base(_dense(49152, 576, 30, 9, 3, 1536), _APACHE, "little", 134_515_008),
        "HuggingFaceTB/SmolLM2-360M-Instruct":
            Base(_dense(49152, 960, 32, 15, 5, 2560), _APACHE, "little", 361_821_120),
        "Qwen/Qwen2.5-0.5B-Instruct":
            Base(_qwen(896, 24, 14, 2, 4864, d_k=64), _APACHE, "some", 494_032_768),
        "meta-llama/Llama-3.2-1B-Instruct":
            Base(_dense(128256, 2048, 16, 32, 8, 8192), _LLAMA.format("3.2"), "some",
                 1_235_814_400),
        "Qwen/Qwen2.5-1.5B-Instruct":
            Base(_qwen(1536, 28, 12, 2, 8960), _APACHE, "some", 1_543_714_304),
        "HuggingFaceTB/SmolLM2-1.7B-Instruct":
            Base(_dense(49152, 2048, 24, 32, 32, 8192), _APACHE, "little", 1_711_376_384),
        "HuggingFaceTB/SmolLM3-3B": Base(smollm3, _APACHE, "well", 3_075_098_624),
        "Qwen/Qwen2.5-3B-Instruct":
            Base(_qwen(2048, 36, 16, 2, 11008), _QWEN, "well", 3_085_938_688),
        "meta-llama/Llama-3.2-3B-Instruct":
            Base(llama3, _LLAMA.format("3.2"), "well", 3_212_749_824),
        "Qwen/Qwen2.5-7B-Instruct": Base(qwen, _APACHE, "well", 7_615_616_512),
        "meta-llama/Llama-3.1-8B-Instruct":
            Base(large, _LLAMA.format("3.1"), "well", 8_030_261_248),
        "meta-llama/Llama-4-Scout-17B-16E-Instruct":
            Base(_llama4(16, 1), _LLAMA.format("4"), "well"),
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct":
            Base(_llama4(128, 2), _LLAMA.format("4"), "well"),
    }  # fmt: skip
    return found
