"""Exact match and token F1 of answers, on French normal forms. Not for generating the answers.

A question may have several gold answers; the best match counts. Sums are kept, and divided once.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quatrain.text.abstention import Abstention
from quatrain.text.french import overlap, tokens


@dataclass(frozen=True, slots=True)
class Score:
    """How well a number of questions were answered."""

    count: int
    """Questions scored; with 0 the two percentages are 0."""
    exact_match: float
    """Percentage of answers whose normal form is that of a gold answer."""
    f1: float
    """Mean token F1, in percent."""


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """Give 1.0 if the normal forms of the prediction and of a gold answer are equal, else 0.0."""
    found = tokens(prediction)
    return float(any(found == tokens(gold) for gold in _checked(golds)))


def f1(prediction: str, golds: Sequence[str]) -> float:
    """Give the best token F1 (harmonic mean of precision and recall) over the gold answers.

    A token counts as often as it occurs in both:

        prediction "le chat noir et noir"  ->  chat noir et noir
        gold       "un chat noir"          ->  chat noir             F1 = 2 * 2 / (4 + 2) = 0.667
    """
    found = tokens(prediction)
    return max(overlap(found, tokens(gold)) for gold in _checked(golds))


def marks(
    prediction: str, golds: Sequence[str], abstention: Abstention | None = None
) -> tuple[float, float]:
    """Give exact match and F1 of an answer; without gold answers, both say whether it abstains.

    Abstaining where there is an answer scores 0, whatever words the sentence shares with it.
    """
    abstains = abstention is not None and abstention.is_said_by(prediction)
    if not golds:
        return float(abstains), float(abstains)
    if abstains:
        return 0.0, 0.0
    return exact_match(prediction, golds), f1(prediction, golds)


def mean_score(exact: Sequence[float], overlaps: Sequence[float]) -> Score:
    """Average the scores of single answers."""
    count = len(exact)
    if count == 0:
        return Score(0, 0.0, 0.0)
    return Score(count, 100 * math.fsum(exact) / count, 100 * math.fsum(overlaps) / count)


def summarise(pairs: Iterable[tuple[str, Sequence[str]]]) -> Score:
    """Score predictions, each with its gold answers."""
    exact: list[float] = []
    overlaps: list[float] = []
    for prediction, golds in pairs:
        exact.append(exact_match(prediction, golds))
        overlaps.append(f1(prediction, golds))
    return mean_score(exact, overlaps)


def best_constant_answer(golds: Sequence[Sequence[str]]) -> tuple[str, Score]:
    """Find the gold answer that, given to every question, has the highest mean F1.

    A model can reach this without reading the question. Ties go to the earlier answer.
    """
    if not golds:
        raise ValueError("no gold answers were given: a constant answer needs at least one")
    askers: dict[tuple[str, ...], list[int]] = defaultdict(list)  # normal form -> its questions
    spelling: dict[tuple[str, ...], str] = {}
    for question, answers in enumerate(golds):
        for answer in _checked(answers):
            form = tuple(tokens(answer))
            askers[form].append(question)
            spelling.setdefault(form, answer)
    holders: dict[tuple[str, int], list[tuple[str, ...]]] = defaultdict(list)
    for form in askers:
        for occurrence in _occurrences(form):
            holders[occurrence].append(form)
    best_form: tuple[str, ...] = ()
    best_sum = -1.0
    for form in askers:
        total = _constant_sum(form, askers, holders)
        if total > best_sum:
            best_form, best_sum = form, total
    answer = spelling[best_form]
    return answer, summarise((answer, answers) for answers in golds)


def _constant_sum(
    form: tuple[str, ...],
    askers: dict[tuple[str, ...], list[int]],
    holders: dict[tuple[str, int], list[tuple[str, ...]]],
) -> float:
    """Sum the F1 of one answer over the questions, visiting only golds that share a token."""
    shared_with: Counter[tuple[str, ...]] = Counter()
    for occurrence in _occurrences(form):
        shared_with.update(holders[occurrence])
    best: dict[int, float] = {}
    if not form:
        best = dict.fromkeys(askers[form], 1.0)
    for gold, shared in shared_with.items():
        value = 2 * shared / (len(form) + len(gold))
        for question in askers[gold]:
            best[question] = max(best.get(question, 0.0), value)
    return math.fsum(best.values())


def _occurrences(words: Sequence[str]) -> list[tuple[str, int]]:
    """Pair each word with a number for its repeats, so that a multiset becomes a set."""
    seen: Counter[str] = Counter()
    numbered = []
    for word in words:
        numbered.append((word, seen[word]))
        seen[word] += 1
    return numbered


def _checked(golds: Sequence[str]) -> Sequence[str]:
    if isinstance(golds, str) or not golds:
        raise ValueError(f"golds must be a non-empty sequence of answers, not {golds!r}")
    return golds
