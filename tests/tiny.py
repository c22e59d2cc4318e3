"""Tiny models in which every term of the architecture shows (llama4.md section 7)."""

from __future__ import annotations

from typing import Any

import torch

from quatrain.config import ModelConfig, RopeScaling
from quatrain.model.llama import LlamaModel
from quatrain.model.norm import RMSNorm

BASE: dict[str, Any] = dict(
    vocab_size=96,
    d_model=48,
    n_layers=4,
    n_heads=4,
    n_kv_heads=2,
    d_k=16,
    num_local_experts=4,
    intermediate_size_expert=40,
    intermediate_size_mlp=96,
    interleave_moe_layer_step=2,
    attention_chunk_size=32,
    floor_scale=16,
    max_position_embeddings=512,
    rope_scaling=RopeScaling(original_max_position_embeddings=64),
    initializer_range=0.2,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "base": {},
    "every_layer_moe": {"interleave_moe_layer_step": 1},
    "no_moe": {"moe_layers": ()},
    "explicit_moe_layers": {"moe_layers": (0, 3)},
    "top_2": {"num_experts_per_tok": 2},
    "top_3_of_16": {"num_experts_per_tok": 3, "num_local_experts": 16},
    "one_expert": {"num_local_experts": 1},
    "sixteen_experts": {"num_local_experts": 16, "interleave_moe_layer_step": 1},
    "no_qk_norm": {"use_qk_norm": False},
    "chunk_above_length": {"attention_chunk_size": 256},
    "small_chunk": {"attention_chunk_size": 7},
    "no_temperature": {"attn_temperature_tuning": False},
    "plain_rope": {"rope_scaling": None, "rope_theta": 10000.0},
    "blended_rope": {
        "rope_scaling": RopeScaling(
            factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=64
        )
    },
    "one_head_for_all_keys": {"n_kv_heads": 1},
    "full_heads": {"n_kv_heads": 4},
    "heads_as_wide_as_model": {"d_k": 12},
    "first_layer_nope": {"rope_layers": (0, 1, 0, 1)},
    "biased_attention": {"attention_bias": True},
    "tied_embeddings": {"tie_word_embeddings": True},
}


def tiny_config(name: str = "base", **changes: Any) -> ModelConfig:
    return ModelConfig(**{**BASE, **CONFIGS[name], **changes})


def tiny_model(config: ModelConfig | None = None, seed: int = 0) -> LlamaModel:
    """A model with random norms and biases too, so that none of them goes unseen."""
    model = LlamaModel(config or tiny_config())
    generator = torch.Generator().manual_seed(seed)
    model.initialise(generator)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.weight.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=generator)
    return model


def random_ids(rows: int, length: int, seed: int = 0, vocab_size: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (rows, length), generator=generator)
