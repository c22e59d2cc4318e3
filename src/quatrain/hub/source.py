"""Source: a model as it passes from one format to another, its tensors one at a time.

Every reader gives a Source whose tensors bear the names of a Llama 4 text model, whatever the
format they came from; every writer takes one. Not for opening a model to run it (model/io.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from quatrain.config import ModelConfig
from quatrain.model.shards import LazyTensor
from quatrain.text.chat import ChatFormat
from quatrain.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Source:
    """A model: its architecture, its text tools, and its weights, unread."""

    config: ModelConfig
    tensors: dict[str, LazyTensor]
    """By the names of Llama4ForCausalLM; a tied head has none."""
    tokenizer: Tokenizer
    chat: ChatFormat
    origin: Path
    """The directory or file that it came from."""
    kind: str
    """What it was: llama4, llama4-multimodal, llama, mistral, qwen2, smollm3, gguf, adapter."""
    quantised: str | None = None
    """The kind in which its directory stores matrices, or that of its base."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was done to it on the way, for the model card."""

    def replace(self, **changes: Any) -> Self:
        """Make a copy with some fields changed."""
        return replace(self, **changes)
