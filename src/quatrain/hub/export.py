"""Write a Source as a Hugging Face directory: text-only, or re-joined to a base's vision part.

One tensor is in memory at a time. Not for GGUF (gguf_write.py), nor for checking what was written
(check.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.hub.dense import as_dense
from quatrain.hub.source import Source
from quatrain.model.hf_config import CONFIG, read_json, to_hf
from quatrain.model.hf_quantised import quantisation
from quatrain.model.io import (
    GENERATION_CONFIG,
    PREFIX,
    VISION,
    dtype_name,
    generation_config,
    text_tensors,
    write_model,
)
from quatrain.model.shards import check_tensors, open_tensors, write_shards
from quatrain.text.abstention import Abstention

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def of_dtype(source: Source, dtype: torch.dtype, kept: str | None = None) -> Source:
    """Convert every tensor to `dtype` as it is read, which raises Q411 where that is too narrow.

    Args:
        source: of any dtypes.
        dtype: of the result.
        kept: a kind whose stored matrices stay as they are.
    """
    return source.replace(
        tensors={
            name: one if kept in {each.kind.name for each in one.matrices} else one.to(dtype, name)
            for name, one in source.tensors.items()
        }
    )


def with_its_own_ids(source: Source) -> Source:
    """Let the config name the chat format's ids: where to stop, with what to begin and to pad."""
    chat, tokenizer = source.chat, source.tokenizer
    begin = tokenizer.control_id(chat.begin) if chat.begin else source.config.bos_token_id
    config = source.config.replace(
        bos_token_id=begin,
        eos_token_ids=tuple(sorted(chat.stop_ids(tokenizer))),
        pad_token_id=chat.pad_id(tokenizer),
    )
    return source.replace(config=config)


def write_text_only(
    source: Source, directory: Path, shard_bytes: int, quantise: str | None = None
) -> None:
    """Write what transformers opens as Llama4ForCausalLM, with tokenizer and chat format."""
    _write_text_tools(source, directory)
    write_model(source.config, source.tensors, directory, shard_bytes, quantise)


def write_dense(source: Source, directory: Path, shard_bytes: int) -> None:
    """Write a dense model as what transformers opens as LlamaForCausalLM or SmolLM3ForCausalLM."""
    _write_text_tools(source, directory)
    dtype = dtype_name(source.tensors["model.embed_tokens.weight"].dtype)
    fields, tensors = as_dense(source, dtype)
    write_json(directory / CONFIG, fields)
    write_json(directory / GENERATION_CONFIG, generation_config(source.config))
    write_shards(tensors, directory, shard_bytes)


def write_multimodal(source: Source, base: Path, directory: Path, shard_bytes: int) -> None:
    """Write what transformers opens as Llama4ForConditionalGeneration.

    Args:
        source: the text model, of the shapes of the base's.
        base: a multimodal directory; its vision tensors are copied, bit for bit.
        directory: where to.
        shard_bytes: the most tensor bytes of a file.

    Raises:
        CheckpointError: Q411 when the base has no vision part, or is quantised, Q404 when its text
            model has other shapes.
    """
    config = read_json(base / CONFIG)
    vision = {name: one for name, one in open_tensors(base).items() if name.startswith(VISION)}
    if config.get("model_type") != "llama4" or not vision:
        raise CheckpointError("Q411.vision", base=base)
    if (kind := quantisation(config)) is not None:
        raise CheckpointError("Q411.quantised_vision", base=base, kind=kind)
    theirs = {name: one.shape for name, one in text_tensors(base).items()}
    check_tensors(theirs, source.tensors)
    _write_text_tools(source, directory)
    for name in _PROCESSOR_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)
    dtype = dtype_name(source.tensors["model.embed_tokens.weight"].dtype)
    write_json(directory / CONFIG, config | {"text_config": to_hf(source.config, dtype)})
    write_json(directory / GENERATION_CONFIG, generation_config(source.config))
    text = {PREFIX + name: tensor for name, tensor in source.tensors.items()}
    write_shards(text | vision, directory, shard_bytes)


def _write_text_tools(source: Source, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    source.tokenizer.save(directory, model_max_length=source.config.max_position_embeddings)
    source.chat.save(directory)
    copy_abstention(source.origin, directory)


def copy_abstention(origin: Path, directory: Path) -> None:
    """Let the copy of a model abstain as the model does."""
    if origin.is_dir() and (abstention := Abstention.load(origin)) is not None:
        abstention.save(directory)


def summary(config: ModelConfig) -> dict[str, Any]:
    """Give the figures of an architecture that a reader looks for first."""
    return {
        "layers": config.n_layers,
        "width": config.d_model,
        "experts": config.num_local_experts if config.moe_layers else 0,
        "experts a token": config.num_experts_per_tok if config.moe_layers else 0,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
    }
