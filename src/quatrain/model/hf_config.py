"""The Hugging Face spelling of a model: config.json to ModelConfig and back.

Reads every spelling of docs/llama4.md section 1.1: nested under `text_config` or flat, old
`rope_scaling` and `rope_theta` or new `rope_parameters`, `no_rope_layers: []`, an integer
`attn_temperature_tuning`. Writes what transformers 5 writes for `llama4_text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer
from quatrain.model.hf_quantised import quantisation
from quatrain.model.stranger import conversion
from quatrain.rules import problems_of

CONFIG = "config.json"
_CHUNKED, _FULL = "chunked_attention", "full_attention"
_LARGEST_CONFIG = 1 << 20
_SAME_MEANING = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "d_k",
    "num_local_experts": "num_local_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "intermediate_size": "intermediate_size_expert",
    "intermediate_size_mlp": "intermediate_size_mlp",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
    "moe_layers": "moe_layers",
    "no_rope_layer_interval": "no_rope_layer_interval",
    "no_rope_layers": "rope_layers",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "use_qk_norm": "use_qk_norm",
    "attention_chunk_size": "attention_chunk_size",
    "attn_temperature_tuning": "attn_temperature_tuning",
    "floor_scale": "floor_scale",
    "attn_scale": "attn_scale",
    "attention_bias": "attention_bias",
    "tie_word_embeddings": "tie_word_embeddings",
    "initializer_range": "initializer_range",
    "bos_token_id": "bos_token_id",
    "pad_token_id": "pad_token_id",
}
"""Hugging Face's name -> ours. Their `no_rope_layers` holds 1 where RoPE *is* used."""

_DEFAULTS = {
    "vocab_size": 202048, "hidden_size": 5120, "num_hidden_layers": 48,
    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
    "num_local_experts": 16, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
    "max_position_embeddings": 131072, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""Llama4TextConfig's values for fields that a config.json leaves out, where ours differ."""

_ROPE_OF_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor",
                   "original_max_position_embeddings")  # fmt: skip
_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_ROPE_OF_LLAMA3}
"""Fields of RoPE that are read; any further one must be absent or null."""

DENSE_TYPES = ("llama", "mistral", "qwen2", "smollm3")
"""Model types of dense Llamas and similar models, which are converted to Llama 4 (hub/dense.py)."""

_NONE_WHEN_NULL = {"attention_chunk_size", "bos_token_id", "eos_token_id"}
_DERIVED_WHEN_NULL = {"head_dim", "num_key_value_heads"}
"""Any other field that is null counts as left out."""

_DERIVED = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "layer_types",
    "rope_scaling", "rope_theta", "rope_parameters", "eos_token_id", "hidden_act",
    "attention_dropout", "_attn_implementation_autoset", "quantization_config",
    "compression_config",
    "for_llm_compressor", "cache_implementation", "_name_or_path",
}  # fmt: skip


def read_json(path: Path, max_bytes: int = _LARGEST_CONFIG) -> dict[str, Any]:
    """Read a JSON object of a model directory.

    Raises:
        CheckpointError: Q401 when it is missing, oversized or not an object.
    """
    if not path.is_file():
        raise CheckpointError("Q401.missing", path=path)
    if is_lfs_pointer(path):
        raise CheckpointError("Q401.lfs", path=path)
    if path.stat().st_size > max_bytes:
        raise CheckpointError("Q401.large", path=path, max_bytes=max_bytes)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("Q401.json", path=path, error=error) from None
    if not isinstance(value, dict):
        raise CheckpointError("Q401.object", path=path)
    return value


def read_config(directory: Path) -> ModelConfig:
    """Read the architecture of a model directory; needs no torch.

    Raises:
        CheckpointError: as `from_hf`; for a dense model, with the command that converts it.
    """
    fields = read_json(directory / CONFIG)
    if (kind := fields.get("model_type")) in DENSE_TYPES:
        raise CheckpointError("Q410.dense", directory=directory, kind=kind, **conversion(directory))
    return from_hf(fields)


def refuse_larger_vocabulary(directory: Path, tokens: int, vocab_size: int) -> None:
    """Refuse a tokenizer with more `tokens` than the model has embedding rows.

    Raises:
        CheckpointError: Q404.
    """
    if tokens > vocab_size:
        raise CheckpointError(
            "Q404.tokenizer", directory=directory, tokens=tokens, vocab_size=vocab_size
        )


def from_hf(config: dict[str, Any]) -> ModelConfig:
    """Read the content of a config.json.

    Raises:
        CheckpointError: Q410 for another architecture, an unknown quantisation, or a field whose
            value this model cannot have.
    """
    text = _text_part(config)
    _refuse_what_we_lack(config, text)
    stated = _DEFAULTS | {
        name: value for name, value in text.items() if value is not None or name in _NONE_WHEN_NULL
    }
    for name in _DERIVED_WHEN_NULL & text.keys():
        if text[name] is None:
            del stated[name]
    values = {ours: stated[theirs] for theirs, ours in _SAME_MEANING.items() if theirs in stated}
    if values.get("rope_layers") in (None, []):
        values.pop("rope_layers", None)
    if _has_no_chunks(text):
        values["attention_chunk_size"] = None
    tuning = values.get("attn_temperature_tuning", True)
    values["attn_temperature_tuning"] = bool(tuning) if isinstance(tuning, int) else tuning
    values.update(read_rope(text))
    values["eos_token_ids"] = ids_of(stated["eos_token_id"])
    values["extra"] = {
        name: value
        for name, value in text.items()
        if name not in _SAME_MEANING and name not in _DERIVED
    }
    model = model_config(values, {ours: theirs for theirs, ours in _SAME_MEANING.items()})
    _refuse_other_masks(text.get("layer_types"), model)
    return model


def ids_of(eos: Any) -> Any:
    """Spell `eos_token_id`, which is an id, a list of ids or null, as a list."""
    return eos if isinstance(eos, list) else [] if eos is None else [eos]


def model_config(values: dict[str, Any], names: Mapping[str, str]) -> ModelConfig:
    """Check the values of a config.json, including their types: text is not a number.

    Args:
        values: by our names, lists as JSON has them.
        names: what config.json calls them.

    Raises:
        CheckpointError: Q410 naming each field that breaks a rule.
    """
    tuples = {n: tuple(one) if isinstance(one, list) else one for n, one in values.items()}
    names = {**names, "eos_token_ids": "eos_token_id", "rope_scaling": "rope_parameters"}
    try:
        return ModelConfig.model_validate(tuples, strict=True)
    except ValidationError as error:
        problems = tuple(dict.fromkeys(problems_of(error, names)))
        raise CheckpointError("Q410.rules", problems=problems) from None


def is_dense_type(config: dict[str, Any]) -> bool:
    """Whether a config.json is of a dense Llama."""
    return config.get("model_type") in DENSE_TYPES


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    kind = config.get("model_type")
    if kind == "llama4" and isinstance(config.get("text_config"), dict):
        text = dict(config["text_config"])
        text.setdefault("tie_word_embeddings", config.get("tie_word_embeddings", False))
        return text
    if kind == "llama4_text":
        return config
    raise CheckpointError("Q410.model_type", kind=kind, dense=", ".join(DENSE_TYPES))


def _refuse_what_we_lack(config: dict[str, Any], text: dict[str, Any]) -> None:
    quantisation(config)
    if config.get("auto_map") or text.get("auto_map"):
        raise CheckpointError("Q410.auto_map")
    if text.get("hidden_act", "silu") != "silu":
        raise CheckpointError("Q410.activation", given=text["hidden_act"])
    if text.get("attention_dropout"):
        raise CheckpointError("Q410.attention_dropout", given=text["attention_dropout"])


def _refuse_other_masks(layer_types: Any, model: ModelConfig) -> None:
    """Refuse chunks on layers without RoPE and the reverse, which transformers would compute."""
    if layer_types is None:
        return
    if not isinstance(layer_types, list) or len(layer_types) != model.n_layers:
        raise CheckpointError("Q410.layer_types", layers=model.n_layers)
    for layer, (given, ours) in enumerate(zip(layer_types, _layer_types(model), strict=True)):
        without_chunks = model.attention_chunk_size is None and given in (_CHUNKED, _FULL)
        if given != ours and not without_chunks:  # without chunks both names mean the same
            raise CheckpointError(
                "Q410.mask", layer=layer, given=given, rope=model.rope_layers[layer], ours=ours
            )


def _layer_types(model: ModelConfig) -> list[str]:
    chunked = model.attention_chunk_size is not None
    return [_CHUNKED if rope and chunked else _FULL for rope in model.rope_layers]


def _has_no_chunks(text: dict[str, Any]) -> bool:
    """Whether every layer sees everything, however the config says it (see `to_hf`)."""
    layer_types = text.get("layer_types")
    return isinstance(layer_types, list) and layer_types == [_FULL] * max(1, len(layer_types))


def read_rope(text: dict[str, Any], theta: float = 500000.0) -> dict[str, Any]:
    """Read both spellings of theta and scaling; `theta` is what a config without one means.

    Raises:
        CheckpointError: Q410 for a scaling other than Llama 3's, or an incomplete one.
    """
    stated: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = {} if text.get(name) is None else text[name]
        if not isinstance(part, dict):
            raise CheckpointError("Q410.part", name=name, part=part)
        stated |= {field: value for field, value in part.items() if value is not None}
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise CheckpointError("Q410.rope_type", kind=kind)
    _refuse_other_rope(text, stated)
    given = [one for one in (stated.get("rope_theta"), text.get("rope_theta")) if one is not None]
    values: dict[str, Any] = {"rope_theta": given[0] if given else theta}
    if kind == "llama3":
        for name in _ROPE_OF_LLAMA3:
            if name not in stated:
                raise CheckpointError("Q410.rope_missing", name=name)
        values["rope_scaling"] = {name: stated[name] for name in _ROPE_OF_LLAMA3}
    return values


def _refuse_other_rope(text: dict[str, Any], stated: dict[str, Any]) -> None:
    """Refuse fields that would change RoPE.

    Raises:
        CheckpointError: Q410 naming the field.
    """
    for name, value in stated.items():
        if name not in _ROPE:
            raise CheckpointError("Q410.rope_field", name=name, given=value)
    for part in (text, stated):
        if (share := part.get("partial_rotary_factor")) not in (None, 1):
            raise CheckpointError("Q410.rope_field", name="partial_rotary_factor", given=share)
    name = "original_max_position_embeddings"  # transformers prefers the outer one
    if name in stated and text.get(name) not in (None, stated[name]):
        raise CheckpointError("Q410.rope_field", name=name, given=text[name])


def to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """Spell a model as transformers' Llama4TextConfig does."""
    fields: dict[str, Any] = {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"}
    fields.update(config.extra)
    for theirs, ours in _SAME_MEANING.items():
        value = getattr(config, ours)
        fields[theirs] = list(value) if isinstance(value, tuple) else value
    scaling = config.rope_scaling
    fields["rope_parameters"] = {
        "rope_type": "llama3" if scaling else "default",
        "rope_theta": config.rope_theta,
        **(scaling.model_dump() if scaling else {}),
    }
    fields["layer_types"] = _layer_types(config)
    if config.attention_chunk_size is None:  # null would stop transformers: it makes both masks
        fields["attention_chunk_size"] = config.max_position_embeddings
    fields["hidden_act"] = "silu"
    fields["attention_dropout"] = 0.0
    eos = list(config.eos_token_ids)
    fields["eos_token_id"] = eos[0] if len(eos) == 1 else eos or None
    fields["dtype"] = dtype
    return fields
