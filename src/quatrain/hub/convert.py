"""`convert`: convert a model to another format, and check it before it gets its final name.

    open  ->  upcycle, round  ->  write beside  ->  check  ->  rename

Nothing is left behind when a step fails. Not for the formats themselves.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from quatrain.config import Quantised
from quatrain.errors import CheckpointError
from quatrain.files import new_directory
from quatrain.hub.adapter import (
    ADAPTER,
    compare_adapted,
    compare_gguf_adapter,
    write_alone,
    write_gguf_alone,
)
from quatrain.hub.card import write_card
from quatrain.hub.check import (
    Agreement,
    Observation,
    compare,
    float_model,
    held_model,
    observe,
    observe_in_transformers,
    refuse_disagreement,
    with_rounding,
)
from quatrain.hub.dense import DENSE, dense_type
from quatrain.hub.export import (
    DTYPES,
    of_dtype,
    with_its_own_ids,
    write_dense,
    write_multimodal,
    write_text_only,
)
from quatrain.hub.gguf_names import rounded_to_q8_0
from quatrain.hub.gguf_read import GGUF, read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.judge import judge
from quatrain.hub.open import open_source
from quatrain.hub.source import Source
from quatrain.hub.upcycle import upcycle
from quatrain.model.hf_config import CONFIG, is_dense_type, read_json
from quatrain.model.io import dtype_name
from quatrain.model.locate import base_of, locate
from quatrain.model.shards import SHARD_BYTES
from quatrain.text.abstention import Abstention
from quatrain.words import Sentence, say

logger = logging.getLogger(__name__)

Format = Literal["llama4", "hf", "hf-multimodal", "gguf"]
Dtype = Literal["bf16", "f16", "f32", "q8_0"]
Kind = Quantised


@dataclass(frozen=True)
class Conversion:
    """What is asked of `convert`."""

    to: Format
    experts: int | None = None
    """Routed experts to give a dense model."""
    dtype: Dtype | None = None
    """None keeps the source's, and is f16 for GGUF, f32 for an adapter there."""
    quantize: Kind | None = None
    """The kind in which matrices of layers are stored."""
    base: Path | None = None
    """The multimodal directory whose vision part the result gets; else, of an adapter, the model
    that it is added to instead of the one that it names."""
    merge: bool = False
    """Whether an adapter is added to its base's weights; without it `hf` and `gguf` write the
    adapter alone."""
    check: bool = True
    shard_bytes: int = SHARD_BYTES
    force: bool = False
    """Whether to replace an existing directory."""


@dataclass(frozen=True)
class Converted:
    """What `convert` did."""

    directory: Path
    dtype: str
    agreement: Agreement | None
    notes: dict[str, Any]
    kind: str
    """What the source was."""


def convert(model: str | Path, directory: Path, asked: Conversion) -> Converted:
    """Convert MODEL into a directory that is complete or does not exist.

    Raises:
        CheckpointError: Q401 to Q410 for the source, Q411 for what the format cannot say, Q412
            when the result is not its source, Q413 for a directory that is in use.
    """
    _refuse_contradictions(asked)
    _refuse_used(directory, asked.force)
    source = _prepared(model, asked)
    base = base_of(source.origin) if source.kind == ADAPTER and not asked.base else None
    _refuse_to_replace(directory, source.origin, asked.base, base)
    if source.kind == ADAPTER and not asked.merge:
        return _copy_adapter(source, directory, asked)
    kind: str | None = asked.dtype or ("f16" if asked.to == "gguf" else None)
    if source.kind == ADAPTER:
        kind = kind or _dtype_of(_source_of_base(source, asked))  # merged weights are float32
    if source.quantised:
        kind = kind or _dtype_of(source)  # what was decoded is float32
        if asked.quantize != source.quantised:
            logger.warning(say("log.dequantised", source=source.origin, kind=source.quantised))
    rounded = of_dtype(source, DTYPES[kind], asked.quantize) if kind in DTYPES else source
    dtype = asked.quantize or kind or _dtype_of(rounded)
    with new_directory(directory, {"quatrain": "conversion", "to": asked.to}) as temporary:
        _write(rounded, temporary, asked, dtype)
        agreement = _checked(source, rounded, temporary, asked, dtype) if asked.check else None
        if agreement and source.kind == ADAPTER:
            agreement = agreement.worse(_compare_adapted(source, asked, None))
        if agreement and source.kind == GGUF:
            agreement = agreement.judged(judge(source.origin, source))
        write_card(rounded, temporary, asked.to, dtype, agreement)
    return Converted(directory, dtype, agreement, rounded.notes, source.kind)


def _copy_adapter(source: Source, directory: Path, asked: Conversion) -> Converted:
    """Write an adapter alone, its base named and not written.

    Raises:
        CheckpointError: Q411 for a format that has no adapters, or for what only a model can be.
    """
    if asked.to not in ("hf", "gguf") or asked.experts or (asked.dtype and asked.to == "hf"):
        raise CheckpointError("Q411.adapter", source=source.origin)
    if asked.to == "gguf":
        return _write_gguf_adapter(source, directory, asked)
    base, named = _source_of_base(source, asked), _name_of_base(source, asked)
    with new_directory(directory, {"quatrain": "conversion", "to": "peft"}) as temporary:
        write_alone(source, base, named, temporary)
        agreement = _compare_adapted(source, asked, temporary) if asked.check else None
        source = source.replace(notes=source.notes | {"base": named})
        write_card(source, temporary, "peft", "", agreement)
    return Converted(directory, Sentence.of("log.as_it_was"), agreement, source.notes, source.kind)


def _write_gguf_adapter(source: Source, directory: Path, asked: Conversion) -> Converted:
    """Write an adapter as a GGUF file, beside the card that names its base."""
    dtype = asked.dtype or "f32"
    if dtype == "q8_0":
        raise CheckpointError("Q411.q8_0_adapter")
    base = _source_of_base(source, asked)
    source = source.replace(notes=source.notes | {"base": _name_of_base(source, asked)})
    _warn_of_threshold(source)
    with new_directory(directory, {"quatrain": "conversion", "to": "gguf"}) as temporary:
        path = temporary / f"adapter-{dtype}.gguf"
        write_gguf_alone(source, base, path, dtype)
        agreement = None
        if asked.check:
            agreement = compare_gguf_adapter(source, base, path, DTYPES[dtype])
            refuse_disagreement(agreement, _TOLERANCE)
        write_card(source, temporary, "gguf", dtype, agreement)
    return Converted(directory, dtype, agreement, source.notes, source.kind)


def _warn_of_threshold(source: Source) -> None:
    """Say what a GGUF file cannot keep of how a model abstains."""
    abstention = Abstention.load(source.origin) if source.origin.is_dir() else None
    if abstention is not None and abstention.threshold is not None:
        logger.warning(say("log.no_threshold"))


def _name_of_base(source: Source, asked: Conversion) -> str:
    if asked.base:
        return str(asked.base.resolve()) if asked.base.exists() else str(asked.base)
    return str(source.notes["base"])


def _source_of_base(source: Source, asked: Conversion) -> Source:
    return open_source(_base_of_adapter(asked) or base_of(source.origin))


def _compare_adapted(source: Source, asked: Conversion, copy: Path | None) -> Agreement:
    """Run the adapter beside its base's weights, and compare what was made of it."""
    found = compare_adapted(source, _source_of_base(source, asked), copy)
    refuse_disagreement(found, _TOLERANCE)
    return found


def _base_of_adapter(asked: Conversion) -> Path | None:
    return None if asked.to == "hf-multimodal" else asked.base


def _refuse_contradictions(asked: Conversion) -> None:
    if asked.dtype == "q8_0" and asked.to != "gguf":
        raise CheckpointError("Q411.q8_0", to=asked.to)
    if asked.quantize and asked.to != "llama4":
        raise CheckpointError("Q411.quantize", kind=asked.quantize, to=asked.to)


def _refuse_used(directory: Path, force: bool) -> None:
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and not force):
        raise CheckpointError("Q413.there", directory=directory)


def _refuse_to_replace(directory: Path, *needed: Path | None) -> None:
    """Keep --force from deleting the source.

    Raises:
        CheckpointError: Q413.
    """
    for path in needed:
        if path is not None and path.resolve().is_relative_to(directory.resolve()):
            raise CheckpointError("Q413.source", directory=directory, path=path)


def _dtype_of(source: Source) -> str:
    """Name the dtype of a source's weights.

    Raises:
        CheckpointError: Q411 for one that is not written.
    """
    dtype = source.tensors["model.embed_tokens.weight"].dtype
    if dtype not in _SHORT:
        raise CheckpointError("Q411.dtype", source=source.origin, dtype=dtype_name(dtype))
    return _SHORT[dtype]


def _prepared(model: str | Path, asked: Conversion) -> Source:
    """Open the source, and do to its weights what is asked."""
    source = with_its_own_ids(open_source(Path(model), _base_of_adapter(asked)))
    if asked.base and asked.to != "hf-multimodal" and source.kind != ADAPTER:
        raise CheckpointError("Q411.base", to=asked.to)
    if asked.merge and source.kind != ADAPTER:
        raise CheckpointError("Q411.merge", source=source.origin)
    if asked.experts is not None:
        source = upcycle(source, asked.experts)
    return source


def _write(source: Source, directory: Path, asked: Conversion, dtype: str) -> None:
    if asked.to == "gguf":
        _warn_of_threshold(source)
        write_gguf(source, directory / _gguf(dtype), dtype)
    elif asked.to == "hf-multimodal":
        base = locate(asked.base) if asked.base else source.origin
        write_multimodal(source, base, directory, asked.shard_bytes)
    elif asked.to == "hf" and dense_type(source.config):
        write_dense(source, directory, asked.shard_bytes)
    else:
        write_text_only(source, directory, asked.shard_bytes, asked.quantize)


def _checked(
    unrounded: Source, source: Source, directory: Path, asked: Conversion, dtype: str
) -> Agreement:
    """Read the result back as anyone would, and compare it with the source.

    Args:
        unrounded: the source as it came.
        source: the same with weights of `dtype`, but for q8_0.
        directory: of the result.
        asked: for what.
        dtype: of the result's weights.
    """
    if asked.quantize:
        return _checked_in_few_bits(unrounded, source, directory, asked.quantize)
    rounded = DTYPES.get(dtype, torch.float32)
    if dtype == "q8_0":
        tensors = {name: rounded_to_q8_0(name, one) for name, one in source.tensors.items()}
        source = source.replace(tensors=tensors, kind="rounded")
    before, one = _observed(source.origin, source, rounded)
    if asked.to == "gguf":
        path = directory / _gguf(dtype)
        after, other = observe(float_model(read_gguf(path)), source), False
    else:
        after, other = _observed(directory, source, rounded)
    found = compare(before, after, "transformers" if one or other else "quatrain")
    refuse_disagreement(found, _TOLERANCE)
    if asked.to == "gguf":
        found = found.judged(judge(path, source))
    if dtype == "q8_0" or _loses(unrounded, rounded):
        exact, _ = _observed(source.origin, unrounded.replace(kind=source.kind), torch.float32)
        found = with_rounding(found, exact, before)
    return found


def _checked_in_few_bits(
    unrounded: Source, source: Source, directory: Path, kind: str
) -> Agreement:
    """Do as `_checked`, with weights that stay in their files or are held in few bits."""
    exact = observe(held_model(unrounded), source)
    before = observe(held_model(source, kind), source)
    found = compare(before, observe(held_model(open_source(directory)), source))
    if source.kind in DENSE:
        seen = observe_in_transformers(source.origin, source, torch.float32)
        if seen is not None:
            found = compare(seen, exact, "transformers").worse(found)
    refuse_disagreement(found, _TOLERANCE)
    return with_rounding(found, exact, before)


def _loses(source: Source, dtype: torch.dtype) -> bool:
    """Whether a dtype holds less than the weights' own."""
    held = {one.dtype for one in source.tensors.values()}
    return any(torch.promote_types(one, dtype) != dtype for one in held)


def _observed(
    directory: Path, source: Source, dtype: torch.dtype
) -> tuple[list[Observation], bool]:
    """Run the golden prompts through a directory, a dense one in transformers where it is."""
    if directory == source.origin and source.kind not in DENSE:
        return observe(float_model(source), source), False
    if is_dense_type(read_json(directory / CONFIG)):
        seen = observe_in_transformers(directory, source, dtype)
        if seen is not None:
            return seen, True
    return observe(float_model(of_dtype(open_source(directory), dtype)), source), False


def _gguf(dtype: str) -> str:
    return f"model-{dtype}.gguf"


_SHORT = {dtype: name for name, dtype in DTYPES.items()}
_TOLERANCE = 1e-2
"""Largest difference of a logit; both sides have the same weights, and only sums differ."""
