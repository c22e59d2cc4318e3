"""Dense checkpoints of the Llama family as Llama 4, and back: the same function, other names.

    Llama: RoPE on every layer, full attention, one SwiGLU a layer
        =  Llama 4 with no_rope_layers all 1, no chunks, moe_layers []

Their queries and keys are turned half against half, Llama 4's are turned in adjacent pairs, so
that the rows of q_proj and k_proj change places once, in each head:

    rows of a head of 6    0 1 2 | 3 4 5     becomes     0 3 1 4 2 5

Anything that would be another function is refused by name: windows, biases, other activations.
Not for giving the result experts (upcycle.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.hub.source import Source
from quatrain.model.hf_config import (
    CONFIG,
    DENSE_TYPES,
    ids_of,
    is_dense_type,
    model_config,
    read_json,
    read_rope,
)
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
), strict=True))  # fmt: skip
"""By model type, what transformers takes fields for that are left out."""
_NAMES = {
    "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads", "d_k": "head_dim",
    "intermediate_size_expert": "intermediate_size", "intermediate_size_mlp": "intermediate_size",
}  # fmt: skip
_ROTATED = re.compile(r"\.self_attn\.([qk])_proj\.weight$")
_OURS, _THEIRS = ".feed_forward.", ".mlp."
_EMBEDDINGS = "model.embed_tokens.weight"
_FREQUENCIES = "rotary_emb.inv_freq"


def read_dense(directory: Path) -> Source:
    """Open a directory of the Llama family; no weight is read yet.

    Raises:
        CheckpointError: Q410 for what Llama 4 cannot say, Q401 and Q43x for files.
    """
    fields = read_json(directory / CONFIG)
    config = dense_config(fields)
    tokenizer = Tokenizer.load(directory)
    tensors = {
        name.replace(_THEIRS, _OURS): _reordered(name, tensor, config, interleave)
        for name, tensor in open_tensors(directory).items()
        if not name.endswith(_FREQUENCIES)
    }
    if config.tie_word_embeddings and HEAD in tensors:
        _refuse_another_head(tensors)
    return Source(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat=chat_format_of(directory, tokenizer),
        origin=directory,
        kind=str(fields["model_type"]),
    )


def _refuse_another_head(tensors: dict[str, LazyTensor]) -> None:
    """Refuse a head that config.json calls tied and that is another matrix.

    Raises:
        CheckpointError: Q404.
    """
    if not torch.equal(tensors[HEAD].load(), tensors[_EMBEDDINGS].load()):
        raise CheckpointError("Q404.tied", head=HEAD, embeddings=_EMBEDDINGS)


def dense_config(fields: dict[str, Any]) -> ModelConfig:
    """Spell a Llama's or a Mistral's config.json as a Llama 4.

    Raises:
        CheckpointError: Q410 naming the field that would make it another function.
    """
    if not is_dense_type(fields):
        raise CheckpointError("Q410.model_type", kind=fields.get("model_type"))
    fields = DENSE[fields["model_type"]] | fields
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
        "rope_layers": [1] * min(layers, 1024) if isinstance(layers, int) else [],
        "max_position_embeddings": fields["max_position_embeddings"],
        "rms_norm_eps": fields["rms_norm_eps"],
        "use_qk_norm": False,
        "attention_chunk_size": None,
        "attn_temperature_tuning": False,
        "tie_word_embeddings": fields.get("tie_word_embeddings", False),
        "bos_token_id": fields["bos_token_id"],
        "pad_token_id": fields.get("pad_token_id"),
        "initializer_range": fields.get("initializer_range", 0.02),
        **read_rope(fields, theta=10000.0),
    }
    values["eos_token_ids"] = ids_of(fields["eos_token_id"])
    kv_heads = fields.get("num_key_value_heads")
    if kv_heads is not None:
        values["n_kv_heads"] = kv_heads
    if fields.get("head_dim") is not None:
        values["d_k"] = fields["head_dim"]
    return model_config(values, _NAMES)


def _refuse_other_functions(fields: dict[str, Any]) -> None:
    window, context = fields.get("sliding_window"), fields["max_position_embeddings"]
    harmless = isinstance(window, int) and isinstance(context, int) and window >= context
    if window is not None and fields["model_type"] == "mistral" and not harmless:
        raise CheckpointError("Q410.window", window=window)
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name):
            raise CheckpointError("Q410.biases", name=name)
    if fields.get("quantization_config"):
        raise CheckpointError("Q410.quantised")
    if fields.get("auto_map"):
        raise CheckpointError("Q410.auto_map_dense")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError("Q410.activation", given=fields["hidden_act"])
    if fields.get("pretraining_tp", 1) not in (None, 1):
        raise CheckpointError("Q410.pretraining_tp", given=fields["pretraining_tp"])


def _reordered(
    name: str, tensor: LazyTensor, config: ModelConfig, order: Callable[[Tensor, int], Tensor]
) -> LazyTensor:
    """Reorder the rows of a query or key projection; leave any other tensor."""
    if not _ROTATED.search(name):
        return tensor
    if len(tensor.shape) != 2 or tensor.shape[0] % config.d_k:
        raise CheckpointError("Q404.heads", name=name, shape=list(tensor.shape), d_k=config.d_k)
    return tensor.map(lambda weight: order(weight, config.d_k))


def is_dense(config: ModelConfig) -> bool:
    """Whether a plain Llama is the same function."""
    return (
        not config.moe_layers
        and all(config.rope_layers)
        and not config.use_qk_norm
        and config.attention_chunk_size is None
        and not config.attention_bias
    )


def as_llama(source: Source, dtype: str) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Spell a dense model as transformers' LlamaForCausalLM: config.json and tensors.

    Args:
        source: of which `is_dense` holds.
        dtype: float32, float16 or bfloat16.
    """
    assert is_dense(source.config)
    config, eos = source.config, list(source.config.eos_token_ids)
    scaling = config.rope_scaling
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
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
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
        "dtype": dtype,
    }
    tensors = {
        name.replace(_OURS, _THEIRS): _reordered(name, tensor, config, deinterleave)
        for name, tensor in source.tensors.items()
    }
    return fields, tensors
