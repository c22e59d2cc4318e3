"""Open a model to run it: a directory, an adapter on its base, or a GGUF file as it is.

Not for changing a model's format (open.py), nor for finding what a name means (model/locate.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from quatrain.config import ModelConfig
from quatrain.hub.gguf_read import read_gguf, read_weights
from quatrain.model.adapter import quantised_base
from quatrain.model.io import (
    HEAD,
    Form,
    Shelf,
    fitting,
    form_to_run,
    held_of,
    load_adapted,
    load_model,
    model_of,
    opened,
)
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import is_adapter, llama4_base_of, text_tools_of
from quatrain.model.shards import LazyTensor
from quatrain.model.stranger import is_gguf
from quatrain.model.targets import EMBEDDINGS
from quatrain.text.chat import ChatFormat
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer
from quatrain.words import say

logger = logging.getLogger(__name__)


class TextTools(NamedTuple):
    """What turns text into a model's ids and back."""

    tokenizer: Tokenizer
    chat: ChatFormat
    place: Path
    """Where they were found."""


def open_model(
    place: Path,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    form: Form | None = None,
    shelf: Shelf | None = None,
) -> LlamaModel:
    """Read a model from where `locate` found it.

    Args:
        place: a model's or an adapter's directory, or a GGUF file.
        dtype: of the weights; None keeps the files'.
        device: where the weights go.
        form: how weights that do not learn are held; see `load_model`. A GGUF file's are held as
            they are stored where there is neither a dtype nor a form.
        shelf: weights that other models hold already, and that this one shares.

    Raises:
        CheckpointError: Q401, Q404, Q410, Q415.
    """
    base = llama4_base_of(place) if is_adapter(place) else place
    if not is_gguf(base):
        return load_model(place, dtype, device, form, shelf)
    if form is None and dtype is None:
        form = form_to_run(device, quantised_base(place) if base != place else None)
    config, tensors = read_weights(base)
    if form is not None:
        tables = (EMBEDDINGS.weight, HEAD)
        _tell_what_is_decoded(
            base, [one for name, one in tensors.items() if not form.quantise or name in tables]
        )
    held = held_of(base, shelf)
    if base != place:
        return load_adapted(config, tensors, place, dtype, device, form, held)
    return model_of(config, tensors, dtype, device, form, held.setdefault(form, {}))


def tensors_of(config: ModelConfig, place: Path) -> dict[str, LazyTensor]:
    """List the weights of a model's directory, or of a GGUF file, without reading them.

    Raises:
        CheckpointError: as `open_model`.
    """
    return fitting(config, (read_weights(place) if is_gguf(place) else opened(place))[1])


def _tell_what_is_decoded(path: Path, tensors: Sequence[LazyTensor]) -> None:
    """Say how much memory matrices take that cannot be used as the file stores them."""
    decoded = [one for one in tensors if len(one.shape) > 1 and not one.matrices]
    if decoded:
        size = sum(one.nbytes for one in decoded) / 1e9
        logger.warning(say("log.decoded", path=path, number=len(decoded), size=size))


def text_tools(place: Path) -> TextTools:
    """Read the tokenizer and the chat format of a model; an adapter may have those of its base.

    Raises:
        CheckpointError: Q401, Q43x.
    """
    found = text_tools_of(place)
    if is_gguf(found):
        state = found.stat()
        return _tools_in(found, state.st_size, state.st_mtime_ns)
    tokenizer = Tokenizer.load(found)
    return TextTools(tokenizer, chat_format_of(found, tokenizer), found)


@lru_cache(maxsize=1)
def _tools_in(file: Path, size: int, changed: int) -> TextTools:
    """Read a GGUF file once: a run resolves its recipe twice, and this takes seconds."""
    source = read_gguf(file)
    return TextTools(source.tokenizer, source.chat, file)
