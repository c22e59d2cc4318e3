"""transformers' Llama4ForCausalLM with our weights: the oracle of the parity tests."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from quatrain.model.hf_config import to_hf
from quatrain.model.llama import LlamaModel


def oracle_of(model: LlamaModel, device: str = "cpu") -> Any:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    config = Llama4TextConfig(**to_hf(model.config))
    config._attn_implementation = "sdpa"
    twin = Llama4ForCausalLM(config).to(device).eval()
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert not unexpected
    return twin


def oracle_logits(twin: Any, ids: torch.Tensor) -> torch.Tensor:
    return twin(input_ids=ids, use_cache=False).logits
