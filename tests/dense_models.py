"""Tiny dense models of each kind that is converted, as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from foreign import text_tools
from tiny import random_ids

IDS = random_ids(2, 50, vocab_size=500)
BASE: dict[str, Any] = dict(
    model_type="llama", vocab_size=512, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    bos_token_id=1, eos_token_id=2, pad_token_id=None,
)  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 500000.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama2": {"num_key_value_heads": 4, "rms_norm_eps": 1e-6},
    "llama3": {"rope_parameters": LLAMA3},
    "smollm": {"tie_word_embeddings": True, "num_attention_heads": 6},
    "wide_heads": {"head_dim": 16},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "biases": {"attention_bias": True},
    "qwen2": {
        "model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "qwen2_tied": {"model_type": "qwen2", "tie_word_embeddings": True, "head_dim": 16},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 5},
    "smollm3_other": {
        "model_type": "smollm3", "no_rope_layers": [0, 1, 1], "attention_bias": True,
        "tie_word_embeddings": False, "rope_parameters": LLAMA3,
    },
}  # fmt: skip
"""What distinguishes each kind."""


def dense(directory: Path, kind: str = "llama3", **changes: Any) -> Any:
    """Write a random dense directory, norms and biases too; return transformers' own model."""
    fields = {**BASE, **KINDS[kind], **changes}
    torch.manual_seed(0)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    text_tools(directory)
    return model


def logits_of(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Give a model's logits, whoever made it."""
    with torch.no_grad():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits
