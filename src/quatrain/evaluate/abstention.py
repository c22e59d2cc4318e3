"""Questions without an answer: scores of both kinds, the best threshold, risk against coverage.

    score   has an answer   F1 when it answers      abstaining scores 1 where there is no answer
    -9      yes             1
    -5      yes             0.5       the best threshold is -3.5: F1 is (1 + 0.5 + 1) / 3
    -2      no              0

As in SQuAD 2 (Rajpurkar et al., 2018): above the threshold a model abstains, below it gives its
best other answer. But a threshold is the midpoint of two scores, of equally good ones the one that
abstains least is taken, and one that is no better than the model's own judgement is not. Not for
scoring answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quatrain.evaluate.score import mean_score

_POINTS = 50
_NO_BETTER = 1e-9
"""Sums of F1 in another order may differ by this much."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered to one question, before any threshold."""

    score: float | None
    """The log-probability of abstaining; None where it was not computed: no threshold abstains."""
    f1: float
    """Of what the model said by itself."""
    has_answer: bool
    abstained: bool
    """Whether the model itself said that there is no answer."""
    other_f1: float = 0.0
    """If so: F1 of the best answer that it could have given instead."""

    @property
    def answering(self) -> float:
        """F1 of the best answer that does not abstain."""
        return self.other_f1 if self.abstained else self.f1


def best_threshold(said: Sequence[Said]) -> tuple[float | None, float]:
    """Find the score above which alone to abstain, so that F1 over all questions is highest.

    Returns:
        The threshold, or None where the model's own abstaining is best, and F1 in percent.
    """
    own, count = math.fsum(one.f1 for one in said), max(1, len(said))
    scored = [(one.score, one) for one in said if one.score is not None]
    order = sorted(scored, key=lambda pair: pair[0])
    if not order:
        return None, 100 * own / count
    total = math.fsum(
        one.answering if one.score is None else float(not one.has_answer) for one in said
    )
    best, threshold = total, order[0][0] - 1
    for place, (score, one) in enumerate(order, 1):
        total += one.answering - float(not one.has_answer)
        following = order[place][0] if place < len(order) else score + 2
        if following != score and total > best - _NO_BETTER:
            best, threshold = total, (score + following) / 2
    if own > best - _NO_BETTER:
        return None, 100 * own / count
    return threshold, 100 * best / count


def risk_coverage(said: Sequence[Said]) -> list[list[float]]:
    """Give pairs of coverage and risk, with rising coverage.

    Coverage is the share of all questions that are answered, beginning with those where the model
    is least likely to abstain. Risk is 1 minus the mean F1 of these answers, each of which is the
    best that does not abstain.
    """
    answered = sorted(
        (-math.inf if one.score is None else one.score, one.answering) for one in said
    )
    points, total = list[list[float]](), 0.0
    for count, (score, f1) in enumerate(answered, 1):
        total += f1
        if count == len(answered) or answered[count][0] != score:
            points.append([count / len(said), 1 - total / count])
    step = max(1, math.ceil(len(points) / _POINTS))
    return [*points[:-1][::step], *points[-1:]]


def kinds(
    has_answer: Sequence[bool], exact: Sequence[float], f1: Sequence[float]
) -> dict[str, Any]:
    """Score questions with and without an answer separately."""
    found = {}
    for name, wanted in (("has_answer", True), ("no_answer", False)):
        of_kind = [i for i, one in enumerate(has_answer) if one is wanted]
        found[name] = asdict(mean_score([exact[i] for i in of_kind], [f1[i] for i in of_kind]))
    return found
