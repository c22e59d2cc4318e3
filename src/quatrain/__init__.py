"""Quatrain fine-tunes a pretrained Llama 4 to answer questions, in French first.

The names below are the public ones; each is imported when it is first used, so that
`import quatrain` and the command line start fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Answerer": "quatrain.generate.answer",
    "Attention": "quatrain.model.attention",
    "ChatFormat": "quatrain.text.chat",
    "Config": "quatrain.config",
    "ExpertMLP": "quatrain.model.moe",
    "LlamaModel": "quatrain.model.llama",
    "MoE": "quatrain.model.moe",
    "QuatrainError": "quatrain.errors",
    "RMSNorm": "quatrain.model.norm",
    "RotaryPositionalEmbedding": "quatrain.model.rope",
    "SimpleCharTokenizer": "quatrain.text.tokenizer",
    "Tokenizer": "quatrain.text.tokenizer",
    "TransformerBlock": "quatrain.model.llama",
    "load_and_prepare_french_data": "quatrain.data.prepare",
}

__all__ = [
    "Answerer",
    "Attention",
    "ChatFormat",
    "Config",
    "ExpertMLP",
    "LlamaModel",
    "MoE",
    "QuatrainError",
    "RMSNorm",
    "RotaryPositionalEmbedding",
    "SimpleCharTokenizer",
    "Tokenizer",
    "TransformerBlock",
    "load_and_prepare_french_data",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quatrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
