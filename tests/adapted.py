"""Tiny adapted models, whose adapters change the output."""

from __future__ import annotations

from typing import Any

import torch

from quatrain.config import LoraConfig
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.targets import choose
from tiny import tiny_config, tiny_model


def adapted_model(
    base: str | LlamaModel = "every_layer_moe", seed: int = 1, **lora: Any
) -> LlamaModel:
    """Make an adapted tiny model, from a configuration or its name, with random factors."""
    model = tiny_model(tiny_config(base)) if isinstance(base, str) else base
    add_adapters(model, choose(LoraConfig(**{"rank": 3, **lora}), model.config))
    stir(model, seed)
    return model


def stir(model: LlamaModel, seed: int = 1) -> None:
    """Draw both factors of every adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for site in model.adapters:
            for factor in lora_at(model, site).parameters():
                factor.normal_(0, 0.2, generator=generator)
