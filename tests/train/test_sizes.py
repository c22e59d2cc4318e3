"""Parameters counted by arithmetic are those that a model has."""

from __future__ import annotations

import pytest
import torch

from quatrain.config import ModelConfig
from quatrain.model.llama import LlamaModel
from quatrain.train.sizes import bases, layer_parameters, parameters
from tiny import CONFIGS, tiny_config


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


@pytest.mark.parametrize(
    ("base", "total"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ],
)
def test_the_shapes_of_dense_bases_have_the_published_counts(base: str, total: int) -> None:
    assert parameters(bases()[base]).total == total


def test_the_shapes_of_llama_4_have_its_published_sizes() -> None:
    scout = parameters(bases()["meta-llama/Llama-4-Scout-17B-16E-Instruct"])
    maverick = parameters(bases()["meta-llama/Llama-4-Maverick-17B-128E-Instruct"])
    assert scout.total == pytest.approx(107.8e9, rel=0.005)  # 109B with the vision part
    assert maverick.total == pytest.approx(400e9, rel=0.005)
    assert scout.active == pytest.approx(17e9, rel=0.02)
    assert maverick.active == pytest.approx(17e9, rel=0.02)


def test_bases_stand_smallest_first() -> None:
    totals = [parameters(shape).total for shape in bases().values()]
    assert totals == sorted(totals)
