"""The slow, obvious twin of LlamaModel: one document, one token, one head, one expert at a time.

Reads a state dict and a ModelConfig, shares no code with quatrain.model. Facts: llama4.md 1.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quatrain.config import ModelConfig

Weights = dict[str, Tensor]


def logits(weights: Weights, config: ModelConfig, ids: list[int]) -> Tensor:
    """Logits [T, V] of one document."""
    x = [weights["model.embed_tokens.weight"][token] for token in ids]
    for layer in range(config.n_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        normed = [rms(token, config.rms_norm_eps) * own["input_layernorm.weight"] for token in x]
        seen = attention(own, config, layer, normed)
        x = [token + more for token, more in zip(x, seen, strict=True)]
        for i, token in enumerate(x):
            normed_token = rms(token, config.rms_norm_eps) * own["post_attention_layernorm.weight"]
            x[i] = token + feed_forward(own, config, layer, normed_token)
    final = [rms(token, config.rms_norm_eps) * weights["model.norm.weight"] for token in x]
    return torch.stack(final) @ weights["lm_head.weight"].T


def rms(x: Tensor, eps: float) -> Tensor:
    return x / math.sqrt(float((x * x).mean()) + eps)


def attention(own: Weights, config: ModelConfig, layer: int, x: list[Tensor]) -> list[Tensor]:
    d, group = config.d_k, config.n_heads // config.n_kv_heads
    rope = bool(config.rope_layers[layer])
    outs = []
    for i, token in enumerate(x):
        heads = []
        for head in range(config.n_heads):
            q = project(own["self_attn.q_proj.weight"], token, head, d)
            q = prepare(q, i, config, rope)
            if not rope and config.attn_temperature_tuning:
                steps = math.floor((i + 1) / config.floor_scale)
                q = q * (1 + config.attn_scale * math.log(1 + steps))
            past = [j for j in range(i + 1) if not rope or same_chunk(i, j, config)]
            scores, values = [], []
            for j in past:
                k = project(own["self_attn.k_proj.weight"], x[j], head // group, d)
                scores.append(q @ prepare(k, j, config, rope) / math.sqrt(d))
                values.append(project(own["self_attn.v_proj.weight"], x[j], head // group, d))
            heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
        outs.append(own["self_attn.o_proj.weight"] @ torch.cat(heads))
    return outs


def same_chunk(i: int, j: int, config: ModelConfig) -> bool:
    chunk = config.attention_chunk_size
    return chunk is None or i // chunk == j // chunk


def project(weight: Tensor, token: Tensor, head: int, d: int) -> Tensor:
    return weight[head * d : (head + 1) * d] @ token


def prepare(x: Tensor, position: int, config: ModelConfig, rope: bool) -> Tensor:
    if not rope:
        return x
    turned = x.clone()
    for j in range(config.d_k // 2):
        angle = position * frequency(j, config)
        a, b = x[2 * j], x[2 * j + 1]
        turned[2 * j] = a * math.cos(angle) - b * math.sin(angle)
        turned[2 * j + 1] = a * math.sin(angle) + b * math.cos(angle)
    return rms(turned, config.rms_norm_eps) if config.use_qk_norm else turned


def frequency(j: int, config: ModelConfig) -> float:
    f = config.rope_theta ** (-2 * j / config.d_k)
    s = config.rope_scaling
    if s is None:
        return f
    wavelength, context = 2 * math.pi / f, s.original_max_position_embeddings
    if wavelength > context / s.low_freq_factor:
        return f / s.factor
    if wavelength < context / s.high_freq_factor:
        return f
    share = (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    return (1 - share) * f / s.factor + share * f


def feed_forward(own: Weights, config: ModelConfig, layer: int, x: Tensor) -> Tensor:
    if layer not in config.moe_layers:
        return swiglu(own, "feed_forward", x)
    scores = own["feed_forward.router.weight"] @ x
    out = swiglu(own, "feed_forward.shared_expert", x)
    for expert in scores.topk(config.num_experts_per_tok).indices.tolist():
        scaled = torch.sigmoid(scores[expert]) * x
        both = scaled @ own["feed_forward.experts.gate_up_proj"][expert]
        gate, up = both.chunk(2)
        out = out + (F.silu(gate) * up) @ own["feed_forward.experts.down_proj"][expert]
    return out


def swiglu(own: Weights, name: str, x: Tensor) -> Tensor:
    gate = own[f"{name}.gate_proj.weight"] @ x
    up = own[f"{name}.up_proj.weight"] @ x
    return own[f"{name}.down_proj.weight"] @ (F.silu(gate) * up)
