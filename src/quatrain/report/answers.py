"""Sampled answers of the first evaluation beside those of the best: what was fixed or broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OUTCOMES = ("fixed", "broken", "wrong", "kept")
"""By exact match, before and after: 0 then 1, 1 then 0, 0 then 0, 1 then 1."""


@dataclass(frozen=True)
class Pair:
    """One question, asked twice."""

    question: str
    gold: tuple[str, ...]
    before: str
    after: str
    f1_before: float
    f1_after: float
    outcome: str


def compare(samples: Sequence[dict[str, Any]], first: int, best: int) -> list[Pair]:
    """Pair the answers that two evaluations gave to the same questions, in their order."""
    before, after = (
        [row for row in samples if row.get("step") == step and _usable(row)]
        for step in (first, best)
    )
    later: dict[str, list[dict[str, Any]]] = {}
    for row in after:
        later.setdefault(row["question"], []).append(row)
    return [
        _pair(row, later[row["question"]].pop(0))
        for row in before
        if later.get(row["question"])
    ]  # fmt: skip


def groups(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Sort pairs by outcome; in each group the largest change of F1 comes first."""
    return {
        outcome: sorted(
            (pair for pair in pairs if pair.outcome == outcome),
            key=lambda pair: -abs(pair.f1_after - pair.f1_before),
        )
        for outcome in OUTCOMES
    }


def _usable(row: dict[str, Any]) -> bool:
    texts = (row.get("question"), row.get("answer"))
    return all(isinstance(text, str) for text in texts) and isinstance(row.get("gold"), list)


def _pair(before: dict[str, Any], after: dict[str, Any]) -> Pair:
    was, is_now = bool(before.get("exact_match")), bool(after.get("exact_match"))
    names = {(False, True): "fixed", (True, False): "broken", (False, False): "wrong"}
    return Pair(
        before["question"],
        tuple(map(str, before["gold"])),
        before["answer"],
        after["answer"],
        float(before.get("f1") or 0.0),
        float(after.get("f1") or 0.0),
        names.get((was, is_now), "kept"),
    )
