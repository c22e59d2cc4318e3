"""Read a GGUF file of a dense Llama or of Llama 4 as a Source, whatever its weights' types.

Weights are turned into float32 when they are read. llama.cpp rotates queries and keys in adjacent
pairs, as Llama 4 does, so that their rows stay as they are. Plausible sizes are checked before the
library is trusted with a file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from quatrain.config import ModelConfig, RopeScaling
from quatrain.errors import CheckpointError
from quatrain.hub.gguf_names import from_gguf
from quatrain.hub.gguf_text import Vocabulary, tokenizer_of
from quatrain.hub.gguf_write import SCALING_KEY, frequency_factors, library
from quatrain.hub.source import Source
from quatrain.model.shards import LazyTensor
from quatrain.rules import problems_of
from quatrain.text.recognise import recognise
from quatrain.words import Sentence

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_SMALLEST_TENSOR, _SMALLEST_KEY = 24, 13
_MOST = 1 << 20
"""Tensors or keys of a file that is not absurd."""
_KNOWN_SCALINGS = (
    RopeScaling(factor=8, low_freq_factor=1, high_freq_factor=4),
    RopeScaling(factor=32, low_freq_factor=1, high_freq_factor=4),
    RopeScaling(factor=16, low_freq_factor=1, high_freq_factor=1),
    RopeScaling(factor=8, low_freq_factor=1, high_freq_factor=1),
)
"""Llama 3.1's, 3.2's, Scout's, Guard's: a file has the factors that follow, and not these."""


def read_gguf(path: Path) -> Source:
    """Open a file; weights are read when they are needed.

    Raises:
        CheckpointError: Q401 for a broken file, Q410 for another architecture, Q43x for its
            tokenizer.
    """
    keys, tensors = read_file(path)
    if keys.get("general.type") == "adapter":
        raise CheckpointError("Q410.gguf_adapter", path=path)
    config = _config_of(keys, tensors)
    vocabulary = Vocabulary(
        str(keys.get("tokenizer.ggml.pre", "default")),
        list(keys["tokenizer.ggml.tokens"]),
        list(keys.get("tokenizer.ggml.token_type", [1] * config.vocab_size)),
        list(keys.get("tokenizer.ggml.merges", [])),
    )
    ids = {
        which: int(keys[f"tokenizer.ggml.{key}_token_id"])
        for which, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in keys
    }
    tokenizer = tokenizer_of(vocabulary, ids)
    template = keys.get("tokenizer.chat_template")
    if not template:
        raise CheckpointError("Q430.gguf_chat")
    chat = recognise(str(template), tokenizer)
    return Source(config, from_gguf(tensors), tokenizer, chat, path, "gguf")


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Give a file's keys, and its tensors, which are read when they are needed.

    Raises:
        CheckpointError: Q401 for a broken file.
    """
    _refuse_implausible(path)
    gguf = library()
    try:
        reader = gguf.GGUFReader(path)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {str(one.name): _lazy(gguf, one) for one in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise CheckpointError("Q401.unreadable_gguf", path=path, error=error) from None
    return keys, tensors


def _refuse_implausible(path: Path) -> None:
    """Look at the first 24 bytes: magic, version, how many tensors and keys."""
    if not path.is_file():
        raise CheckpointError("Q401.no_file", path=path)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:4] != _MAGIC:
        raise CheckpointError("Q401.no_gguf", path=path)
    version, tensors, keys = struct.unpack("<IQQ", head[4:])
    least = tensors * _SMALLEST_TENSOR + keys * _SMALLEST_KEY
    if version not in _VERSIONS or max(tensors, keys) > _MOST or least > size:
        raise CheckpointError(
            "Q401.gguf_header", path=path, version=version, tensors=tensors, keys=keys, size=size
        )


def _lazy(gguf: Any, one: Any) -> LazyTensor:
    shape = tuple(int(size) for size in reversed(one.shape.tolist()))

    def load() -> Tensor:
        values = gguf.quants.dequantize(one.data, one.tensor_type).astype(np.float32, copy=False)
        return torch.from_numpy(np.array(values)).view(shape)

    return LazyTensor(shape, torch.float32, load)


def _config_of(keys: dict[str, Any], tensors: dict[str, LazyTensor]) -> ModelConfig:
    """Read the architecture.

    Raises:
        CheckpointError: Q410.
    """
    arch = keys.get("general.architecture")
    if arch not in ("llama", "llama4") or "tokenizer.ggml.tokens" not in keys:
        raise CheckpointError("Q410.gguf_architecture", arch=arch)
    if keys.get("tokenizer.ggml.model") != "gpt2":
        raise CheckpointError("Q410.gguf_tokenizer", given=keys.get("tokenizer.ggml.model"))
    if arch == "llama" and keys.get("llama.expert_count"):
        raise CheckpointError("Q410.mixtral")

    def key(name: str, default: Any = None) -> Any:
        return keys.get(f"{arch}.{name}", default)

    heads, layers = key("attention.head_count"), key("block_count")
    try:
        values: dict[str, Any] = {
            "vocab_size": len(keys["tokenizer.ggml.tokens"]),
            "d_model": key("embedding_length"),
            "n_layers": layers,
            "n_heads": heads,
            "n_kv_heads": key("attention.head_count_kv", heads),
            "d_k": key("attention.key_length", key("embedding_length") // heads),
            "intermediate_size_mlp": key("feed_forward_length"),
            "max_position_embeddings": key("context_length"),
            "rms_norm_eps": _as_written(key("attention.layer_norm_rms_epsilon")),
            "rope_theta": _as_written(key("rope.freq_base", 10000.0)),
            "tie_word_embeddings": "output.weight" not in tensors,
            "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
            "pad_token_id": keys.get("tokenizer.ggml.padding_token_id"),
            **(_experts_of(key) if arch == "llama4" else _without_experts(key, layers)),
        }
        config = ModelConfig.model_validate(values)
    except ValidationError as error:
        problems = Sentence.of("reasons.rules", problems=problems_of(error))
        raise CheckpointError("Q410.gguf_keys", why=problems) from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError("Q410.gguf_keys", why=error) from None
    return _with_scaling(config, tensors.get("rope_freqs.weight"), keys.get(SCALING_KEY))


def _as_written(value: float) -> float:
    """Give the shortest decimal that is this float32: 1e-05, and not 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def _without_experts(key: Any, layers: int) -> dict[str, Any]:
    return {
        "intermediate_size_expert": key("feed_forward_length"),
        "interleave_moe_layer_step": 0,
        "rope_layers": (1,) * min(int(layers), 1024),
        "use_qk_norm": False,
        "attention_chunk_size": None,
        "attn_temperature_tuning": False,
    }


def _experts_of(key: Any) -> dict[str, Any]:
    return {
        "num_local_experts": key("expert_count"),
        "num_experts_per_tok": key("expert_used_count"),
        "intermediate_size_expert": key("expert_feed_forward_length"),
        "interleave_moe_layer_step": key("interleave_moe_layer_step"),
        "use_qk_norm": key("expert_count") != 128,
    }


def _with_scaling(config: ModelConfig, factors: LazyTensor | None, said: Any) -> ModelConfig:
    """Find which scaling of frequencies gives the file's factors, that which it says first."""
    if factors is None:
        return config
    given = factors.load()
    try:
        candidates = (RopeScaling.model_validate_json(said),) if isinstance(said, str) else ()
    except ValidationError:
        candidates = ()
    for scaling in (*candidates, *_KNOWN_SCALINGS):
        candidate = config.replace(rope_scaling=scaling)
        expected = frequency_factors(candidate)
        if given.shape == expected.shape and torch.allclose(given, expected, rtol=1e-4):
            return candidate
    raise CheckpointError("Q410.rope_factors")
