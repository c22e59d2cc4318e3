"""grouped_linear: a product for each group, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from quatrain.model import weights
from quatrain.model.weights import grouped_linear
from tiny import tiny_config

COUNTS = [[3, 4], [0, 7, 0], [7], [2, 0, 0, 5, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0]]


def tensors(counts: list[int], device: str = "cpu", dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), 6, generator=generator, dtype=dtype)
    weight = torch.randn(len(counts), 6, 4, generator=generator, dtype=dtype)
    x, weight = (t.to(device).requires_grad_() for t in (x, weight))
    return x, weight, torch.tensor(counts, device=device)


def row_by_row(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    group = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    rows = [x[i] @ weight[g] for i, g in enumerate(group.tolist())]
    return torch.stack(rows) if rows else x @ weight[0]


def test_rows_meet_the_matrix_of_their_group() -> None:
    x, weight = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[[10.0]], [[100.0]], [[1000.0]]])
    assert grouped_linear(x, weight, torch.tensor([2, 0, 1])).tolist() == [[10], [20], [3000]]


@pytest.mark.parametrize("counts", COUNTS)
def test_the_product_and_its_gradients_are_those_of_a_loop_over_rows(
    counts: list[int], device: str
) -> None:
    found, expected = [], []
    for product, into in ((grouped_linear, found), (row_by_row, expected)):
        x, weight, counts_E = tensors(counts, device)
        out = product(x, weight, counts_E)
        out.square().sum().backward()
        into += [out, x.grad, weight.grad]
    assert_close(found, expected, atol=1e-4, rtol=1e-5)  # sums of at most 7 squares of size 10


@pytest.mark.parametrize("unit", [2, 4, 16])
@pytest.mark.parametrize("counts", COUNTS)
def test_rows_that_are_taken_along_change_nothing(
    counts: list[int], unit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_rounds", lambda _: True)
    monkeypatch.setattr(weights, "_round_number", lambda count: -(-count // unit) * unit)
    test_the_product_and_its_gradients_are_those_of_a_loop_over_rows(counts, "cpu")


def test_numbers_of_rows_are_few_and_at_most_a_sixteenth_too_many() -> None:
    numbers = [weights._round_number(count) for count in range(1, 4097)]
    assert all(0 <= number - count < 16 + count / 16 for count, number in enumerate(numbers, 1))
    assert all(16 * number <= 17 * count for count, number in enumerate(numbers, 1) if count >= 256)
    assert numbers[:17] == [16] * 16 + [32]
    assert numbers[511:545:8] == [512, 544, 544, 544, 544]
    assert len(set(numbers)) == 16 + 4 * 16


@pytest.mark.parametrize("learns", [True, False])
def test_a_step_multiplies_no_shape_that_was_not_met(
    learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product_of(counts: list[int]) -> None:
        x = torch.ones(sum(counts), 24, requires_grad=True)
        grouped_linear(x, weight, torch.tensor(counts)).sum().backward()

    met, multiply = set[tuple[object, ...]](), torch.mm

    def seen(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        met.add((*a.shape, *b.shape, a.stride(0) == 1, b.stride(0) == 1))
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", seen)
    monkeypatch.setattr(weights, "_rounds", lambda _: True)
    weight = torch.ones(3, 24, 40, requires_grad=learns)
    weights.meet_numbers_of_rows(weight, 700, torch.float32)
    assert weight.grad is None
    before = set(met)
    assert len(before) == (16 + 16 + 6) * (3 if learns else 2)
    for first in range(1, 700, 13):
        product_of([first, 700 - first, 0])
    assert met == before
    product_of([705, 0, 0])
    assert met > before


def test_no_numbers_of_rows_are_met_for_a_library_that_keeps_no_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "_rounds", lambda _: False)
    monkeypatch.delattr(torch, "mm")
    weights.meet_numbers_of_rows(torch.ones(3, 24, 40), 700, torch.float32)


def test_onednn_meets_few_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    met, multiply = set[int](), torch.mm

    def seen(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        met.update(a.shape)
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", seen)
    x, weight, counts = tensors([16, 3, 16, 5, 0, 30, 10], dtype=torch.bfloat16)
    grouped_linear(x, weight, counts).sum().backward()
    assert met == {6, 4, 16, 32}  # the first two are widths


@pytest.mark.parametrize("counts", COUNTS)
def test_gradients_are_those_of_finite_differences(counts: list[int]) -> None:
    x, weight, counts_E = tensors(counts, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: grouped_linear(a, b, counts_E), (x, weight))


def test_a_group_without_rows_gets_a_gradient_of_zero() -> None:
    x, weight, counts = tensors([3, 0, 4])
    torch.use_deterministic_algorithms(True)  # memory that nothing was written to is NaN
    try:
        grouped_linear(x, weight, counts).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert weight.grad is not None
    assert (weight.grad[1] == 0).all()
    assert (weight.grad[[0, 2]] != 0).all()


@pytest.mark.parametrize(("learns_x", "learns_weight"), [(True, False), (False, True)])
def test_frozen_inputs_get_no_gradient(learns_x: bool, learns_weight: bool) -> None:
    x, weight, counts = tensors([3, 4])
    x.requires_grad_(learns_x), weight.requires_grad_(learns_weight)
    grouped_linear(x, weight, counts).sum().backward()
    assert (x.grad is not None, weight.grad is not None) == (learns_x, learns_weight)


def test_under_autocast_it_multiplies_in_bfloat16_and_gradients_stay_float32() -> None:
    x, weight, counts = tensors([3, 4])
    with torch.autocast("cpu", torch.bfloat16):
        out = grouped_linear(x, weight, counts)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert_close(out.float(), row_by_row(x, weight, counts), atol=0.1, rtol=2e-2)  # 8 bits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the grouped kernel needs CUDA")
@pytest.mark.parametrize("counts", [[8, 0, 24], [1, 30, 1]])
def test_the_grouped_kernel_agrees_with_the_loop(counts: list[int]) -> None:
    width = tiny_config().d_model
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(32, width), (3, width, 40)]
    rounded = [torch.randn(s, device="cuda", generator=generator).bfloat16() for s in shapes]
    counts_E = torch.tensor(counts, device="cuda")
    found, expected = [], []
    for into, product, dtype in (
        (found, grouped_linear, torch.bfloat16),
        (expected, row_by_row, torch.float32),
    ):
        x, weight = (t.to(dtype, copy=True).requires_grad_() for t in rounded)
        out = product(x, weight, counts_E)
        out.square().sum().backward()
        into += [t.float() for t in (out, x.grad, weight.grad)]
    for ours, exact in zip(found, expected, strict=True):
        assert (ours - exact).norm() < 1e-2 * exact.norm()  # bfloat16 has 8 bits: 0.4 % each
