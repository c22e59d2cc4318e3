"""Rotary positions: adjacent pairs, Llama 3's scaling, float32 for ever."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from quatrain.config import RopeScaling
from quatrain.model.rope import RotaryPositionalEmbedding, frequencies, rotate
from tiny import tiny_config, tiny_model

SCOUT = RopeScaling()


def turned(x: list[float], position: int, theta: float = 100.0) -> torch.Tensor:
    """One head at one position."""
    rotation = RotaryPositionalEmbedding(len(x), theta)(torch.tensor([[position]]))
    return rotate(torch.tensor(x).view(1, 1, 1, -1), rotation).flatten()


def test_four_dimensions_turn_by_one_and_a_tenth_of_the_position() -> None:
    assert_close(frequencies(4, 100.0), torch.tensor([1.0, 0.1]))
    expected = [math.cos(2), math.sin(2), math.cos(0.2), math.sin(0.2)]
    assert_close(turned([1.0, 0.0, 1.0, 0.0], position=2), torch.tensor(expected))


def test_pairs_are_neighbours_and_not_halves() -> None:
    first_pair_only = turned([1.0, 0.0, 0.0, 0.0], position=1)
    assert_close(first_pair_only, torch.tensor([math.cos(1), math.sin(1), 0.0, 0.0]))


def test_position_0_turns_nothing() -> None:
    assert turned([1.0, 2.0, 3.0, 4.0], position=0).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_product_depends_on_the_distance_only() -> None:
    q, k = [1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 2.0, 1.0]
    near = turned(q, 7) @ turned(k, 4)
    far = turned(q, 1007) @ turned(k, 1004)
    # angles of 1000 radians have seven digits in float32: an error of 6e-5 in each factor
    assert_close(near, far, atol=1e-2, rtol=0)


def test_the_length_of_a_vector_stays() -> None:
    assert_close(turned([3.0, 4.0, 0.0, 12.0], position=11).norm(), torch.tensor(13.0))


def test_scout_divides_29_of_64_frequencies_by_16_and_keeps_the_others() -> None:
    plain, scaled = frequencies(128, 500000.0), frequencies(128, 500000.0, SCOUT)
    assert torch.equal(scaled[:35], plain[:35])
    assert torch.equal(scaled[35:], plain[35:] / 16)
    assert len(scaled[35:]) == 29


def test_equal_low_and_high_factors_divide_by_zero_nowhere() -> None:
    on_the_boundary = RopeScaling.model_construct(
        factor=16, low_freq_factor=1, high_freq_factor=1,
        original_max_position_embeddings=2 * math.pi,
    )  # fmt: skip
    assert torch.isfinite(frequencies(128, 500000.0, SCOUT)).all()
    assert torch.isfinite(frequencies(8, 1.0, on_the_boundary)).all()


@pytest.mark.parametrize(("turns", "expected"), [(0.5, 1 / 8), (1, 1 / 8), (2.5, 9 / 16), (4, 1.0)])
def test_between_low_and_high_the_division_fades(turns: float, expected: float) -> None:
    # theta 1 gives frequency 1: a context of 2 pi x turns holds that many turns
    scaling = RopeScaling.model_construct(
        factor=8, low_freq_factor=1, high_freq_factor=4,
        original_max_position_embeddings=2 * math.pi * turns,
    )  # fmt: skip
    assert_close(frequencies(2, 1.0, scaling), torch.tensor([expected]))


def test_casting_the_model_leaves_frequencies_and_rotations_exact() -> None:
    rope = RotaryPositionalEmbedding(128, 500000.0, SCOUT)
    positions = torch.arange(0, 8000, 997)[None]
    before, rotation = rope.inv_freq.clone(), rope(positions)
    rope.to(torch.bfloat16)
    assert rope.inv_freq.dtype == torch.float32
    assert torch.equal(rope.inv_freq, before)
    assert torch.equal(rope(positions), rotation)


def test_a_model_cast_and_cast_back_keeps_its_frequencies() -> None:
    model = tiny_model(tiny_config())
    before = model.model.rotary_emb.inv_freq.clone()
    assert torch.equal(model.bfloat16().float().model.rotary_emb.inv_freq, before)


def test_frequencies_are_no_part_of_a_checkpoint() -> None:
    assert "inv_freq" not in "".join(tiny_model(tiny_config()).state_dict())


def test_rotating_keeps_the_dtype() -> None:
    rotation = RotaryPositionalEmbedding(4, 100.0)(torch.tensor([[3]]))
    assert rotate(torch.ones(1, 1, 2, 4, dtype=torch.bfloat16), rotation).dtype == torch.bfloat16
