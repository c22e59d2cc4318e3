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
from quatrain.hub.check import Agreement, compare, float_model, observe, with_rounding
from quatrain.hub.dense import DENSE
from quatrain.hub.export import copy_abstention
from quatrain.hub.gguf_adapter import read_gguf_adapter, rounded, write_gguf_adapter
from quatrain.hub.gguf_names import architecture
from quatrain.hub.gguf_read import GGUF, read_file
from quatrain.hub.source import Source
from quatrain.model.adapter import Factors, place_adapters, read_adapter, write_factors
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import has_tokenizer
from quatrain.model.lora import add_adapters, with_delta
from quatrain.model.peft_config import BASE, read_fields
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
        CheckpointError: Q401, Q404 or Q415 for the adapter.
    """
    if base.kind == ADAPTER:
        raise CheckpointError("Q415.of_adapter", adapter=directory, name=base.origin)
    adapters, factors = _factors(directory, base)
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
        notes=base.notes | {"base": read_fields(directory)[BASE], "adapters": described(adapters)},
    )  # fmt: skip


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


def write_alone(source: Source, base: Source, named: str, directory: Path) -> None:
    """Copy an adapter, without what belongs to its training, as a PEFT directory.

    Args:
        source: of kind `adapter`.
        base: the Source of its base, whose names and order of rows the copy has.
        named: what the copy names as its base.
        directory: where to.

    Raises:
        CheckpointError: Q411 for a base that PEFT cannot open.
    """
    if base.kind == GGUF:
        raise CheckpointError("Q411.gguf_base", base=base.origin)
    adapters, factors = _factors(source.origin, base)
    kind = {"model_type": base.kind} if base.kind in DENSE else {}
    write_factors(adapters, factors, source.config, named, directory, **kind)
    source.tokenizer.save(directory, model_max_length=source.config.max_position_embeddings)
    source.chat.save(directory)
    copy_abstention(source.origin, directory)


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
    arch = architecture(base.config)
    theirs = read_file(base.origin)[0]["general.architecture"] if base.kind == GGUF else arch
    if theirs != arch:  # whose rows of q and k stand otherwise
        raise CheckpointError("Q411.gguf_adapter_base", base=base.origin, theirs=theirs, arch=arch)
    adapters, factors = _factors(source.origin, base)
    write_gguf_adapter(adapters, factors, source.config, path, kind)


def _same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    return one.backend.get_vocab() == other.backend.get_vocab()


def _factors(directory: Path, base: Source) -> tuple[Adapters, Factors]:
    return read_adapter(directory, base.config, of_dense=base.kind in DENSE)


def compare_gguf_adapter(source: Source, base: Source, path: Path, dtype: torch.dtype) -> Agreement:
    """Compare an adapter, its factors rounded as the file's are, with the GGUF file read back.

    Args:
        source: of kind `adapter`.
        base: the Source of its base.
        path: of the file.
        dtype: of its tensors.
    """
    adapters, factors = _factors(source.origin, base)
    before = observe(_with_factors(base, adapters, rounded(adapters, factors, dtype)), source)
    written = read_gguf_adapter(path, adapters, source.config)
    found = compare(before, observe(_with_factors(base, *written), source))
    if dtype == torch.float32:
        return found
    return with_rounding(found, observe(_with_factors(base, adapters, factors), source), before)


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
    return _with_factors(base, *_factors(directory, base))
