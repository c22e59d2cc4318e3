"""The rate of each step, and which weights decay."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from quatrain.config import TrainConfig
from quatrain.train.optim import (
    gradient_norm,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    update,
)
from tiny import tiny_config, tiny_model


def rates(num_steps: int, **changes: object) -> list[float]:
    config = TrainConfig(**{"learning_rate": 1.0, **changes})
    return [learning_rate(step, num_steps, config) for step in range(1, num_steps + 1)]


def test_the_rate_climbs_in_equal_steps_and_reaches_the_peak() -> None:
    assert rates(100, warmup_ratio=0.04)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_a_cosine_is_halfway_down_in_the_middle_and_ends_at_the_floor() -> None:
    found = rates(100, warmup_ratio=0.0, min_learning_rate_ratio=0.1)
    assert found[49] == pytest.approx(0.55)  # halfway between 1 and 0.1
    assert found[99] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


def test_wsd_climbs_stays_and_falls_linearly_to_the_floor() -> None:
    found = rates(
        10, schedule="wsd", warmup_ratio=0.2, decay_ratio=0.4, min_learning_rate_ratio=0.2
    )
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_no_rate_is_0_or_above_the_peak(
    schedule: str, num_steps: int, warmup: float, decay: float
) -> None:
    found = rates(num_steps, schedule=schedule, warmup_ratio=warmup, decay_ratio=decay)
    assert all(0 < rate <= 1 for rate in found)


def test_no_jump_is_larger_than_a_step_of_the_warm_up() -> None:
    for schedule in ("cosine", "wsd"):
        found = [0.0, *rates(200, schedule=schedule, warmup_ratio=0.05)]
        jumps = [abs(b - a) for a, b in pairwise(found)]
        assert max(jumps) == pytest.approx(0.1)


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = tiny_model(tiny_config("biased_attention"))
    decaying, steady = make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decaying["weight_decay"], steady["weight_decay"]) == (0.3, 0.0)
    assert {names[id(p)].split(".")[-1] for p in steady["params"]} == {"weight", "bias"}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in steady["params"])
    assert not any("norm" in names[id(p)] for p in decaying["params"])


def test_every_parameter_learns_once_and_frozen_ones_do_not() -> None:
    model = tiny_model(tiny_config("tied_embeddings"))
    model.model.norm.weight.requires_grad_(False)
    groups = make_optimizer(model, TrainConfig()).param_groups
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters()} - {id(model.model.norm.weight)}


def test_a_first_step_moves_every_weight_by_the_rate() -> None:
    layer = nn.Linear(3, 1)
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, TrainConfig(weight_decay=0.0))
    set_learning_rate(optimizer, 0.01)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    # Adam's first step is the sign of the gradient, whatever its size
    assert torch.allclose(before - layer.weight, torch.full((1, 3), 0.01), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("max_norm", "scale"), [(4.0, 1.0), (2.0, 1.0), (0.5, 0.25)])
def test_gradients_longer_than_allowed_are_scaled_to_that_and_then_forgotten(
    max_norm: float, scale: float, dtype: torch.dtype
) -> None:
    layer = nn.Linear(4, 1, bias=False, dtype=dtype)
    optimizer = make_optimizer(layer, TrainConfig(beta1=0.5))
    layer.weight.grad = torch.ones_like(layer.weight)
    norm = gradient_norm(layer)
    update(optimizer, norm, max_norm)
    assert norm == 2
    assert layer.weight.grad is None
    kept = optimizer.state[layer.weight]["exp_avg"]
    assert torch.equal(kept, torch.full_like(kept, 0.5 * scale))
    layer.weight.grad = torch.ones_like(layer.weight)
    update(optimizer, norm, 4.0)  # what the last step scaled by is forgotten, too
    assert torch.equal(kept, torch.full_like(kept, 0.25 * scale + 0.5))


# a row's norm in bfloat16 keeps 8 bits, and 2,048 of them even out
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-5)])
def test_the_norm_of_many_numbers_loses_none(dtype: torch.dtype, tolerance: float) -> None:
    layer = nn.Linear(8192, 2048, bias=False, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    layer.weight.grad = torch.randn(2048, 8192, generator=generator).to(dtype)
    exact = torch.linalg.vector_norm(layer.weight.grad.double())
    torch.testing.assert_close(gradient_norm(layer).double(), exact, rtol=tolerance, atol=0)


def test_weights_are_those_of_gradients_scaled_before_the_step(device: str) -> None:
    found = []
    for update_with in (update, scaled_before):
        model = tiny_model().to(device)
        optimizer = make_optimizer(model, TrainConfig(learning_rate=0.01))
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator).to(device)
            update_with(optimizer, gradient_norm(model), 0.5)
        found.append([weight.detach() for weight in model.parameters()])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def scaled_before(optimizer: torch.optim.Optimizer, norm: torch.Tensor, max_norm: float) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def test_the_rate_is_set_in_every_group() -> None:
    optimizer = make_optimizer(tiny_model(), TrainConfig())
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
