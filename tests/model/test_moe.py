"""Mixture of experts: routing, dispatch, experts, balance, and cost."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from flops import FlopCounter
from quatrain.config import ModelConfig
from quatrain.model.moe import Dispatch, MoE, Router, _SwiGLU, count, imbalance
from tiny import random_ids, tiny_config, tiny_model


def moe(seed: int = 0, **changes: object) -> MoE:
    generator = torch.Generator().manual_seed(seed)
    layer = MoE(tiny_config(**changes))
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return layer


def states(rows: int, length: int, width: int = 48, seed: int = 1) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def by_hand(layer: MoE, x: Tensor) -> Tensor:
    """One token at a time, one expert at a time."""
    outs = []
    for token in x.flatten(0, 1):
        scores = layer.router.weight @ token
        out = layer.shared_expert(token)
        for e in scores.topk(layer.router.num_experts_per_tok).indices:
            gate, up = (scores[e].sigmoid() * token @ layer.experts.gate_up_proj[e]).chunk(2)
            out = out + (F.silu(gate) * up) @ layer.experts.down_proj[e]
        outs.append(out)
    return torch.stack(outs).view_as(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_swiglu_is_autograds_bit_for_bit(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    both, grad = (torch.randn(7, n, dtype=dtype, generator=draw) for n in (64, 32))
    theirs, side_by_side = both.clone().requires_grad_(), both.clone().requires_grad_()
    apart = tuple(x.clone().requires_grad_() for x in both.chunk(2, dim=-1))
    gate, up = theirs.chunk(2, dim=-1)
    slow = F.silu(gate) * up
    slow.backward(grad)
    for inputs in ((side_by_side,), apart):
        fast = _SwiGLU.apply(*inputs)
        fast.backward(grad)
        assert torch.equal(fast, slow)
        assert torch.equal(torch.cat([x.grad for x in inputs], dim=-1), theirs.grad)


def test_swiglu_takes_any_shape() -> None:
    gate, up = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(2))
    grad = torch.randn(3, 4, 2).permute(2, 0, 1)
    found = torch.autograd.grad(_SwiGLU.apply(gate, up), (gate, up), grad)
    expected = torch.autograd.grad(F.silu(gate) * up, (gate, up), grad)
    assert_close(found, expected)  # in another layout the last bit may differ
    assert _SwiGLU.apply(torch.empty(0, 8)).shape == (0, 4)


def scalar_moe() -> MoE:
    """Width 1, two experts; expert 0 likes positive tokens, expert 1 negative ones."""
    layer = MoE(ModelConfig(d_model=1, n_heads=1, d_k=2, num_local_experts=2,
                            intermediate_size_expert=1))  # fmt: skip
    layer.router.weight.data = torch.tensor([[1.0], [-1.0]])
    layer.experts.gate_up_proj.data = torch.tensor([[[1.0, 1.0]], [[1.0, 2.0]]])
    layer.experts.down_proj.data = torch.tensor([[[1.0]], [[10.0]]])
    for linear in (layer.shared_expert.gate_proj, layer.shared_expert.up_proj):
        linear.weight.data.fill_(1.0)
    layer.shared_expert.down_proj.weight.data.fill_(0.0)
    return layer


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_two_tokens_by_hand() -> None:
    out, routing = scalar_moe()(torch.tensor([[[2.0], [-3.0]]]))
    a = 2 * 1 / (1 + math.exp(-2))  # token 2 chooses expert 0; its score scales the input
    b = -3 * 1 / (1 + math.exp(-3))  # token -3 chooses expert 1
    expected = [silu(a) * a, 10 * silu(b) * 2 * b]
    assert_close(out.flatten(), torch.tensor(expected))
    assert routing.load_E.tolist() == [1, 1]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_layer_equals_a_loop_over_tokens(k: int) -> None:
    layer, x = moe(num_experts_per_tok=k), states(2, 9)
    assert_close(layer(x)[0], by_hand(layer, x), atol=1e-5, rtol=1e-5)  # sums in another order


def test_the_score_multiplies_the_input_and_not_the_output() -> None:
    layer, x = scalar_moe(), torch.tensor([[[2.0]]])
    score = 1 / (1 + math.exp(-2))
    on_output = score * silu(2.0) * 2.0
    assert abs(layer(x)[0].item() - on_output) > 0.1


def test_scores_are_sigmoids_of_the_k_best_and_are_not_normalised() -> None:
    router = Router(2, 3, num_experts_per_tok=2)
    router.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    scores, experts, logits = router(torch.tensor([[1.0, 1.0]]))
    assert experts.tolist() == [[2, 1]]
    assert_close(scores, torch.tensor([[0.9526, 0.7311]]), atol=1e-4, rtol=0)
    assert logits.tolist() == [[0.0, 1.0, 3.0]]


def test_the_router_chooses_in_float32_under_autocast_and_in_bfloat16() -> None:
    router = Router(2, 2, num_experts_per_tok=1)
    router.weight.data = torch.tensor([[1.0, 0.0], [1.0, 2.0**-10]])  # ties in 8 bits
    x = torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert router(x)[1].item() == 1
    scores, experts, logits = router.bfloat16()(x.bfloat16())
    assert experts.item() == 1
    assert scores.dtype == logits.dtype == torch.float32


def test_an_expert_runs_on_no_token_that_did_not_choose_it() -> None:
    clean, x = moe(), states(1, 3)
    unchosen = clean(x)[1].load_E == 0
    assert unchosen.any()
    poisoned = moe()
    for weight in (poisoned.experts.gate_up_proj, poisoned.experts.down_proj):
        weight.data[unchosen] = float("nan")
    outs = [layer(x)[0] for layer in (clean, poisoned)]
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(*outs)
    for a, b in zip(clean.parameters(), poisoned.parameters(), strict=True):
        assert a.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_an_unchosen_expert_gets_a_gradient_of_zero_and_a_chosen_one_does_not() -> None:
    layer = moe()
    out, routing = layer(states(1, 3))
    out.square().sum().backward()
    for weight in (layer.experts.gate_up_proj, layer.experts.down_proj):
        assert weight.grad is not None
        learns = weight.grad.flatten(1).abs().sum(1) > 0
        assert learns.tolist() == (routing.load_E > 0).tolist()


@pytest.mark.parametrize("k", [1, 2])
def test_the_router_learns_from_the_output_alone(k: int) -> None:
    layer = moe(num_experts_per_tok=k)
    layer(states(2, 9))[0].square().sum().backward()
    assert layer.router.weight.grad is not None
    assert (layer.router.weight.grad.abs().sum(1) > 0).sum() >= 2


def test_the_gradient_of_the_router_is_that_of_finite_differences() -> None:
    layer, x = moe().double(), states(1, 5).double()
    # the router itself computes in float32, so the step must be large and the tolerance too
    weight = layer.router.weight
    layer(x)[0].square().sum().backward()
    direction, step = weight.grad / weight.grad.norm(), 1e-3
    with torch.no_grad():
        weight += step * direction
        up = layer(x)[0].square().sum()
        weight -= 2 * step * direction
        down = layer(x)[0].square().sum()
    assert_close((up - down) / (2 * step), weight.grad.norm(), atol=0, rtol=1e-2)


def test_tokens_are_sorted_by_expert_in_their_order() -> None:
    dispatch = Dispatch.sort(torch.tensor([[2], [0], [2], [0]]), num_experts=4)
    assert dispatch.order.places_R.tolist() == [1, 3, 0, 2]
    assert dispatch.counts_E.tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_is_brought_and_combined_comes_back_scaled_by_its_scores(k: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    experts = torch.randn(11, 5, generator=generator).topk(k).indices.to(device)
    x = torch.randn(11, 6, generator=generator).to(device).requires_grad_()
    scores = torch.rand(11, k, generator=generator).to(device)
    dispatch = Dispatch.sort(experts, 5)
    back = dispatch.combine(dispatch.bring(x, scores), k)
    assert_close(back, x * scores.sum(1, keepdim=True))
    back.sum().backward()
    assert_close(x.grad, scores.sum(1, keepdim=True).expand(-1, 6))


def test_each_copy_reaches_its_expert() -> None:
    experts = torch.tensor([[1, 0], [2, 1]])
    x = torch.tensor([[1.0], [10.0]])
    brought = Dispatch.sort(experts, 3).bring(x, torch.ones(2, 2))
    assert brought.flatten().tolist() == [1, 1, 10, 10]  # expert 0: 1; 1: 1 and 10; 2: 10


def choices(*experts: int, num_experts: int = 4, sureness: float = 50.0) -> tuple[Tensor, Tensor]:
    """Logits and choices of one row whose tokens are sure."""
    chosen = torch.tensor(experts)
    return sureness * F.one_hot(chosen, num_experts).float()[None], chosen[None, :, None]


def test_an_even_row_has_imbalance_1_and_a_collapsed_one_as_many_as_experts() -> None:
    assert_close(imbalance(*choices(0, 1, 2, 3), None), torch.tensor([1.0]))
    assert_close(imbalance(*choices(2, 2, 2, 2), None), torch.tensor([4.0]))


def test_the_more_uneven_the_dearer() -> None:
    rows = [(0, 1, 2, 3), (0, 0, 1, 2), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)]
    costs = [imbalance(*choices(*row), None).item() for row in rows]
    assert_close(costs, [1.0, 1.5, 2.0, 2.5, 4.0], atol=1e-5, rtol=0)


def test_an_even_row_of_two_experts_a_token_has_imbalance_1() -> None:
    logits, experts = torch.zeros(1, 2, 4), torch.tensor([[[0, 1], [2, 3]]])
    assert_close(imbalance(logits, experts, None), torch.tensor([1.0]))


def test_imbalance_is_of_each_row_so_that_batching_changes_nothing() -> None:
    a, b = choices(0, 0, 0, 0), choices(1, 1, 1, 1)  # even together, collapsed apart
    both = imbalance(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]), None)
    assert_close(both, torch.tensor([4.0, 4.0]))


def test_padding_changes_no_imbalance_and_no_load() -> None:
    layer, x = moe(), states(2, 7)
    padded = torch.cat([x, states(2, 3, seed=9)], dim=1)
    real = torch.tensor([[True] * 7 + [False] * 3] * 2)
    plain, with_padding = layer(x, balance=True)[1], layer(padded, real, balance=True)[1]
    assert torch.equal(plain.load_E, with_padding.load_E)
    assert_close(plain.balance, with_padding.balance)


def test_a_row_of_padding_alone_costs_nothing() -> None:
    layer, x = moe(), states(2, 4)
    real = torch.tensor([[True] * 4, [False] * 4])
    alone = layer(x[:1], balance=True)[1]
    assert_close(layer(x, real, balance=True)[1].balance, alone.balance)


def test_balance_is_a_sum_over_tokens_so_that_batches_add_up() -> None:
    layer, x = moe(), states(3, 5)
    parts = sum(layer(row, balance=True)[1].balance for row in x.split(1))
    assert_close(layer(x, balance=True)[1].balance, parts)


def test_the_balance_loss_teaches_the_router_to_be_even() -> None:
    layer, x = moe(), states(4, 16)
    optimizer = torch.optim.SGD([layer.router.weight], lr=0.02)
    costs = []
    for _ in range(20):
        balance = layer(x, balance=True)[1].balance / (4 * 16)
        optimizer.zero_grad()
        balance.backward()
        optimizer.step()
        costs.append(balance.item())
    assert costs[-1] < costs[0]


def test_loads_add_up_to_tokens_times_k() -> None:
    model = tiny_model(tiny_config("top_2"))
    hidden = model.model(random_ids(2, 10), [[10], [4, 3]])  # three tokens of padding
    assert {layer: int(r.load_E.sum()) for layer, r in hidden.routing.items()} == {1: 34, 3: 34}


@pytest.mark.parametrize("num_experts", [4, 16, 128])
def test_choices_are_counted_as_bincount_does(num_experts: int, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    experts = torch.randint(num_experts, (500,), generator=generator)
    real = torch.rand(500, generator=generator) < 0.7
    found = count(experts.to(device), num_experts, real.to(device))
    assert found.tolist() == torch.bincount(experts[real], minlength=num_experts).tolist()
    assert count(experts.to(device), num_experts).sum() == 500


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA runs ahead of the CPU")
def test_counting_makes_no_cuda_device_wait() -> None:
    experts = torch.randint(16, (500,), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        count(experts, 16, experts > 3)
        Dispatch.sort(experts[:, None], 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_imbalance_is_measured_only_when_it_is_asked_for() -> None:
    layer, x = moe(), states(2, 7)
    (plain, routing), (same, measured) = layer(x), layer(x, balance=True)
    assert torch.equal(plain, same)
    assert routing.balance is None
    assert measured.balance is not None


def flops(num_experts: int, **changes: object) -> FlopCounter:
    layer = MoE(ModelConfig(d_model=256, n_heads=4, num_local_experts=num_experts,
                            intermediate_size_expert=256, **changes))  # fmt: skip
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    with FlopCounter() as counter, torch.no_grad():
        layer(states(2, 64, width=256))
    return counter


def test_the_counter_counts_a_known_product_and_one_written_in_place() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    for product in (lambda: a @ b, lambda: torch.mm(a, b, out=torch.empty(3, 7))):
        with FlopCounter() as counter:
            product()
        assert counter.flops == 2 * 3 * 5 * 7
    with FlopCounter() as counter:
        F.linear(torch.ones(2, 3, 5), b.T, torch.ones(7))  # with a bias, in a batch
        torch.bmm(torch.ones(2, 3, 5), torch.ones(2, 5, 7))
    assert counter.flops == 2 * (2 * 2 * 3 * 5 * 7)


def test_a_layer_costs_router_one_expert_and_the_shared_expert() -> None:
    counter, tokens = flops(4), 2 * 64
    router, expert = 2 * 256 * 4, 3 * 2 * 256 * 256
    assert counter.flops == tokens * (router + expert + expert)
    assert "aten.mm.out" in counter.calls  # the experts' own products were seen


def test_sixteen_experts_cost_within_2_percent_of_four() -> None:
    four, sixteen = flops(4).flops, flops(16).flops
    assert four < sixteen < 1.02 * four


def test_each_further_expert_a_token_costs_one_expert_more() -> None:
    more = flops(4, num_experts_per_tok=2).flops - flops(4).flops
    assert more == 2 * 64 * 3 * 2 * 256 * 256
