"""Dense checkpoints of the Llama family as Llama 4, and back: the same function, other names.

    Llama: RoPE on every layer, full attention, one SwiGLU a layer
        =  Llama 4 with no_rope_layers all 1, no chunks, moe_layers []
    Qwen2: the same with biases on queries, keys and values
        =  attention_bias, that of the output zero
    SmolLM3: the same with layers that have no RoPE
        =  its no_rope_layers, no temperature

Their queries and keys are turned half against half, Llama 4's are turned in adjacent pairs, so
that the rows of q_proj and k_proj change places once, in each head:

    rows of a head of 6    0 1 2 | 3 4 5     becomes     0 3 1 4 2 5

So do their biases; layers without RoPE keep their order. Anything that would be another function is
refused by name: windows, biases of the feed-forward, other activations.
Not for giving the result experts (upcycle.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.hub.source import Source
from quatrain.model.fp8 import joined_in
from quatrain.model.hf_config import (
    CONFIG,
    DENSE_TYPES,
    ids_of,
    is_dense_type,
    model_config,
    read_json,
    read_rope,
)
from quatrain.model.hf_quantised import quantisation
from quatrain.model.io import HEAD
from quatrain.model.rope import deinterleave, interleave
from quatrain.model.shards import LazyTensor, open_tensors
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer

_LLAMA: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DENSE: dict[str, dict[str, Any]] = dict(zip(DENSE_TYPES, (
    _LLAMA,
    _LLAMA | {
        "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    _LLAMA | {
        "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768,
        "bos_token_id": None, "eos_token_id": None, "sliding_window": 4096,
    },
    _LLAMA | {
        "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
        "bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 128004,
        "no_rope_layer_interval": 4, "tie_word_embeddings": True,
    },
), strict=True))  # fmt: skip
"""By model type, what transformers takes fields for that are left out."""
_NAMES = {
    "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "d_k": "head_dim",
    "intermediate_size_expert": "intermediate_size", "intermediate_size_mlp": "intermediate_size",
    "rope_layers": "no_rope_layers",
}  # fmt: skip
_ROTATED = re.compile(r"\.layers\.(\d+)\.self_attn\.[qk]_proj\.(?:weight|bias)$")
_OURS, _THEIRS = ".feed_forward.", ".mlp."
_EMBEDDINGS = "model.embed_tokens.weight"
_FREQUENCIES = "rotary_emb.inv_freq"
_WINDOWS_IF_USED = ("qwen2", "smollm3")
"""Model types whose windows count where `use_sliding_window` or `layer_types` says so."""


def read_dense(directory: Path) -> Source:
    """Open a directory of the Llama family; no weight is read yet.

    Raises:
        CheckpointError: Q410 for what Llama 4 cannot say, Q401 and Q43x for files.
    """
    fields = read_json(directory / CONFIG)
    config = dense_config(fields)
    tokenizer = Tokenizer.load(directory)
    kind = quantisation(fields)
    given = joined_in(kind, open_tensors(directory))
    tensors = {
        name.replace(_THEIRS, _OURS): _reordered(name, tensor, config, interleave)
        for name, tensor in given.items()
        if not name.endswith(_FREQUENCIES)
    }
    if fields["model_type"] == "qwen2":
        tensors = with_zero_biases(tensors, config, ("o_proj",))
    if config.tie_word_embeddings and HEAD in tensors:
        _refuse_another_head(tensors)
    return Source(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat=chat_format_of(directory, tokenizer),
        origin=directory,
        kind=str(fields["model_type"]),
        quantised=kind,
    )


def with_zero_biases(
    tensors: dict[str, LazyTensor], config: ModelConfig, projections: Iterable[str]
) -> dict[str, LazyTensor]:
    """Give those projections of attention that have a weight and no bias one of zeros."""
    zeros = {}
    for layer in range(config.n_layers):
        for projection in projections:
            name = f"model.layers.{layer}.self_attn.{projection}"
            if (weight := tensors.get(f"{name}.weight")) is not None:
                zero = torch.zeros(weight.shape[:1], dtype=weight.dtype)
                zeros[f"{name}.bias"] = LazyTensor.of(zero)
    return zeros | tensors


def _refuse_another_head(tensors: dict[str, LazyTensor]) -> None:
    """Refuse a head that config.json calls tied and that is another matrix.

    Raises:
        CheckpointError: Q404.
    """
    if not torch.equal(tensors[HEAD].load(), tensors[_EMBEDDINGS].load()):
        raise CheckpointError("Q404.tied", head=HEAD, embeddings=_EMBEDDINGS)


def dense_config(fields: dict[str, Any]) -> ModelConfig:
    """Spell a dense model's config.json as a Llama 4.

    Raises:
        CheckpointError: Q410 naming the field that would make it another function.
    """
    if not is_dense_type(fields):
        kind = fields.get("model_type")
        raise CheckpointError("Q410.model_type", kind=kind, dense=", ".join(DENSE_TYPES))
    kind = fields["model_type"]
    fields = DENSE[kind] | fields
    _refuse_other_functions(fields)
    layers, width = fields["num_hidden_layers"], fields["intermediate_size"]
    values: dict[str, Any] = {
        "vocab_size": fields["vocab_size"],
        "d_model": fields["hidden_size"],
        "n_layers": layers,
        "n_heads": fields["num_attention_heads"],
        "intermediate_size_expert": width,
        "intermediate_size_mlp": width,
        "interleave_moe_layer_step": 0,
        "max_position_embeddings": fields["max_position_embeddings"],
        "rms_norm_eps": fields["rms_norm_eps"],
        "use_qk_norm": False,
        "attention_chunk_size": None,
        "attn_temperature_tuning": False,
        "attention_bias": kind == "qwen2" or (fields.get("attention_bias") or False),
        "tie_word_embeddings": fields.get("tie_word_embeddings", False),
        "bos_token_id": fields["bos_token_id"],
        "pad_token_id": fields.get("pad_token_id"),
        "initializer_range": fields.get("initializer_range", 0.02),
        **read_rope(fields, theta=2e6 if kind == "smollm3" else 1e4),
        **_rope_layers(fields),
    }
    values["eos_token_ids"] = ids_of(fields["eos_token_id"])
    kv_heads = fields.get("num_key_value_heads")
    if kv_heads is not None:
        values["n_kv_heads"] = kv_heads
    if fields.get("head_dim") is not None:
        values["d_k"] = fields["head_dim"]
    return model_config(values, _NAMES)


def _rope_layers(fields: dict[str, Any]) -> dict[str, Any]:
    """Say which layers have RoPE: all, or SmolLM3's; of a list that is too long the first count."""
    layers, given = fields["num_hidden_layers"], fields.get("no_rope_layers")
    number = min(layers, 1024) if isinstance(layers, int) else 0
    if fields["model_type"] != "smollm3":
        return {"rope_layers": [1] * number}
    interval = {"no_rope_layer_interval": fields["no_rope_layer_interval"]}
    if given is None:
        return interval
    return interval | {"rope_layers": given[:number] if isinstance(given, list) else given}


def _refuse_windows(fields: dict[str, Any]) -> None:
    """Refuse layers that see the last tokens only, unless these are the whole context.

    Raises:
        CheckpointError: Q410.
    """
    kind, window = fields["model_type"], fields.get("sliding_window")
    used = kind == "mistral" or (kind in _WINDOWS_IF_USED and fields.get("use_sliding_window"))
    context = fields["max_position_embeddings"]
    harmless = isinstance(window, int) and isinstance(context, int) and window >= context
    if used and window is not None and not harmless:
        raise CheckpointError("Q410.window", window=window)
    layer_types = fields.get("layer_types") if kind in _WINDOWS_IF_USED else None
    for given in layer_types if isinstance(layer_types, list) else [layer_types]:
        if given not in (None, "full_attention"):
            raise CheckpointError("Q410.other_layers", given=str(given)[:200])


def _refuse_other_functions(fields: dict[str, Any]) -> None:
    _refuse_windows(fields)
    refused = ("mlp_bias", "attention_bias") if fields["model_type"] == "mistral" else ("mlp_bias",)
    for name in refused:
        if fields.get(name):
            raise CheckpointError("Q410.biases", name=name)
    quantisation(fields)
    if fields.get("auto_map"):
        raise CheckpointError("Q410.auto_map_dense")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError("Q410.activation", given=fields["hidden_act"])
    splits = fields["model_type"] == "llama" and fields.get("pretraining_tp", 1) not in (None, 1)
    if splits:
        raise CheckpointError("Q410.pretraining_tp", given=fields["pretraining_tp"])


def _reordered(
    name: str, tensor: LazyTensor, config: ModelConfig, order: Callable[[Tensor, int], Tensor]
) -> LazyTensor:
    """Reorder the rows of a query or key projection that RoPE turns; leave any other tensor."""
    found = _ROTATED.search(name)
    if not found or found[1] in _without_rope(config):
        return tensor
    rank = 1 if name.endswith(".bias") else 2
    if len(tensor.shape) != rank or tensor.shape[0] % config.d_k:
        raise CheckpointError("Q404.heads", name=name, shape=list(tensor.shape), d_k=config.d_k)
    return tensor.map(lambda weight: order(weight, config.d_k))


def _without_rope(config: ModelConfig) -> set[str]:
    return {str(layer) for layer, turned in enumerate(config.rope_layers) if not turned}


def dense_type(config: ModelConfig) -> str | None:
    """Name the dense model type that is the same function: llama, smollm3, or none."""
    if config.moe_layers or config.use_qk_norm or config.attention_chunk_size is not None:
        return None
    if all(config.rope_layers):
        return "llama"
    return None if config.attn_temperature_tuning else "smollm3"


_OWN: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
        "use_sliding_window": False, "sliding_window": None,
    },
}  # fmt: skip


def as_dense(source: Source, dtype: str) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Spell a dense model as transformers' LlamaForCausalLM or SmolLM3ForCausalLM.

    Args:
        source: of a `dense_type`.
        dtype: float32, float16 or bfloat16.

    Returns:
        config.json and tensors.
    """
    config, eos = source.config, list(source.config.eos_token_ids)
    kind, scaling = dense_type(config), config.rope_scaling
    assert kind is not None
    fields = {
        **_OWN[kind],
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.intermediate_size_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_k,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {
            "rope_type": "llama3" if scaling else "default",
            "rope_theta": config.rope_theta,
            **(scaling.model_dump() if scaling else {}),
        },
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
        "dtype": dtype,
    }
    if kind == "smollm3":
        fields["no_rope_layers"] = list(config.rope_layers)
        fields["no_rope_layer_interval"] = config.no_rope_layer_interval
    tensors = {
        name.replace(_OURS, _THEIRS): _reordered(name, tensor, config, deinterleave)
        for name, tensor in source.tensors.items()
    }
    return fields, tensors
