"""Root-mean-square normalisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from quatrain.model.norm import RMSNorm, rms_normalise


def test_a_vector_is_divided_by_its_root_mean_square() -> None:
    x = torch.tensor([3.0, 4.0])  # mean square 12.5, its root 3.5355
    assert_close(rms_normalise(x, 0.0), torch.tensor([0.8485, 1.1314]), atol=1e-4, rtol=0)


def test_eps_is_added_to_the_mean_square() -> None:
    x = torch.tensor([3.0, 4.0])  # mean square 12.5 + 3.5 = 16, its root 4
    assert_close(rms_normalise(x, 3.5), torch.tensor([0.75, 1.0]))


def test_the_weight_multiplies_each_dimension() -> None:
    norm = RMSNorm(2, 3.5)
    norm.weight.data = torch.tensor([2.0, -1.0])
    assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([1.5, -1.0]))


def test_each_vector_is_normalised_alone() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    together = rms_normalise(x, 1e-5)
    assert torch.equal(together[1, 2], rms_normalise(x[1, 2], 1e-5))


def test_bfloat16_is_normalised_in_float32_and_cast_before_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator).bfloat16()
    norm = RMSNorm(32, 1e-5).bfloat16()
    norm.weight.data.normal_(generator=generator)
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    cast_first = wide.bfloat16() * norm.weight
    cast_last = (wide * norm.weight.float()).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), cast_first)
    assert not torch.equal(cast_first, cast_last)  # the order shows, so the test can fail


def test_values_whose_square_overflows_bfloat16_sums_stay_exact() -> None:
    x = torch.full((4096,), 300.0, dtype=torch.bfloat16)
    assert torch.equal(rms_normalise(x, 1e-5), torch.ones(4096, dtype=torch.bfloat16))


def test_zeros_stay_zero_with_finite_gradients() -> None:
    x = torch.zeros(4, requires_grad=True)
    out = rms_normalise(x, 1e-5)
    out.sum().backward()
    assert out.tolist() == [0.0] * 4
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def written_out(x: Tensor, eps: float) -> Tensor:
    """The formula, for PyTorch to differentiate."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


# sums in another order; bfloat16 keeps 8 bits
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("eps", [1e-5, 1.0])
@pytest.mark.parametrize("weight", ["none", "frozen", "learning"])
@pytest.mark.parametrize("leading", [(3, 2), ()])
def test_the_gradients_are_those_of_the_formula(
    weight: str,
    leading: tuple[int, ...],
    eps: float,
    dtype: torch.dtype,
    tolerance: float,
    device: str,
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((*leading, 5), (5,), (*leading, 5))
    x, scale, upwards = (torch.randn(n, generator=generator).to(device, dtype) for n in shapes)
    norm = RMSNorm(5, eps).to(device)
    norm.weight = torch.nn.Parameter(scale, requires_grad=weight == "learning")
    ways: tuple[Callable[[Tensor], Tensor], ...] = (
        norm, lambda x: written_out(x, eps) * norm.weight,
    )  # fmt: skip
    if weight == "none":
        ways = (lambda x: rms_normalise(x, eps), lambda x: written_out(x, eps))
    found = []
    for way in ways:
        leaf = x.clone().requires_grad_()
        leaves = (leaf, norm.weight) if weight == "learning" else (leaf,)
        found.append(torch.autograd.grad(way(leaf), leaves, upwards))
    for ours, exact in zip(*found, strict=True):
        assert ours.dtype == exact.dtype
        assert_close(ours, exact, atol=tolerance, rtol=tolerance)
