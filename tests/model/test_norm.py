"""Root-mean-square normalisation."""

from __future__ import annotations

from functools import partial

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


def written_out(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """The formula, for PyTorch to differentiate."""
    wide = x.float()
    normalised = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return normalised if weight is None else normalised * weight


# sums in another order; bfloat16 keeps 8 bits
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("eps", [1e-5, 1.0])
@pytest.mark.parametrize("in_cache", [1, 10, 1 << 18])
def test_the_gradient_is_that_of_the_formula(
    eps: float,
    dtype: torch.dtype,
    tolerance: float,
    in_cache: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quatrain.model.norm._IN_CACHE", in_cache)
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    x, upwards, weight = (t.to(device, dtype) for t in (draw(3, 2, 5), draw(3, 2, 5), draw(5)))
    for weighed in (False, True):
        found = []
        for way in (rms_normalise, written_out):
            leaves = [t.clone().requires_grad_() for t in ((x, weight) if weighed else (x,))]
            out = way(leaves[0], eps, *leaves[1:])
            out.backward(upwards)
            found.append([out.detach(), *(leaf.grad for leaf in leaves)])
        assert_close(*found, atol=tolerance, rtol=tolerance)


def test_a_narrower_input_takes_the_weights_dtype() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    norm = RMSNorm(8, 1e-5)
    out = norm(x)
    out.sum().backward()
    assert torch.equal(out, rms_normalise(x, 1e-5) * norm.weight)
    assert (out.dtype, x.grad.dtype, norm.weight.grad.dtype) == (
        torch.float32, torch.bfloat16, torch.float32,
    )  # fmt: skip


def test_a_frozen_weight_gets_no_gradient_and_strides_do_not_matter() -> None:
    x = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
    norm = RMSNorm(8, 1e-5).requires_grad_(False)
    leaf = x.transpose(0, 1).requires_grad_()
    out = norm(leaf)
    out.square().sum().backward()
    assert torch.equal(out, norm(x).transpose(0, 1))
    assert leaf.grad.shape == (3, 4, 8)
    assert norm.weight.grad is None
