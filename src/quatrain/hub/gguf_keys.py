"""The keys of a GGUF file: what they say of the architecture, and none passed over in silence.

Each key under the architecture's name is read, or is known not to bear on the numbers, or says what
a Llama does without it (a scale of 1, no scaling); any other is refused by its name. Not for the
tensors (gguf_read.py) nor for building the tokenizer (gguf_text.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.hub.gguf_names import rope_pattern
from quatrain.hub.gguf_text import Vocabulary
from quatrain.rules import problems_of
from quatrain.words import Sentence

Values = Mapping[str, Any]
ARCHITECTURES = ("llama", "qwen2", "smollm3", "llama4")

_FIELDS = {
    "d_model": "embedding_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "d_k": "attention.key_length",
    "intermediate_size_mlp": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_OF_EXPERTS = {
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "intermediate_size_expert": "expert_feed_forward_length",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
}
"""Our names -> the keys, under the architecture's name."""

_DERIVED = {"n_kv_heads", "d_k"}
"""Where their key is absent, they follow from others, as in llama.cpp."""

_HARMLESS = {
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "tensor_data_layout",
}  # fmt: skip
"""Keys that change no number; the first four are of scalings that are refused by their type."""

_OFF: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.alpha": (1.0,),
    "rope.scaling.yarn_attn_factor": (-1.0, 1.0),
    "rope.scaling.yarn_ext_factor": (-1.0, 0.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.output_scale": (0.0, 1.0),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "use_parallel_residual": (False,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_weights_norm": (False,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
}
"""Values by which a key changes nothing, of either architecture."""

_LINEAR = ("rope.scaling.factor", "rope.scale_linear")
"""What llama.cpp divides positions by, where the type is linear or absent."""
_SIGMOID = 2
"""llama.cpp's number of the function that Llama 4's router ends in."""


def config_of(keys: Values, tied: bool, biased: bool = False) -> ModelConfig:
    """Read the architecture, without a scaling of frequencies that lies in a tensor.

    Args:
        keys: of the file.
        tied: whether it lacks a matrix of its own for the head.
        biased: whether its projections of attention have biases.

    Raises:
        CheckpointError: Q410 for another architecture, or a key that is not carried over.
    """
    arch = _architecture(keys)
    said = {
        name.removeprefix(f"{arch}."): value
        for name, value in keys.items()
        if name.startswith(f"{arch}.")
    }
    fields = _FIELDS | (_OF_EXPERTS if arch == "llama4" else {})
    values: dict[str, Any] = {
        ours: _as_written(_one_for_all(said.get(theirs)))
        for ours, theirs in fields.items()
        if theirs in said or ours not in _DERIVED
    }
    values["rope_theta"] = values["rope_theta"] if "rope.freq_base" in said else 10000.0
    values |= _with_experts(said) if arch == "llama4" else _without_experts(values, arch)
    values |= {
        "vocab_size": len(texts(keys, "tokenizer.ggml.tokens")),
        "tie_word_embeddings": tied,
        "attention_bias": biased,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "pad_token_id": keys.get("tokenizer.ggml.padding_token_id"),
    }
    try:
        config = ModelConfig.model_validate(values, strict=True)
    except ValidationError as error:
        names = {ours: f"{arch}.{theirs}" for ours, theirs in fields.items()}
        problems = Sentence.of("reasons.rules", problems=problems_of(error, names))
        raise CheckpointError("Q410.gguf_keys", why=problems) from None
    _refuse_unread(said, arch, fields, config)
    return config


def _architecture(keys: Values) -> str:
    arch = keys.get("general.architecture")
    if keys.get("split.count") not in (None, 0, 1):
        raise CheckpointError("Q410.gguf_split", number=keys["split.count"])
    if arch not in ARCHITECTURES or "tokenizer.ggml.tokens" not in keys:
        raise CheckpointError("Q410.gguf_architecture", arch=arch, read=", ".join(ARCHITECTURES))
    if keys.get("tokenizer.ggml.model") != "gpt2":
        raise CheckpointError("Q410.gguf_tokenizer", given=keys.get("tokenizer.ggml.model"))
    if arch != "llama4" and keys.get(f"{arch}.expert_count"):
        raise CheckpointError("Q410.mixtral", arch=arch)
    return str(arch)


def _one_for_all(value: Any) -> Any:
    """Take the value of every layer where they are alike; leave a list of several."""
    alike = isinstance(value, list) and value and all(one == value[0] for one in value)
    return value[0] if alike else value


def _as_written(value: Any) -> Any:
    """Give the shortest decimal that is this float32: 1e-05, and not 9.999999747378752e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _without_experts(values: Values, arch: str) -> dict[str, Any]:
    layers = min(values["n_layers"], 1024) if type(values["n_layers"]) is int else 0
    return {
        "intermediate_size_expert": values["intermediate_size_mlp"],
        "interleave_moe_layer_step": 0,
        "rope_layers": rope_pattern(layers) if arch == "smollm3" else (1,) * layers,
        "use_qk_norm": False,
        "attention_chunk_size": None,
        "attn_temperature_tuning": False,
    }


def _with_experts(said: Values) -> dict[str, Any]:
    return {"use_qk_norm": said.get("expert_count") != 128}


def _refuse_unread(said: Values, arch: str, read: Values, config: ModelConfig) -> None:
    """Refuse a key that was not read and says something that no Llama here does.

    Raises:
        CheckpointError: Q410 naming each and its value.
    """
    off = (
        _OFF | _by_config(config) | (_llama4(config) if arch == "llama4" else _llama(config, said))
    )
    factors = {name: said[name] for name in _LINEAR if name in said}
    if said.get("rope.scaling.type") == "none":  # then llama.cpp takes no factor
        off |= {name: (value,) for name, value in factors.items()}
    elif all(value in (0, 1) for value in factors.values()):
        off["rope.scaling.type"] = ("none", "linear")
    unread = {
        name: value
        for name, value in said.items()
        if name not in _HARMLESS
        and name not in read.values()
        and not any(_same(_one_for_all(value), neutral) for neutral in off.get(name, ()))
    }
    if unread:
        shown = tuple(f"{arch}.{name}={value!r}"[:200] for name, value in unread.items())
        raise CheckpointError("Q410.gguf_field", fields=shown)


def _by_config(config: ModelConfig) -> dict[str, tuple[Any, ...]]:
    """List keys that say what others say already."""
    head, width = (config.d_k,), (config.d_model,)
    return {
        "vocab_size": (config.vocab_size,),
        "embedding_length_out": width,
        "rope.dimension_count": head,
        "rope.dimension_count_swa": head,
        "rope.freq_base_swa": (config.rope_theta,),
        "attention.value_length": head,
        "attention.key_length_swa": head,
        "attention.value_length_swa": head,
        "attention.scale": (0.0, config.d_k**-0.5),
    }


def _llama(config: ModelConfig, said: Values) -> dict[str, tuple[Any, ...]]:
    """List what changes nothing in a model without experts; a window wider than the context."""
    off: dict[str, tuple[Any, ...]] = dict.fromkeys(
        ("expert_count", "expert_used_count", "expert_shared_count", "expert_gating_func",
         "expert_feed_forward_length", "expert_shared_feed_forward_length",
         "interleave_moe_layer_step", "attention.temperature_scale",
         "attention.temperature_length"), (0,),
    )  # fmt: skip
    window = said.get("attention.sliding_window")
    wide = type(window) is int and (window == 0 or window >= config.max_position_embeddings)
    return off | ({"attention.sliding_window": (window,)} if wide else {})


def _llama4(config: ModelConfig) -> dict[str, tuple[Any, ...]]:
    """List what is so in every Llama 4."""
    return {
        "attention.sliding_window": (config.attention_chunk_size,),
        "attention.sliding_window_pattern": (config.no_rope_layer_interval,),
        "attention.temperature_length": (config.floor_scale,),
        "attention.temperature_scale": (config.attn_scale,),
        "expert_gating_func": (_SIGMOID,),
        "expert_shared_count": (1,),
        "expert_shared_feed_forward_length": (config.intermediate_size_shared,),
    }


def _same(value: Any, neutral: Any) -> bool:
    """Compare; a float32 of the file is its decimal."""
    if isinstance(value, float) and isinstance(neutral, int | float):
        return math.isclose(value, neutral, rel_tol=1e-6)
    return bool(value == neutral)


def vocabulary_in(keys: Values, size: int) -> Vocabulary:
    """Read what the tokenizer is made of.

    Raises:
        CheckpointError: Q410 naming a key of another type.
    """
    types = _typed(keys, "tokenizer.ggml.token_type", list, [1] * size)
    if len(types) != size or any(type(one) is not int for one in types):
        raise _ill("tokenizer.ggml.token_type", types, Sentence.of("rules.gguf.types", size=size))
    return Vocabulary(
        _typed(keys, "tokenizer.ggml.pre", str, "default"),
        texts(keys, "tokenizer.ggml.tokens"),
        types,
        texts(keys, "tokenizer.ggml.merges"),
    )


def token_ids(keys: Values) -> dict[str, int]:
    """Read the ids of `bos`, `eos` and `pad`, as far as the file has them. Raises Q410."""
    found = {
        which: _typed(keys, f"tokenizer.ggml.{key}_token_id", int, None)
        for which, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return {which: one for which, one in found.items() if one is not None}


def template_in(keys: Values) -> str:
    """Read the chat template; empty where there is none. Raises Q410."""
    return str(_typed(keys, "tokenizer.chat_template", str, ""))


def texts(keys: Values, name: str) -> list[str]:
    """Read a list of texts; an absent one is empty. Raises Q410."""
    found = _typed(keys, name, list, [])
    if any(not isinstance(one, str) for one in found):
        raise _ill(name, found, Sentence.of("rules.gguf.list"))
    return list(found)


def _typed(keys: Values, name: str, kind: type, default: Any) -> Any:
    value = keys.get(name, default)
    if value is not default and type(value) is not kind:
        raise _ill(name, value, Sentence.of(f"rules.gguf.{kind.__name__}"))
    return value


def _ill(name: str, value: Any, rule: Sentence) -> CheckpointError:
    return CheckpointError("Q410.gguf_type", key=name, given=repr(value)[:200], rule=rule)
