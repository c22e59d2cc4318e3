"""Parameters counted by arithmetic are those that a model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapted import adapted_model
from quatrain.config import LoraConfig, ModelConfig
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import learning
from quatrain.model.targets import choose, num_learning
from quatrain.train.sizes import layer_parameters, parameters
from tiny import CONFIGS, tiny_config, tiny_model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_has_the_parameters_that_were_counted(name: str) -> None:
    config = tiny_config(name)
    with torch.device("meta"):
        model = LlamaModel(config)
    assert parameters(config).total == sum(p.numel() for p in model.parameters())
    for index, layer in enumerate(model.model.layers):
        assert layer_parameters(config, index) == sum(p.numel() for p in layer.parameters())


def test_a_token_meets_the_experts_that_it_chooses_and_no_other() -> None:
    config = ModelConfig(d_model=8, n_heads=2, n_layers=1, vocab_size=10, num_local_experts=4,
                         intermediate_size_expert=16)  # fmt: skip
    counts = parameters(config)
    assert counts.total - counts.active == 3 * (3 * 8 * 16)
    dense = parameters(config.replace(moe_layers=()))
    assert dense.total == dense.active


@pytest.mark.parametrize("lora", [{}, {"rank": 3, "targets": "attention", "train_router": True}])
@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_have_the_parameters_that_were_counted(name: str, lora: dict[str, Any]) -> None:
    config = tiny_config(name)
    if "train_router" in lora and not config.moe_layers:
        return
    model = adapted_model(tiny_model(config), **lora)
    counted = num_learning(choose(LoraConfig(**{"rank": 3, **lora}), config), config)
    assert counted == sum(learning(model).values())
