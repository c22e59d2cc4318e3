"""Adapters in a model: equal to the slow twin, the only trained weights, merged and unmerged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from adapted import adapted_model, stir
from quatrain.config import LORA_GROUPS, LoraConfig
from quatrain.errors import ConfigError
from quatrain.evaluate.loss import judge
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, dropping, learning, lora_at, merge, unmerge
from quatrain.model.targets import choose, shape, sites
from quatrain.model.weights import Draw, Linear, LowRank, grouped_linear
from tiny import CONFIGS, random_ids, tiny_config, tiny_model

EVERY = tuple(LORA_GROUPS)
COUNTS = [[3, 4], [0, 7, 0], [2, 0, 0, 5, 0]]


def low_rank(*shape: int, scale: float = 0.5, dropout: float = 0.0) -> LowRank:
    lora = LowRank(shape, rank=2, scale=scale, dropout=dropout, name="w")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.normal_(generator=generator)
    return lora


def losses_gradients(model: LlamaModel, ids: Tensor) -> None:
    judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, 64).loss_sum.backward()


def test_a_linear_map_with_an_adapter_is_that_of_the_sum_of_weights() -> None:
    linear, x = Linear(6, 4, bias=True), torch.randn(5, 6)
    linear.lora = low_rank(6, 4)
    twin = linear.weight + 0.5 * (linear.lora.A @ linear.lora.B).T
    assert_close(linear(x), x @ twin.T + linear.bias)


@pytest.mark.parametrize("counts", COUNTS)
def test_a_grouped_map_with_an_adapter_is_that_of_the_sums_of_weights(counts: list[int]) -> None:
    weight, lora = torch.randn(len(counts), 6, 4), low_rank(len(counts), 6, 4)
    x, counts_E = torch.randn(7, 6), torch.tensor(counts)
    found = grouped_linear(x, weight, counts_E, lora)
    found.square().sum().backward()
    given = [p.grad.clone() for p in lora.parameters() if p.grad is not None]
    lora.zero_grad()
    group = torch.repeat_interleave(torch.arange(len(counts)), counts_E)
    twin = weight + 0.5 * lora.A @ lora.B
    expected = torch.stack([x[row] @ twin[g] for row, g in enumerate(group.tolist())])
    expected.square().sum().backward()
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_close(given, [p.grad for p in lora.parameters()], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["every_layer_moe", "base", "no_moe", "top_2", "biased_attention"])
def test_an_adapted_model_begins_as_its_base(name: str) -> None:
    model, ids = tiny_model(tiny_config(name)), random_ids(2, 20)
    before = model(ids)
    add_adapters(model, choose(LoraConfig(), model.config))
    assert torch.equal(model(ids), before)


@pytest.mark.parametrize("name", ["every_layer_moe", "base", "no_moe", "sixteen_experts"])
def test_every_adapter_learns_and_no_weight_of_the_base_does(name: str) -> None:
    there = {site.group for site in sites(tiny_config(name))}
    model = adapted_model(name, targets=tuple(g for g in EVERY if g in there))
    own = {n for n, p in model.named_parameters() if p.requires_grad}
    losses_gradients(model, random_ids(6, 60))
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == own == {f"{s.adapter}.{f}" for s in model.adapters for f in "AB"}
    assert all(bool(gradient.any()) for gradient in gradients.values())
    assert {site.group for site in model.adapters} == there


class Sizes(TorchDispatchMode):
    """Notes the shapes of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and "view" not in str(function) and "alias" not in str(function):
            self.seen.add(tuple(out.shape))
        return out


def test_no_tensor_of_the_size_of_all_experts_is_computed() -> None:
    model = adapted_model()
    experts = {shape(s, model.config) for s in model.adapters if s.group == "experts"}
    with Sizes() as sizes:
        losses_gradients(model, random_ids(2, 30))
    factors = {tuple(p.shape) for p in model.parameters() if p.requires_grad}
    assert factors & sizes.seen  # the factors' gradients
    assert not experts & sizes.seen


@pytest.mark.parametrize("name", ["every_layer_moe", "base", "no_moe", "top_3_of_16"])
def test_merged_equals_adapted_and_unmerged_equals_the_base(name: str) -> None:
    model, ids = adapted_model(name, train_router=name != "no_moe"), random_ids(2, 40)
    base = {n: p.clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        adapted = model(ids)
        merge(model)
        merge(model)
        merged = model(ids)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, base[n])}
    assert changed == {site.weight for site in model.adapters}
    assert (merged - adapted).abs().max() < 1e-5 * max(1.0, float(adapted.abs().max()))
    unmerge(model)
    for weight_name, weight in model.named_parameters():
        assert (weight - base[weight_name]).abs().max() < 1e-6


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    lora, x = low_rank(400, 3, dropout=0.25), torch.ones(50, 400)
    lora.draw = Draw(seed=0, step=1, first_row=0, num_rows=2)
    dropped = lora._dropped(x, None)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.01  # 20,000 draws
    assert torch.equal(dropped, lora._dropped(x, None))


def test_masks_differ_by_seed_step_row_and_weight() -> None:
    masks = []
    for name, draw in [
        ("w", Draw(0, 1, 0, 1)), ("w", Draw(1, 1, 0, 1)), ("w", Draw(0, 2, 0, 1)),
        ("w", Draw(0, 1, 1, 1)), ("v", Draw(0, 1, 0, 1)),
    ]:  # fmt: skip
        lora = LowRank((64, 3), rank=2, scale=1, dropout=0.5, name=name)
        lora.draw = draw
        masks.append(tuple(lora._dropped(torch.ones(1, 64), None)[0].tolist()))
    assert len(set(masks)) == len(masks)


def test_a_row_keeps_its_mask_wherever_it_is_sorted_to() -> None:
    lora, order = low_rank(2, 8, 4, dropout=0.5), torch.tensor([2, 0, 3, 1])
    lora.draw = Draw(0, 1, 0, 2)
    x = torch.ones(4, 8)
    assert torch.equal(lora._dropped(x, order), lora._dropped(x, None)[order])


def test_nothing_is_dropped_outside_of_a_training_step() -> None:
    model, ids = adapted_model(dropout=0.5), random_ids(2, 20)
    with torch.no_grad():
        calm = model(ids)
        with dropping(model, Draw(0, 1, 0, 2)):
            dropped = model(ids)
        again = model(ids)
    assert torch.equal(calm, again)
    assert not torch.allclose(calm, dropped)


def test_groups_and_projections_choose_weights() -> None:
    config = tiny_config("base")  # experts on layers 1 and 3

    def chosen(**lora: Any) -> set[str]:
        return {f"{site.layer}.{site.suffix}" for site in choose(LoraConfig(**lora), config)}

    assert chosen(targets="q_proj") == {f"{n}.self_attn.q_proj" for n in range(4)}
    assert chosen(targets=["dense.up_proj"]) == {f"{n}.feed_forward.up_proj" for n in (0, 2)}
    assert {name for name in chosen(targets="down_proj") if name.startswith("1.")} == {
        "1.feed_forward.shared_expert.down_proj", "1.feed_forward.experts.down_proj",
    }  # fmt: skip
    assert not any("router" in name for name in chosen())
    assert {name for name in chosen(train_router=True) if "router" in name} == {
        "1.feed_forward.router", "3.feed_forward.router",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["experts"]}, r"lora.targets names experts, which the model does not "
         r"have.\n.*The model has attention: q_proj, k_proj, v_proj, o_proj; "
         r"dense: gate_proj, up_proj, down_proj."),
        ({"train_router": True}, "lora.targets names router, which the model does not have"),
        ({"ranks": {"shared": 2}}, "lora.ranks names shared, which gets no adapters"),
    ],
)  # fmt: skip
def test_a_target_that_matches_nothing_is_refused(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        choose(LoraConfig(**lora), tiny_config("no_moe"))
    assert raised.value.code == "Q203"


def test_groups_have_ranks_and_dropouts_of_their_own() -> None:
    lora = LoraConfig(rank=8, alpha=4, ranks={"experts": 2}, dropouts={"attention": 0.5})
    found = {site.group: one for site, one in choose(lora, tiny_config("base")).items()}
    assert found["experts"] == (2, 2.0, 0.0)
    assert found["attention"] == (8, 0.5, 0.5)
    assert found["shared"] == (8, 0.5, 0.0)


def test_what_learns_is_counted_by_group() -> None:
    model = adapted_model("every_layer_moe", rank=2, targets="attention,router")
    # d_model 48, 4 heads and 2 of keys, 16 wide; 4 experts; 4 layers
    attention = 2 * ((48 + 64) + 2 * (48 + 32) + (64 + 48))
    assert learning(model) == {"attention": 4 * attention, "router": 4 * 2 * (48 + 4)}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shapes_of_all_adapters_are_those_of_their_weights(name: str) -> None:
    model = tiny_model(tiny_config(name))
    for site in sites(model.config):
        weight = model.get_parameter(site.weight)
        own = tuple(weight.shape)
        assert shape(site, model.config) == (own if site.group == "experts" else own[::-1])


def test_an_adapter_of_a_bfloat16_model_computes_in_its_dtype() -> None:
    model = tiny_model(tiny_config("every_layer_moe", initializer_range=0.05)).bfloat16()
    add_adapters(model, choose(LoraConfig(rank=2, train_router=True), model.config))
    stir(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(random_ids(1, 8)).dtype == torch.bfloat16
    assert lora_at(model, next(iter(model.adapters))).A.dtype == torch.bfloat16
