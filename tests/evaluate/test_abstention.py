"""Abstaining: scored as SQuAD 2 does, the threshold that is best, risk against coverage."""

from __future__ import annotations

import random

import pytest

from quatrain.evaluate.abstention import Said, best_threshold, kinds, risk_coverage
from quatrain.evaluate.score import marks
from quatrain.text.abstention import Abstention

NONE = Abstention(no_answer="Sans réponse dans le texte.")


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("Sans réponse dans le texte.", (), (1, 1)),
        ("« sans réponse dans le texte »", (), (1, 1)),
        ("", (), (1, 1)),
        (" \n", (), (1, 1)),
        ("Paris", (), (0, 0)),
        ("Sans réponse dans le texte.", ("le texte",), (0, 0)),
        ("", ("Paris",), (0, 0)),
        ("Paris", ("Paris",), (1, 1)),
        ("à Paris", ("Paris",), (0, 2 / 3)),
        ("?", ("?",), (1, 1)),
    ],
)
def test_abstaining_is_right_only_where_there_is_no_answer(
    answer: str, golds: tuple[str, ...], expected: tuple[float, float]
) -> None:
    assert marks(answer, golds, NONE) == pytest.approx(expected)


def said(
    score: float | None, f1: float, has_answer: bool, abstained: bool = False, other: float = 0.0
) -> Said:
    return Said(score, f1, has_answer, abstained, other)


def test_the_best_threshold_lies_between_what_is_answered_and_what_is_not() -> None:
    three = [said(-9, 1.0, True), said(-5, 0.5, True), said(-2, 0.0, False)]
    threshold, f1 = best_threshold(three)
    assert threshold == -3.5
    assert f1 == pytest.approx(100 * 2.5 / 3)


def test_a_model_that_is_always_right_needs_no_threshold() -> None:
    both = [said(-1, 1.0, True), said(-9, 1.0, False, True)]
    assert best_threshold(both) == (None, 100.0)


def test_a_model_that_is_always_wrong_had_better_abstain_always() -> None:
    threshold, f1 = best_threshold([said(-4, 0.0, True), said(-7, 0.0, False)])
    assert threshold is not None
    assert threshold < -7
    assert f1 == 50.0


def test_equal_scores_stand_on_one_side() -> None:
    tied = [said(-3, 1.0, True), said(-3, 0.0, False), said(-3, 0.0, False)]
    threshold, f1 = best_threshold(tied)
    assert threshold == -4
    assert f1 == pytest.approx(200 / 3)


def test_a_question_without_room_for_the_sentence_is_answered() -> None:
    assert best_threshold([said(None, 1.0, True)]) == (None, 100.0)
    assert best_threshold([said(None, 1.0, True), said(-1, 0.0, False)])[1] == 100.0


def after(items: list[Said], threshold: float | None) -> float:
    """Apply a threshold the slow way."""
    rule = Abstention(no_answer="x", threshold=threshold)
    total = 0.0
    for item in items:
        if rule.applies(item.score):
            total += not item.has_answer
        else:
            total += item.other_f1 if item.abstained and threshold is not None else item.f1
    return total


def test_a_threshold_makes_a_model_answer_that_always_abstains() -> None:
    over = [said(-3, 0.0, True, True, 1.0), said(-2, 0.0, True, True, 0.5),
            said(-1, 1.0, False, True)]  # fmt: skip
    threshold, f1 = best_threshold(over)
    assert threshold == -1.5
    assert f1 == pytest.approx(100 * 2.5 / 3)


def test_a_threshold_that_brings_nothing_leaves_the_model_its_own_judgement() -> None:
    over = [said(-3, 0.0, True, True, 0.0), said(-1, 1.0, False, True)]
    assert best_threshold(over) == (None, 50.0)


def test_no_threshold_is_better_than_the_best() -> None:
    draw = random.Random(0)
    for _ in range(300):
        items = []
        for _ in range(draw.randint(1, 9)):
            has_answer, abstained = draw.random() < 0.6, draw.random() < 0.2
            f1 = float(not has_answer) if abstained else draw.choice([0, 0.5, 1]) * has_answer
            other = draw.choice([0, 0.5, 1]) * has_answer
            items.append(said(float(draw.randint(-6, 0)), f1, has_answer, abstained, other))
        threshold, f1 = best_threshold(items)
        tried = [None, *(place / 2 for place in range(-15, 3))]
        assert after(items, threshold) == pytest.approx(f1 * len(items) / 100)
        assert f1 == pytest.approx(100 * max(after(items, t) for t in tried) / len(items))


def test_risk_and_coverage_by_hand() -> None:
    four = [said(-9, 1.0, True), said(-7, 0.5, True), said(-5, 0.0, False),
            said(-1, 0.0, True, True, 1.0)]  # fmt: skip
    points = [(0.25, 0.0), (0.5, 0.25), (0.75, 0.5), (1.0, 0.375)]
    assert [tuple(p) for p in risk_coverage(four)] == [pytest.approx(p) for p in points]
    assert risk_coverage([said(-1, 1.0, False, True)]) == [[1.0, 1.0]]


def test_risk_and_coverage_has_few_points_and_ends_with_all_answers() -> None:
    many = [said(-n, n % 2, True) for n in range(1000)]
    found = risk_coverage(many)
    assert len(found) <= 51
    assert found[-1] == [1.0, 0.5]


def test_both_kinds_are_scored_apart() -> None:
    found = kinds([True, True, False], [1.0, 0.0, 1.0], [1.0, 0.5, 1.0])
    assert found == {
        "has_answer": {"count": 2, "exact_match": 50.0, "f1": 75.0},
        "no_answer": {"count": 1, "exact_match": 100.0, "f1": 100.0},
    }
