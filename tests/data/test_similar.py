"""Repetitions and leaks: what is found is what a slow and obvious comparison finds."""

from __future__ import annotations

import random

import numpy as np
import pytest

from quatrain.data.question import mark
from quatrain.data.similar import (
    ALIKE,
    HeldOut,
    Sketches,
    disputed,
    grams,
    repeated,
)

WORDS = [a + b for a in ("ba", "do", "fi", "lu", "mo", "ra") for b in ("c", "l", "n", "r", "t")]


def sentence(seed: int, length: int) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(WORDS) for _ in range(length)]


def test_equal_windows_of_words_have_equal_grams() -> None:
    found, owners = grams(
        ["Un deux trois quatre", "deux, trois ; QUATRE !", "seul"], 3, whole=False
    )
    assert owners.tolist() == [0, 0, 1]
    assert found[1] == found[2]
    assert found[0] != found[1]


def test_a_text_shorter_than_a_gram_is_one_gram_where_asked() -> None:
    found, owners = grams(["seul", "Seul.", "", "???"], 3, whole=True)
    assert owners.tolist() == [0, 1, 2, 3]
    assert found[0] == found[1]
    assert len({*found.tolist()}) == 3


def test_marks_ignore_case_spaces_and_the_last_sign_alone() -> None:
    assert mark("  Où est-il ? ") == mark("où  est-il")
    assert len({mark(text) for text in ("ou est-il", "où est-il", "2 + 2", "2 - 2", "2 2")}) == 5


def test_repeated_names_each_record_after_the_first() -> None:
    found = repeated(np.array([7, 3, 7, 7, 3], dtype=np.uint64), shown=2)
    assert found.count == 3
    assert found.examples == [(2, 0), (3, 0)]


def test_disputed_names_a_question_with_another_answer() -> None:
    questions = np.array([1, 2, 1, 2, 1], dtype=np.uint64)
    answers = np.array([5, 6, 5, 7, 5], dtype=np.uint64)
    found = disputed(questions, answers, shown=5)
    assert found.count == 1
    assert found.examples == [(3, 1)]


def test_a_record_with_one_word_changed_is_a_near_duplicate_and_a_copy_is_not() -> None:
    texts = [" ".join(sentence(seed, 40)) for seed in range(300)]
    changed = texts[7].split()
    changed[20] = "autrement"
    sketches = Sketches()
    for start in range(0, 300, 100):
        sketches.add(texts[start : start + 100])
    sketches.add([" ".join(changed), texts[9]])
    marks = np.array([mark(text) for text in [*texts, " ".join(changed), texts[9]]], np.uint64)
    found = sketches.near(marks, shown=5)
    assert found.examples == [(300, 7)]
    assert found.count == 1


@pytest.mark.parametrize("changes", [0, 1, 2, 8])
def test_near_duplicates_are_those_that_share_most_triples(changes: int) -> None:
    pairs, expected = [], []
    for seed in range(40):
        words = sentence(seed, 60)
        other = list(words)
        for change in range(changes):
            other[7 * change + 3] = f"mot{seed}"
        triples = [{tuple(w[i : i + 3]) for i in range(58)} for w in (words, other)]
        expected.append(len(triples[0] & triples[1]) / len(triples[0] | triples[1]))
        pairs += [" ".join(words), " ".join(other)]
    sketches = Sketches()
    sketches.add(pairs)
    found = sketches.near(np.arange(80, dtype=np.uint64), shown=80)
    surely = sum(share >= ALIKE + 0.1 for share in expected)
    hardly = sum(share >= ALIKE - 0.2 for share in expected)
    assert 0.9 * surely <= found.count <= hardly  # an estimate from 64 places errs by 0.04
    assert all(record == earlier + 1 for record, earlier in found.examples)


def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not() -> None:
    held = sentence(1, 30)
    sides = HeldOut()
    sides.add([mark("autre")], ["rien de commun"])
    sides.add([mark("Qui ?")], [" ".join(held)])
    sides.close()
    texts = [
        " ".join(["avant", *held[5:18], "après"]),
        " ".join(["avant", *held[5:17], "après"]),
        "",
    ]
    assert sides.shared(texts) == {0: {1}}
    assert sides.asked(mark("qui")) == 1
    assert sides.asked(mark("quoi")) is None


def test_nothing_is_shared_with_held_out_records_of_few_words() -> None:
    sides = HeldOut()
    sides.add([1], ["trop court"])
    sides.close()
    assert sides.shared(["trop court", "trop court"]) == {}
