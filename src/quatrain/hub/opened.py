"""Open a model to run it: a directory, an adapter on its base, or a GGUF file as it is.

Not for changing a model's format (open.py), nor for finding what a name means (model/locate.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from quatrain.hub.gguf_read import read_gguf, read_weights
from quatrain.model.io import Form, form_to_run, load_adapted, load_model, model_of
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import is_adapter, llama4_base_of, text_tools_of
from quatrain.model.stranger import is_gguf
from quatrain.text.chat import ChatFormat
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer


class TextTools(NamedTuple):
    """What turns text into a model's ids and back."""

    tokenizer: Tokenizer
    chat: ChatFormat
    place: Path
    """Where they were found."""


def open_model(
    place: Path, dtype: torch.dtype | None = None, device: str = "cpu", form: Form | None = None
) -> LlamaModel:
    """Read a model from where `locate` found it.

    Args:
        place: a model's or an adapter's directory, or a GGUF file.
        dtype: of the weights; None keeps the files'.
        device: where the weights go.
        form: how weights that do not learn are held; see `load_model`. A GGUF file's are held as
            they are stored where there is neither a dtype nor a form.

    Raises:
        CheckpointError: Q401, Q404, Q410, Q415.
    """
    base = llama4_base_of(place) if is_adapter(place) else place
    if not is_gguf(base):
        return load_model(place, dtype, device, form)
    if form is None and dtype is None:
        form = form_to_run(device)
    config, tensors = read_weights(base)
    if base != place:
        return load_adapted(config, tensors, place, dtype, device, form)
    return model_of(config, tensors, dtype, device, form)


def text_tools(place: Path) -> TextTools:
    """Read the tokenizer and the chat format of a model; an adapter may have those of its base.

    Raises:
        CheckpointError: Q401, Q43x.
    """
    found = text_tools_of(place)
    if is_gguf(found):
        source = read_gguf(found)
        return TextTools(source.tokenizer, source.chat, found)
    tokenizer = Tokenizer.load(found)
    return TextTools(tokenizer, chat_format_of(found, tokenizer), found)
