"""Questions without an answer: scores of both kinds, the best threshold, risk against coverage.

    score   has an answer   F1 of the answer        abstaining scores 1 where there is no answer
    -9      yes             1
    -5      yes             0.5       the best threshold is -3.5: F1 is (1 + 0.5 + 1) / 3
    -2      no              0

As in SQuAD 2 (Rajpurkar et al., 2018), except that a threshold is the midpoint of two scores, and
of equally good thresholds the one that abstains least is taken. Not for scoring answers.
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
    """The log-probability of abstaining; None where it was not computed: the model answers."""
    f1: float
    has_answer: bool
    abstained: bool
    """Whether the model itself said that there is no answer."""


def best_threshold(said: Sequence[Said]) -> tuple[float | None, float]:
    """Find the score above which to abstain, so that F1 over all questions is highest.

    Returns:
        The threshold, or None where the model's own abstaining is best, and F1 in percent.
    """
    always = [one.f1 for one in said if one.score is None]
    order = sorted((one.score, one.f1, one.has_answer) for one in said if one.score is not None)
    if not order:
        return None, 100 * math.fsum(always) / max(1, len(said))
    total = math.fsum([*always, *(float(not has_answer) for _, _, has_answer in order)])
    best, threshold = total, order[0][0] - 1
    found: float | None = threshold
    for place, (score, f1, has_answer) in enumerate(order, 1):
        total += f1 - float(not has_answer)
        following = order[place][0] if place < len(order) else None
        if following != score and total > best - _NO_BETTER:
            best, found = total, None if following is None else (score + following) / 2
    return found, 100 * best / len(said)


def risk_coverage(said: Sequence[Said]) -> list[list[float]]:
    """Give pairs of coverage and risk, with rising coverage.

    Coverage is the share of all questions that are answered, beginning with those where the model
    is least likely to abstain. Risk is 1 minus the mean F1 of these answers.
    """
    answered = sorted(
        (-math.inf if one.score is None else one.score, one.f1) for one in said if not one.abstained
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
