"""What one model gets right and another wrong, question by question."""

from __future__ import annotations

import pytest

from quatrain.evaluate.chance import mcnemar
from quatrain.evaluate.comparison import compare
from quatrain.evaluate.run import Graded
from quatrain.text.conversation import Conversation, Message


def answers(marks: str, said: str, groups: str = "") -> list[Graded]:
    """One question for each mark: `+` is right, `-` is wrong, `0` is right without an answer."""
    found = []
    for number, mark in enumerate(marks):
        golds = () if mark == "0" else ("oui",)
        turns = Message("user", f"Question {number} ?"), Message("assistant", "oui")
        group = groups[number] if groups else str(number)
        question = Conversation(turns, golds, group, f"here:{number}")
        value = float(mark != "-")
        found.append(Graded(question, f"{said} {number}", "stop", value, value))
    return found


def test_each_question_is_fixed_broken_or_alike() -> None:
    found = compare(answers("++-+-", "new"), answers("+-+--", "old"))
    names = ("fixed", "broken", "both_right", "both_wrong")
    assert [found[name] for name in names] == [2, 1, 1, 1]
    assert found["p"] == mcnemar(2, 1) == 1.0
    assert found["difference"]["exact_match"] == pytest.approx(20.0)
    assert found["examples"]["broken"] == [
        {"question": "Question 2 ?", "gold": ["oui"], "against": "old 2", "answer": "new 2"}
    ]


def test_turned_round_it_says_the_reverse() -> None:
    one, other = answers("++-+-++", "new"), answers("+-+---+", "old")
    here, there = compare(one, other), compare(other, one)
    assert (here["fixed"], here["broken"], here["p"]) == (
        there["broken"], there["fixed"], there["p"],
    )  # fmt: skip
    assert here["difference"]["f1"] == -there["difference"]["f1"]
    low, high = here["difference"]["ci95"]["f1"]
    assert there["difference"]["ci95"]["f1"] == [pytest.approx(-high), pytest.approx(-low)]


def test_the_interval_is_of_pairs_and_narrower_than_that_of_either_model() -> None:
    one, other = answers("+-" * 20 + "+", "new"), answers("+-" * 20 + "-", "old")
    low, high = compare(one, other)["difference"]["ci95"]["exact_match"]
    assert low == 0
    assert high < 10  # either model alone: about 35 to 65


def test_pairs_of_a_group_are_drawn_together() -> None:
    one, other = (answers(marks, "", "aaaabbbb") for marks in ("++++----", "--------"))
    assert compare(one, other)["difference"]["ci95"]["exact_match"] == [0.0, 100.0]
    alone = compare(answers("++", "", "aa"), answers("--", "", "aa"))
    assert alone["difference"]["ci95"]["exact_match"] is None


def test_at_most_five_examples_are_shown_and_a_question_without_an_answer_shows_its_sentence() -> (
    None
):
    found = compare(answers("000000+", "new"), answers("------+", "old"))
    assert found["fixed"] == 6
    assert len(found["examples"]["fixed"]) == 5
    assert found["examples"]["fixed"][0]["gold"] == ["oui"]
