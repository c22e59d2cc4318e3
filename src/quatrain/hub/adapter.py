"""Export of adapters: merged into their base, or alone as a PEFT directory or GGUF file.

Merging is a change of the base's Source: a weight is read, its adapter multiplied out in float32
and added, one weight at a time. Not for adapters in a model that runs (model/lora.py).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from quatrain.errors import CheckpointError
from quatrain.hub.check import Agreement, compare, float_model, observe, with_rounding
from quatrain.hub.dense import DENSE
from quatrain.hub.export import copy_abstention
from quatrain.hub.gguf_adapter import read_gguf_adapter, rounded, write_gguf_adapter
from quatrain.hub.gguf_names import architecture
from quatrain.hub.gguf_read import GGUF, read_file
from quatrain.hub.source import Source
from quatrain.model.adapter import LLAMA4, Adapter, load_adapter, read_adapter, write_factors
from quatrain.model.adapter import merged as apply
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import has_tokenizer
from quatrain.model.peft_config import BASE, read_fields
from quatrain.model.targets import TABLES, Adapters
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
    adapter = _read(directory, base)
    config, tensors = apply(base.config, base.tensors, adapter)
    tokenizer, chat = base.tokenizer, base.chat
    if has_tokenizer(directory):
        tokenizer = Tokenizer.load(directory)
        chat = chat_format_of(directory, tokenizer)
    return base.replace(
        config=config, tensors=tensors, tokenizer=tokenizer, chat=chat, origin=directory,
        kind=ADAPTER,
        notes=base.notes | {"base": read_fields(directory)[BASE], "adapters": described(adapter)},
    )  # fmt: skip


def ranks_of(adapters: Adapters) -> dict[str, list[int]]:
    """List the ranks of each group, smallest first."""
    ranks: dict[str, set[int]] = {}
    for site, adapted in adapters.items():
        ranks.setdefault(site.group, set()).add(adapted.rank)
    return {group: sorted(found) for group, found in ranks.items()}


def described(adapter: Adapter) -> str:
    """Say which groups have adapters, of which ranks, and which weights are there whole."""
    each = [
        f"{group} of rank {' and '.join(map(str, ranks))}"
        for group, ranks in ranks_of(adapter.adapters).items()
    ]
    return ", ".join([*each, *(f"{name} whole" for name in adapter.whole)])


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
    adapter = _alone(source.origin, base)
    kind = base.kind if base.kind in DENSE else LLAMA4
    write_factors(adapter.adapters, adapter.factors, source.config, named, directory, kind)
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
    adapter = _alone(source.origin, base)
    write_gguf_adapter(adapter.adapters, adapter.factors, source.config, path, kind)


def _same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    return one.backend.get_vocab() == other.backend.get_vocab()


def _read(directory: Path, base: Source) -> Adapter:
    return read_adapter(directory, base.config, of_dense=base.kind in DENSE)


def _alone(directory: Path, base: Source) -> Adapter:
    """Read an adapter that is written without its base.

    Raises:
        CheckpointError: Q411 where it changes more than the weights of layers.
    """
    adapter = _read(directory, base)
    if adapter.beyond:
        raise CheckpointError(
            "Q411.beyond_layers", source=directory, names=tuple(adapter.beyond[:5])
        )
    return adapter


def compare_gguf_adapter(source: Source, base: Source, path: Path, dtype: torch.dtype) -> Agreement:
    """Compare an adapter, its factors rounded as the file's are, with the GGUF file read back.

    Args:
        source: of kind `adapter`.
        base: the Source of its base.
        path: of the file.
        dtype: of its tensors.
    """
    adapter = _alone(source.origin, base)
    factors = rounded(adapter.adapters, adapter.factors, dtype)
    before = observe(_with_factors(base, Adapter(adapter.adapters, factors, {})), source)
    read = read_gguf_adapter(path, adapter.adapters, source.config)
    found = compare(before, observe(_with_factors(base, Adapter(*read, {})), source))
    if dtype == torch.float32:
        return found
    return with_rounding(found, observe(_with_factors(base, adapter), source), before)


def _with_factors(base: Source, adapter: Adapter) -> LlamaModel:
    model = float_model(base)
    load_adapter(model, adapter, str(base.origin))
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
    """Run an adapter beside its base; what is beyond layers' weights can only be merged."""
    adapter = _read(directory, base)
    tables = {site: one for site, one in adapter.adapters.items() if site.group in TABLES}
    config, tensors = apply(base.config, base.tensors, replace(adapter, adapters=tables))
    beside = {site: one for site, one in adapter.adapters.items() if site not in tables}
    factors = {place: one for place, one in adapter.factors.items() if place[0] in beside}
    return _with_factors(base.replace(config=config, tensors=tensors), Adapter(beside, factors, {}))
