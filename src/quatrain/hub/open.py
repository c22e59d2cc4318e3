"""Open any model that can be converted as a Source, whatever its format.

A directory is told by its config.json's model_type. Not for finding the directory that a name
means (model/locate.py).
"""

from __future__ import annotations

from pathlib import Path

from quatrain.hub.adapter import merged
from quatrain.hub.dense import read_dense
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.source import Source
from quatrain.model.hf_config import (
    CONFIG,
    from_hf,
    is_dense_type,
    read_json,
    refuse_larger_vocabulary,
)
from quatrain.model.hf_quantised import quantisation
from quatrain.model.io import fitting, text_tensors
from quatrain.model.locate import base_of, is_adapter, locate
from quatrain.model.stranger import is_gguf
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer


def open_source(model: str | Path, base: Path | None = None) -> Source:
    """Open MODEL: a run, a directory, a Hub id or a GGUF file; no weight is read yet.

    Args:
        model: an adapter's is opened as the model that it makes of its base.
        base: of an adapter, instead of the one that it names.

    Raises:
        CheckpointError: Q401 to Q433, for what is missing, unsafe or of another kind.
    """
    source = _read(model, base)
    refuse_larger_vocabulary(source.origin, source.tokenizer.vocab_size, source.config.vocab_size)
    tensors = fitting(source.config, source.tensors)
    return source.replace(tensors={name: one.finite(name) for name, one in tensors.items()})


def _read(model: str | Path, base: Path | None) -> Source:
    """Open MODEL by the reader of its format."""
    if is_gguf(Path(model)):
        return read_gguf(Path(model))
    directory = locate(model)
    if is_adapter(directory):
        return merged(open_source(base or base_of(directory)), directory)
    fields = read_json(directory / CONFIG)
    if is_dense_type(fields):
        return read_dense(directory)
    config = from_hf(fields)
    tokenizer = Tokenizer.load(directory)
    return Source(
        config=config,
        tensors=text_tensors(directory),
        tokenizer=tokenizer,
        chat=chat_format_of(directory, tokenizer),
        origin=directory,
        kind="llama4-multimodal" if fields.get("model_type") == "llama4" else "llama4",
        quantised=quantisation(fields),
    )
