"""Active matmul FLOPs of a training step, counted from shapes: what a step cannot do without.

A product of [M, K] and [K, N] is 2 M K N. For N tokens, a forward pass has

    attention    2 N H (2 Q + 2 KV)             q and o are H x Q, k and v are H x KV
    scores       4 Q for each pair              q k' and p v, over the pairs that may see each other
    experts      k x 6 N H I + 6 N H I          k routed experts and the shared one, SwiGLU
    router       2 N H E
    dense layer  6 N H M                        where there are no experts
    head         2 P H V                        for the P tokens that are judged, not for all

and training has three times that: each weight's product once more for the gradient of its input
and once more for its own. An expert that a token did not choose counts nothing, nor does anything
that is recomputed (checkpointed layers, attention's scores) or that is no product (norms, RoPE,
softmax, the optimizer): the share of the limit that is reported is so the lower for it.

Shapes: H model width, Q query heads x width of a head, KV the same of keys, I and M inner widths,
E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable

from quatrain.config import ModelConfig

FORWARD_AND_BACKWARD = 3


def step_flops(config: ModelConfig, documents: Iterable[int], judged: int) -> int:
    """Count a training step.

    Args:
        config: the model.
        documents: the lengths of the documents; tokens see their own past alone.
        judged: how many tokens are targets.
    """
    lengths = list(documents)
    tokens = sum(lengths)
    total = 2 * judged * config.d_model * config.vocab_size
    for layer in range(config.n_layers):
        chunk = config.attention_chunk_size if config.rope_layers[layer] else None
        total += attention_flops(config, tokens) + score_flops(config, lengths, chunk)
        if layer in config.moe_layers:
            total += moe_flops(config, tokens)
        else:
            total += 6 * tokens * config.d_model * config.intermediate_size_mlp
    return FORWARD_AND_BACKWARD * total


def attention_flops(config: ModelConfig, tokens: int) -> int:
    """Count the four projections of one layer, forward."""
    queries, keys = config.n_heads * config.d_k, config.n_kv_heads * config.d_k
    return 2 * tokens * config.d_model * (2 * queries + 2 * keys)


def score_flops(config: ModelConfig, lengths: Iterable[int], chunk: int | None) -> int:
    """Count both products of attention in one layer, forward: each token with its past."""
    pairs = sum(part * (part + 1) // 2 for length in lengths for part in _parts(length, chunk))
    return 4 * config.n_heads * config.d_k * pairs


def moe_flops(config: ModelConfig, tokens: int, shared: bool = True) -> int:
    """Count one layer's router, chosen experts and, where there is one, shared expert, forward."""
    experts = config.num_experts_per_tok + shared
    expert = 6 * tokens * config.d_model * config.intermediate_size_expert
    return experts * expert + 2 * tokens * config.d_model * config.num_local_experts


def _parts(length: int, chunk: int | None) -> list[int]:
    if chunk is None or chunk >= length:
        return [length]
    return [chunk] * (length // chunk) + [length % chunk] * (length % chunk > 0)
