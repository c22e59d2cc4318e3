import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.evaluate.score import (
    Score,
    best_constant_answer,
    exact_match,
    f1,
    summarise,
)

answers = st.one_of(
    st.text(), st.lists(st.sampled_from(["le", "chat", "noir", "d'or", "3,5", "un"])).map(" ".join)
)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("l'eau", "eau"),
        ("l’eau", "l'eau"),
        ("« Paris »", "Paris"),
        ("E\u0301vry", "Évry"),
        ("aujourd'hui", "aujourd’hui"),
        ("cœur", "coeur"),
        ("Jean\u2011Paul", "Jean-Paul"),
    ],
)
def test_answers_that_differ_in_writing_only_match(prediction, gold):
    assert exact_match(prediction, [gold]) == 1.0
    assert f1(prediction, [gold]) == 1.0


def test_a_decimal_comma_is_not_skipped():
    assert exact_match("3,5", ["35"]) == 0.0
    assert f1("3,5", ["35"]) == 0.0


def test_f1_counts_repeated_tokens_as_often_as_both_have_them():
    assert f1("le chat noir et noir", ["un chat noir"]) == pytest.approx(4 / 6)


def test_the_best_gold_counts():
    golds = ["un chien", "un chat noir"]
    assert exact_match("Chat noir", golds) == 1.0
    assert f1("chat", golds) == pytest.approx(2 / 3)


def test_golds_given_as_one_string_are_refused():
    with pytest.raises(ValueError, match="golds must be a non-empty sequence of answers"):
        exact_match("a", "a")
    with pytest.raises(ValueError, match="golds must be a non-empty sequence of answers"):
        f1("a", [])


def test_an_empty_prediction_scores_nothing():
    assert f1("", ["eau"]) == 0.0
    assert f1("", [""]) == 1.0


def test_a_summary_divides_once():
    pairs = [("eau", ["l'eau"]), ("chat noir", ["chat"]), ("", ["x"]), ("y", ["x"])]
    assert summarise(pairs) == Score(4, 25.0, pytest.approx(100 * (1 + 2 / 3) / 4))


def test_no_questions_score_zero_with_a_count_of_zero():
    assert summarise([]) == Score(0, 0.0, 0.0)


def test_the_best_constant_is_the_best_of_trying_every_gold():
    draw = random.Random(5)
    words = "le chat la de eau noir un paris 3 et".split()
    golds = [
        [" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        for _ in range(60)
    ]
    answer, score = best_constant_answer(golds)
    tried = [summarise((c, g) for g in golds).f1 for some in golds for c in some]
    assert score.f1 == pytest.approx(max(tried))
    assert score == summarise((answer, g) for g in golds)


def test_a_constant_answer_needs_golds():
    with pytest.raises(ValueError, match="no gold answers were given"):
        best_constant_answer([])


@settings(deadline=None)
@given(answers)
def test_an_answer_matches_itself(answer):
    assert exact_match(answer, [answer]) == 1.0
    assert f1(answer, [answer]) == 1.0


@settings(deadline=None)
@given(answers, answers)
def test_f1_is_symmetric_and_between_exact_match_and_one(one, other):
    assert f1(one, [other]) == f1(other, [one])
    assert exact_match(one, [other]) <= f1(one, [other]) <= 1.0
