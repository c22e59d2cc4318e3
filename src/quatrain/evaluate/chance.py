"""Chance: how far scores may be from those of other questions of the same kind.

    questions   1  2  3  4      groups a (1, 2) and b (3, 4): both questions of a passage are drawn
    scores      1  1  0  0      together, so the mean of a resample is 0, 50 or 100 percent

Questions of one group, which is a passage with its questions, are right or wrong together; drawn
one by one they would seem to say more than they do. Without passages, each question is its own
group and this is the ordinary bootstrap (Efron, 1979). Not for the scores themselves (score.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
_SEED = 0
_TAILS = (0.025, 0.975)

Interval = list[float]
"""Its low and its high end."""


def intervals(values: Sequence[Sequence[float]], groups: Sequence[str]) -> list[Interval] | None:
    """Give the 95 % percentile bootstrap interval of the mean of each score, in percent.

    The draws are the same in every call with as many groups.

    Args:
        values: of each question, its scores from 0 to 1, or differences of scores.
        groups: of each question, the name of its group.

    Returns:
        None for fewer than two groups, which show no spread.
    """
    names, group_Q = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    count = len(names)
    if count < 2:
        return None
    scores_QS = np.asarray(values, np.float64)
    sums = [np.bincount(group_Q, column, count) for column in scores_QS.T]
    table = np.stack([*sums, np.bincount(group_Q, minlength=count)], axis=1)
    random = np.random.default_rng(_SEED)
    totals = np.stack([table[random.integers(count, size=count)].sum(0) for _ in range(RESAMPLES)])
    low_S, high_S = np.quantile(100 * totals[:, :-1] / totals[:, -1:], _TAILS, axis=0)
    return [[float(low), float(high)] for low, high in zip(low_S, high_S, strict=True)]


def mcnemar(one: int, other: int) -> float:
    """Give McNemar's exact p, two-sided, of questions that only one of two models gets right.

    If the models are equally good, each of them is a toss of a coin:

        1 against 5   ->   2 x (C(6, 0) + C(6, 1)) / 2^6 = 0.21875
    """
    tossed = one + other
    ways = total = 1
    for number in range(min(one, other)):
        ways = ways * (tossed - number) // (number + 1)  # math.comb(tossed, number + 1)
        total += ways
    return float(min(1.0, 2 * total / 2**tossed))
