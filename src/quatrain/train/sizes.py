"""Sizes: how many parameters a shape has, by arithmetic; and the bases whose shapes are known.

Not for memory in training (memory.py). Shapes: V vocabulary, H model width.
"""

from __future__ import annotations

from dataclasses import dataclass

from quatrain.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of parameters."""

    total: int
    active: int
    """What one token meets: all but the experts that it does not choose."""
    head: int
    """V x H, of the head, which may be the embedding too."""
    layers: tuple[int, ...]
    """Of each layer."""


def parameters(config: ModelConfig) -> Parameters:
    """Count a model's parameters; one matrix serves as embedding and head where they are tied."""
    table = config.vocab_size * config.d_model
    layers = tuple(layer_parameters(config, layer) for layer in range(config.n_layers))
    total = sum(layers) + table * (1 if config.tie_word_embeddings else 2) + config.d_model
    idle = config.num_local_experts - config.num_experts_per_tok
    unmet = len(set(config.moe_layers)) * idle * expert_parameters(config)
    return Parameters(total, total - unmet, table, layers)


def expert_parameters(config: ModelConfig) -> int:
    """Count one routed expert's: gate, up and down."""
    return 3 * config.d_model * config.intermediate_size_expert


def layer_parameters(config: ModelConfig, layer: int) -> int:
    """Count a layer's: two norms, attention, and a feed-forward with or without experts."""
    width, queries = config.d_model, config.n_heads * config.d_k
    keys = config.n_kv_heads * config.d_k
    attention = 2 * width * queries + 2 * width * keys
    if config.attention_bias:
        attention += queries + 2 * keys + width
    if layer not in config.moe_layers:
        return 2 * width + attention + 3 * width * config.intermediate_size_mlp
    shared = 3 * width * config.intermediate_size_shared
    experts = config.num_local_experts * (expert_parameters(config) + width)
    return 2 * width + attention + shared + experts


def _dense(vocabulary: int, width: int, layers: int, heads: int, keys: int, inner: int,
           tied: bool = True, d_k: int = 64) -> ModelConfig:  # fmt: skip
    """Describe a dense Llama, as it is once it is converted."""
    return ModelConfig(
        vocab_size=vocabulary, d_model=width, n_layers=layers, n_heads=heads, n_kv_heads=keys,
        d_k=d_k, intermediate_size_mlp=inner, moe_layers=(), rope_layers=(1,) * layers,
        use_qk_norm=False, tie_word_embeddings=tied, attention_chunk_size=None,
    )  # fmt: skip


def _llama4(experts: int, step: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=202048, d_model=5120, n_layers=48, n_heads=40, n_kv_heads=8, d_k=128,
        num_local_experts=experts, intermediate_size_expert=8192, intermediate_size_mlp=16384,
        interleave_moe_layer_step=step,
    )  # fmt: skip


def bases() -> dict[str, ModelConfig]:
    """Give the shapes of models that a fine-tuning may start from, by Hub id, smallest first.

    The dense ones are converted first: quatrain convert ID DIR --to llama4.
    """
    return {
        "HuggingFaceTB/SmolLM2-135M-Instruct": _dense(49152, 576, 30, 9, 3, 1536),
        "HuggingFaceTB/SmolLM2-360M-Instruct": _dense(49152, 960, 32, 15, 5, 2560),
        "meta-llama/Llama-3.2-1B-Instruct": _dense(128256, 2048, 16, 32, 8, 8192),
        "HuggingFaceTB/SmolLM2-1.7B-Instruct": _dense(49152, 2048, 24, 32, 32, 8192),
        "meta-llama/Llama-3.2-3B-Instruct": _dense(128256, 3072, 28, 24, 8, 8192, d_k=128),
        "meta-llama/Llama-3.1-8B-Instruct": _dense(128256, 4096, 32, 32, 8, 14336, False, 128),
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": _llama4(16, 1),
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct": _llama4(128, 2),
    }
