"""Adapters on their way out: merged into their base, or alone as a PEFT directory or GGUF file.

Merging is a change of the base's Source: a weight is read, its adapter multiplied out in float32
and added, one weight at a time. Not for adapters in a model that runs (model/lora.py).
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.hub.check import Agreement, compare, float_model, observe
from quatrain.hub.dense import DENSE
from quatrain.hub.gguf_adapter import read_gguf_adapter, rounded, write_gguf_adapter
from quatrain.hub.source import Source
from quatrain.model.adapter import (
    Factors,
    adapter_tensors,
    load_adapter,
    place_adapters,
    write_factors,
)
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import has_tokenizer
from quatrain.model.lora import add_adapters, with_delta
from quatrain.model.peft_config import BASE, adapters_of, read_fields
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import Adapters, Site
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer
from quatrain.words import say

logger = logging.getLogger(__name__)

ADAPTER = "adapter"
"""The kind of a Source that is a base with an adapter merged into it."""


def merged(base: Source, directory: Path) -> Source:
    """Merge an adapter's directory into its base; the weights that it adapts become float32.

    Raises:
        CheckpointError: Q401, Q404 or Q415 for the adapter, Q411 for a base that is no Llama 4.
    """
    if base.kind in DENSE:
        raise CheckpointError("Q411.of_dense", directory=directory, base=base.origin)
    fields = read_fields(directory)
    adapters = adapters_of(fields, base.config)
    _warn_of_another_order(directory, str(fields[BASE]), base, adapters)
    factors = adapter_tensors(directory, adapters, base.config)
    tensors = dict(base.tensors)
    for site, adapted in adapters.items():
        weight = tensors[site.weight]
        load = partial(_merged, weight, factors[site, "A"], factors[site, "B"], adapted.scale, site)
        tensors[site.weight] = LazyTensor(weight.shape, torch.float32, load)
    tokenizer, chat = base.tokenizer, base.chat
    if has_tokenizer(directory):
        tokenizer = Tokenizer.load(directory)
        chat = chat_format_of(directory, tokenizer)
    return base.replace(
        tensors=tensors, tokenizer=tokenizer, chat=chat, origin=directory, kind=ADAPTER,
        notes=base.notes | {"base": fields[BASE], "adapters": described(adapters)},
    )  # fmt: skip


def _warn_of_another_order(directory: Path, named: str, base: Source, adapters: Adapters) -> None:
    """Tell when rows of q and k may stand as in the dense model that the base was made of.

    Llama 4 has layers without RoPE, a dense Llama that became one has none (hub/dense.py).
    """
    from_dense = all(base.config.rope_layers) and not base.config.use_qk_norm
    turned = any(site.projection in ("q_proj", "k_proj") for site in adapters)
    if from_dense and turned and Path(named).resolve() != Path(base.origin).resolve():
        logger.warning(say("log.adapter_order", directory=directory, named=named, base=base.origin))


def _merged(weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, site: Site) -> Tensor:
    return with_delta(weight.load(), a.load().float() @ b.load().float() * scale, site)


def described(adapters: Adapters) -> str:
    """Say which groups have adapters, and of which ranks."""
    ranks: dict[str, set[int]] = {}
    for site, adapted in adapters.items():
        ranks.setdefault(site.group, set()).add(adapted.rank)
    return ", ".join(
        f"{group} of rank {' and '.join(map(str, sorted(found)))}" for group, found in ranks.items()
    )


def write_alone(source: Source, base: str, directory: Path) -> None:
    """Copy an adapter, without what belongs to its training, as a PEFT directory.

    Args:
        source: of kind `adapter`.
        base: what the copy names as its base.
        directory: where to.
    """
    adapters, factors = _factors(source)
    write_factors(adapters, factors, source.config, base, directory)
    source.tokenizer.save(directory, model_max_length=source.config.max_position_embeddings)
    source.chat.save(directory)


def write_gguf_alone(source: Source, base: Source, path: Path, kind: str) -> None:
    """Write an adapter as a GGUF file, to be used with a GGUF file of its base.

    Args:
        source: of kind `adapter`.
        base: the Source of its base.
        path: of the file.
        kind: f32, f16 or bf16.

    Raises:
        CheckpointError: Q411 for what llama.cpp cannot represent.
    """
    if not _same_tokens(source.tokenizer, base.tokenizer):
        raise CheckpointError("Q411.gguf_adapter_tokenizer", source=source.origin, base=base.origin)
    if source.chat != base.chat:
        logger.warning(say("log.adapter_template", source=source.origin))
    adapters, factors = _factors(source)
    write_gguf_adapter(adapters, factors, source.config, path, kind)


def _same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    return one.backend.get_vocab() == other.backend.get_vocab()


def _factors(source: Source) -> tuple[Adapters, Factors]:
    adapters = adapters_of(read_fields(source.origin), source.config)
    return adapters, adapter_tensors(source.origin, adapters, source.config)


def compare_gguf_adapter(source: Source, base: Source, path: Path, dtype: torch.dtype) -> Agreement:
    """Compare an adapter, its factors rounded as the file's are, with the GGUF file read back.

    Args:
        source: of kind `adapter`.
        base: the Source of its base.
        path: of the file.
        dtype: of its tensors.
    """
    adapters, factors = _factors(source)
    before = _with_factors(base, adapters, rounded(adapters, factors, dtype))
    after = _with_factors(base, *read_gguf_adapter(path, adapters, source.config))
    return compare(observe(before, source), observe(after, source))


def _with_factors(base: Source, adapters: Adapters, factors: Factors) -> LlamaModel:
    model = float_model(base)
    add_adapters(model, adapters)
    place_adapters(model, factors)
    return model


def compare_adapted(source: Source, base: Source, copy: Path | None) -> Agreement:
    """Compare an adapter that runs beside its base's weights with what was made of it.

    Args:
        source: of kind `adapter`: the merged model.
        base: the Source of its base.
        copy: the adapter's copy; None compares with the merged model.
    """
    before = observe(_adapted(base, source.origin), source)
    after = float_model(source) if copy is None else _adapted(base, copy)
    return compare(before, observe(after, source))


def _adapted(base: Source, directory: Path) -> LlamaModel:
    model = float_model(base)
    load_adapter(model, directory)
    return model
