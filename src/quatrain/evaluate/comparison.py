"""Comparison: two models' answers to the same questions, one by one.

    other wrong, this right   fixed        other right, this wrong   broken
    both right, both wrong    no difference

Right is an exact match. Not for comparing a model with itself during training (report/answers.py).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from quatrain.evaluate.chance import mcnemar
from quatrain.evaluate.graded import Graded
from quatrain.evaluate.run import confidence

OUTCOMES = ("fixed", "broken", "both_right", "both_wrong")
_EXAMPLES = 5


def compare(graded: Sequence[Graded], others: Sequence[Graded]) -> dict[str, Any]:
    """Compare a model's answers with another model's.

    Args:
        graded: by this model.
        others: by the other one, in the same order.

    Returns:
        The number of each outcome; `p` of McNemar's test; `difference`, this model's scores minus
        the other's with `ci95` of the pairs; and `examples` of what was fixed and broken.
    """
    pairs = list(zip(graded, others, strict=True))
    assert all(one.question == other.question for one, other in pairs)
    found = defaultdict[str, list[tuple[Graded, Graded]]](list)
    for pair in pairs:
        found[_outcome(*pair)].append(pair)
    changes = [(one.exact_match - other.exact_match, one.f1 - other.f1) for one, other in pairs]
    exact, overlap = (100 * math.fsum(column) / len(pairs) for column in zip(*changes, strict=True))
    return {
        **{name: len(found[name]) for name in OUTCOMES},
        "p": mcnemar(len(found["fixed"]), len(found["broken"])),
        "difference": {
            "exact_match": exact,
            "f1": overlap,
            "ci95": confidence(changes, [one.conversation for one in graded]),
        },
        "examples": {
            name: [_example(*pair) for pair in found[name][:_EXAMPLES]]
            for name in ("fixed", "broken")
        },
    }


def _outcome(one: Graded, other: Graded) -> str:
    right, was_right = bool(one.exact_match), bool(other.exact_match)
    if right == was_right:
        return "both_right" if right else "both_wrong"
    return "fixed" if right else "broken"


def _example(one: Graded, other: Graded) -> dict[str, Any]:
    conversation = one.conversation
    return {
        "question": one.question,
        "gold": list(conversation.answers or (conversation.messages[-1].content,)),
        "against": other.answer,
        "answer": one.answer,
    }
