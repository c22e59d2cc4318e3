"""The loss: sums, counts, one shift, and no logits kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from quatrain.evaluate.loss import count_targets, judge, summed_cross_entropy
from tiny import random_ids, tiny_config, tiny_model

TARGETS = 23


def problem(targets: int = TARGETS, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(targets, 8, generator=generator).to(device).requires_grad_()
    weight = torch.randn(50, 8, generator=generator).to(device).requires_grad_()
    return states, weight, torch.randint(50, (targets,), generator=generator).to(device)


@pytest.mark.parametrize("chunk_size", [1, 4, 22, 23, 24, 1000])
@pytest.mark.parametrize("targets", [TARGETS, 1, 0])
def test_value_and_gradients_are_those_of_cross_entropy(
    chunk_size: int, targets: int, device: str
) -> None:
    found, expected = [], []
    for into in (found, expected):
        states, weight, ids = problem(targets, device)
        if into is found:
            loss = summed_cross_entropy(states, weight, ids, chunk_size)
        else:
            loss = F.cross_entropy(states @ weight.T, ids, reduction="sum")
        (3 * loss).backward()
        into += [loss, states.grad, weight.grad]
    assert_close(found, expected, atol=1e-4, rtol=1e-5)  # float32 sums of 23 numbers in parts


def test_two_tokens_by_hand() -> None:
    states = torch.tensor([[1.0], [0.0]])
    weight = torch.tensor([[0.0], [1.0]])  # logits (0, 1) and (0, 0)
    total = summed_cross_entropy(states, weight, torch.tensor([1, 0]), chunk_size=1)
    assert_close(total, torch.tensor(0.31326 + 0.69315))


def test_the_loss_is_float32_whatever_the_states_are() -> None:
    states, weight, ids = problem()
    total = summed_cross_entropy(states.bfloat16(), weight.bfloat16(), ids, 8)
    assert total.dtype == torch.float32


def test_under_autocast_it_stays_close_and_gradients_are_float32() -> None:
    states, weight, ids = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(states, weight, ids, 8)
    loss.backward()
    exact_states, exact_weight, _ = problem()
    exact = F.cross_entropy(exact_states @ exact_weight.T, ids, reduction="sum")
    exact.backward()
    assert_close(loss, exact, atol=0, rtol=1e-2)  # bfloat16 factors have 8 bits: 0.4 % each
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    error = (weight.grad - exact_weight.grad).norm() / exact_weight.grad.norm()
    assert error < 1e-2


def test_without_gradients_only_the_sum_is_computed() -> None:
    states, weight, ids = problem()
    with torch.no_grad():
        assert_close(
            summed_cross_entropy(states, weight, ids, 5),
            F.cross_entropy(states @ weight.T, ids, reduction="sum"),
        )


class LargestLogits(TorchDispatchMode):
    """Remembers the most rows that any float32 tensor over the vocabulary had."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size, self.rows = vocab_size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.dtype == torch.float32 and x.ndim:
                if x.shape[-1] == self.vocab_size:
                    self.rows = max(self.rows, x.numel() // self.vocab_size)
        return out


def test_no_more_logits_exist_than_a_chunk_has() -> None:
    states, weight, ids = problem()
    with LargestLogits(50) as seen:
        summed_cross_entropy(states, weight, ids, 4).backward()
    assert seen.rows == 8  # the transposed weight [8, 50] has that last dimension as well
    with LargestLogits(50) as seen:
        F.cross_entropy(states @ weight.T, ids, reduction="sum").backward()
    assert seen.rows == TARGETS


def test_judging_forms_logits_of_targets_only_a_chunk_at_a_time() -> None:
    model, ids = tiny_model(tiny_config(vocab_size=97)), random_ids(2, 40)
    with LargestLogits(97) as seen:
        judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, 48).loss_sum.backward()
    assert seen.rows == 48  # of 78; the transposed weight has 48 rows too


def test_the_state_before_a_target_is_judged_on_it() -> None:
    model = tiny_model()
    ids, mask = torch.tensor([[7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1]]).bool()
    with torch.no_grad():
        judged = judge(model, ids, mask, None, 1024)
        log_p = model(ids)[0].log_softmax(-1)
    assert_close(judged.loss_sum, -(log_p[1, 9] + log_p[2, 10]))
    assert judged.num_targets == 2 == count_targets(mask)


def test_the_first_id_of_a_row_is_never_a_target() -> None:
    mask = torch.tensor([[True, False, True]])
    assert count_targets(mask) == 1
    assert judge(tiny_model(), random_ids(1, 3), mask, None, 8).num_targets == 1


def test_the_mask_may_be_an_array_or_a_tensor_on_either_device(device: str) -> None:
    model, ids = tiny_model().to(device), random_ids(2, 20).to(device)
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    found = [judge(model, ids, m, None, 8) for m in (mask, mask.numpy(), mask.to(device))]
    assert {j.num_targets for j in found} == {count_targets(mask)}
    assert len({j.loss_sum.item() for j in found}) == 1


def test_the_imbalance_is_summed_only_when_it_is_asked_for() -> None:
    model, ids = tiny_model(), random_ids(1, 20)
    plain, measured = (judge(model, ids, ids > -1, None, 8, balance=b) for b in (False, True))
    assert plain.balance_sum.item() == 0
    assert measured.balance_sum.item() > 0
    assert plain.loss_sum.item() == measured.loss_sum.item()


def test_padding_changes_no_loss_no_balance_and_no_load() -> None:
    model, ids = tiny_model(), random_ids(2, 20)
    mask = torch.arange(20) >= torch.tensor([[5], [9]])
    padded_ids = F.pad(ids, (0, 7), value=3)
    plain = judge(model, ids, mask, [[20], [20]], 1024, balance=True)
    padded = judge(model, padded_ids, F.pad(mask, (0, 7)), [[20], [20]], 1024, balance=True)
    assert_close(padded.loss_sum, plain.loss_sum, atol=1e-3, rtol=1e-5)  # sums in another order
    assert_close(padded.balance_sum, plain.balance_sum)
    assert padded.num_targets == plain.num_targets
    assert {k: v.tolist() for k, v in padded.loads.items()} == {
        k: v.tolist() for k, v in plain.loads.items()
    }


def test_a_batch_without_targets_has_loss_0_and_gradients_of_0() -> None:
    model, ids = tiny_model(), random_ids(1, 5)
    judged = judge(model, ids, torch.zeros_like(ids, dtype=torch.bool), None, 1024)
    judged.loss_sum.backward()
    assert judged.loss_sum.item() == judged.num_targets == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_model_without_experts_has_no_balance() -> None:
    ids = random_ids(1, 5)
    judged = judge(tiny_model(tiny_config("no_moe")), ids, ids > -1, None, 1024, balance=True)
    assert judged.balance_sum.item() == 0
    assert judged.loads == {}


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_every_gradient_is_that_of_plain_cross_entropy(chunk_size: int) -> None:
    model, ids = tiny_model(), random_ids(2, 20)
    F.cross_entropy(
        model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    ).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, chunk_size).loss_sum.backward()
    for name, parameter in model.named_parameters():
        # gradients of sums over 38 targets, added in another order
        assert_close(parameter.grad, expected[name], atol=2e-3, rtol=1e-4, msg=name)


def test_tied_embeddings_get_the_gradients_of_both_uses() -> None:
    model, ids = tiny_model(tiny_config("tied_embeddings")), random_ids(1, 12)
    judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, 5).loss_sum.backward()
    found = model.lm_head.weight.grad
    model.zero_grad()
    F.cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="sum").backward()
    assert_close(found, model.lm_head.weight.grad, atol=2e-3, rtol=1e-4)
