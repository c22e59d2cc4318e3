"""Sizes: how many parameters a model shape and its adapters have, by arithmetic.

Not for memory in training (memory.py), nor for which shapes models have (bases.py).

Shapes: V vocabulary, H model width.
"""

from __future__ import annotations

from dataclasses import dataclass

from quatrain.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts of parameters."""

    total: int
    active: int
    """Used by one token: all except the experts that it does not choose."""
    head: int
    """V x H, of the head, which may be tied to the embedding."""
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
    """Count the parameters of one routed expert: gate, up and down."""
    return 3 * config.d_model * config.intermediate_size_expert


def layer_parameters(config: ModelConfig, layer: int) -> int:
    """Count the parameters of a layer: two norms, attention, and the feed-forward or experts."""
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
