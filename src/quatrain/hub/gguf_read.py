"""Read a GGUF file of a dense Llama or of Llama 4 as a Source, whatever its weights' types.

Weights are turned into float32 when they are read; those in blocks can also be used as they are,
mapped (model/frozen.py). llama.cpp rotates queries and keys in adjacent
pairs, as Llama 4 does, so that their rows stay as they are; Qwen2's change places. Plausible sizes
are checked before the library is trusted with a file.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from quatrain.config import ModelConfig, RopeScaling
from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer
from quatrain.hub.gguf_keys import config_of, template_in, token_ids, vocabulary_in
from quatrain.hub.gguf_names import from_gguf, has_biases, in_pairs
from quatrain.hub.gguf_text import tokenizer_of
from quatrain.hub.gguf_write import SCALING_KEY, frequency_factors, library
from quatrain.hub.source import Source
from quatrain.model.frozen import Matrix
from quatrain.model.kinds import KINDS, fits
from quatrain.model.shards import LazyTensor
from quatrain.text.recognise import recognise

GGUF = "gguf"
"""The kind of a Source that is read from a file."""
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
    config, tensors = _weights(path, keys, tensors)
    tokenizer = tokenizer_of(vocabulary_in(keys, config.vocab_size), token_ids(keys))
    template = template_in(keys)
    if not template:
        raise CheckpointError("Q430.gguf_chat")
    chat = recognise(template, tokenizer)
    return Source(config, tensors, tokenizer, chat, path, GGUF)


def read_weights(path: Path) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Open a file without its tokenizer. Raises as `read_gguf`."""
    return _weights(path, *read_file(path))


def _weights(
    path: Path, keys: dict[str, Any], tensors: dict[str, LazyTensor]
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Spell a file's architecture and tensors as Llama 4's."""
    if keys.get("general.type") == "adapter":
        raise CheckpointError("Q410.gguf_adapter", path=path)
    tied, arch = "output.weight" not in tensors, str(keys.get("general.architecture"))
    config = config_of(keys, tied, has_biases(tensors, arch))
    config = _with_scaling(config, tensors.get("rope_freqs.weight"), keys.get(SCALING_KEY))
    return config, from_gguf(in_pairs(tensors, arch, config), config, arch)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Give a file's keys, and its tensors, which are read when they are needed.

    Raises:
        CheckpointError: Q401 for a broken file.
    """
    _refuse_implausible(path)
    gguf = library()
    try:
        reader = gguf.GGUFReader(path, "c")  # copy on write; nothing is written
        keys = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {str(one.name): _lazy(gguf, one) for one in reader.tensors}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise CheckpointError("Q401.unreadable_gguf", path=path, error=error) from None
    return keys, tensors


def _refuse_implausible(path: Path) -> None:
    """Look at the first 24 bytes: magic, version, how many tensors and keys."""
    if not path.is_file():
        raise CheckpointError("Q401.no_file", path=path)
    if is_lfs_pointer(path):
        raise CheckpointError("Q401.lfs", path=path)
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

    return LazyTensor(shape, torch.float32, load, _stored(gguf, one, shape))


def _stored(gguf: Any, one: Any, shape: tuple[int, ...]) -> tuple[Matrix, ...]:
    """Wrap a matrix, or a stack of them, as the file has it, if its kind is known."""
    kind = KINDS.get(gguf.GGMLQuantizationType(one.tensor_type).name.lower())
    if kind is None or len(shape) < 2 or not fits(kind, shape[-1]):
        return ()
    rows = math.prod(shape[:-1])
    blocks = torch.from_numpy(one.data.view(np.uint8).reshape(rows, -1))
    return (Matrix(kind, shape, {"blocks": blocks}),)


def _with_scaling(config: ModelConfig, factors: LazyTensor | None, said: Any) -> ModelConfig:
    """Find which scaling of frequencies gives the file's factors, that which it says first."""
    if factors is None:
        return config
    given = factors.load()
    if bool((given == 1).all()):
        return config
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
