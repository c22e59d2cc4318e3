"""Adapters on their way out: merged into their base as a Source, or copied as a clean directory.

Merging is a change of the base's Source: a weight is read, its adapter multiplied out in float32
and added, one weight at a time. Not for adapters in a model that runs (model/lora.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.hub.check import Agreement, compare, float_model, observe
from quatrain.hub.dense import DENSE
from quatrain.hub.source import Source
from quatrain.model.adapter import adapter_tensors, load_adapter, write_factors
from quatrain.model.hf_config import refuse_larger_vocabulary
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import has_tokenizer
from quatrain.model.lora import with_delta
from quatrain.model.peft_config import BASE, adapters_of, read_fields
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import Adapters, Site
from quatrain.text.chat import ChatFormat
from quatrain.text.tokenizer import Tokenizer

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
    factors = adapter_tensors(directory, adapters, base.config)
    tensors = dict(base.tensors)
    for site, adapted in adapters.items():
        weight = tensors[site.weight]
        load = partial(_merged, weight, factors[site, "A"], factors[site, "B"], adapted.scale, site)
        tensors[site.weight] = LazyTensor(weight.shape, torch.float32, load)
    tokenizer, chat = base.tokenizer, base.chat
    if has_tokenizer(directory):
        tokenizer = Tokenizer.load(directory)
        chat = ChatFormat.of(directory, tokenizer)
        refuse_larger_vocabulary(directory, tokenizer.vocab_size, base.config.vocab_size)
    return base.replace(
        tensors=tensors, tokenizer=tokenizer, chat=chat, origin=directory, kind=ADAPTER,
        notes=base.notes | {"base": fields[BASE], "adapters": described(adapters)},
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


def write_alone(source: Source, base: str, directory: Path) -> None:
    """Copy an adapter, without what belongs to its training, as a PEFT directory.

    Args:
        source: of kind `adapter`.
        base: what the copy names as its base.
        directory: where to.
    """
    adapters = adapters_of(read_fields(source.origin), source.config)
    factors = adapter_tensors(source.origin, adapters, source.config)
    write_factors(adapters, factors, source.config, base, directory)
    source.tokenizer.save(directory, model_max_length=source.config.max_position_embeddings)
    source.chat.save(directory)


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
