"""Intervals cover what they should, groups are drawn whole, and p is that of tossed coins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quatrain.evaluate.chance import intervals, mcnemar


def alone(count: int) -> list[str]:
    return [f"q{number}" for number in range(count)]


def test_the_interval_is_that_of_the_normal_law_where_questions_are_many() -> None:
    values = [[1.0, 0.5]] * 500 + [[0.0, 0.5]] * 500
    (low, high), f1 = intervals(values, alone(1000)) or []
    half = 196 * math.sqrt(0.25 / 1000)
    assert (low, high) == (pytest.approx(50 - half, abs=0.5), pytest.approx(50 + half, abs=0.5))
    assert f1 == [50.0, 50.0]


def test_the_same_questions_have_the_same_interval_and_the_global_generator_is_left_alone() -> None:
    values, before = [[1.0], [0.0], [1.0], [0.0], [0.0]], np.random.get_state()[1].copy()
    assert intervals(values, alone(5)) == intervals(values, alone(5))
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_questions_of_a_group_are_drawn_together() -> None:
    right = [[1.0]] * 4 + [[0.0]] * 4
    assert intervals(right, list("aaaabbbb")) == [[0.0, 100.0]]  # means are 0, 50 and 100
    [[low, high]] = intervals(right, alone(8)) or []
    assert 0 < low < high < 100


def test_ten_copies_of_each_question_are_no_more_certain_than_one() -> None:
    few = [[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]
    copies = [value for value in few for _ in range(10)]
    of_copies = [name for name in alone(6) for _ in range(10)]
    assert intervals(copies, of_copies) == intervals(few, alone(6))


def test_groups_of_any_order_and_size_weigh_as_many_questions_as_they_have() -> None:
    values, groups = [[1.0], [0.0], [0.0], [0.0]], ["a", "b", "c", "b"]
    order = [2, 0, 3, 1]
    mixed = intervals([values[i] for i in order], [groups[i] for i in order])
    assert mixed == intervals(values, groups)
    [[low, high]] = mixed or []
    assert (low, high) == (0.0, pytest.approx(100.0))


def test_one_in_twenty_intervals_or_so_misses_the_truth() -> None:
    random = np.random.default_rng(1)
    missed = 0
    for _ in range(100):
        [[low, high]] = intervals((random.random((80, 1)) < 0.4).astype(float), alone(80)) or []
        missed += not low <= 40 <= high
    assert 1 <= missed <= 12  # 5 of 100 are expected; 12 or more have a chance of 0.4 %


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "a", "a"]])
def test_less_than_two_groups_have_no_interval(groups: list[str]) -> None:
    assert intervals([[1.0]] * len(groups), groups) is None


def test_p_of_a_hand_worked_example() -> None:
    assert mcnemar(1, 5) == mcnemar(5, 1) == 2 * (1 + 6) / 64


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 3), (2, 9), (40, 70)])
def test_p_is_the_sum_of_binomials(one: int, other: int) -> None:
    count = one + other
    tail = sum(math.comb(count, number) for number in range(min(one, other) + 1))
    assert mcnemar(one, other) == min(1.0, 2 * tail / 2**count)


def test_p_of_many_questions_is_a_number() -> None:
    assert 0.3 < mcnemar(5000, 5100) < 0.4
    assert mcnemar(0, 3000) == 0.0
