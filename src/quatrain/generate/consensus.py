"""Choose one of several answers to a question: the one that agrees best with all of them.

The value of an answer is its expected F1 if the truth is distributed as the model draws it
(minimum Bayes risk: Kumar and Byrne, 2004; for answers drawn at random: Wang et al., 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quatrain.text.french import overlap, tokens


def most_agreed(texts: Sequence[str]) -> int:
    """Give the index of the text with the highest mean F1 over all texts; ties go to the first.

        "Paris", "à Paris", "Lyon"  ->  0:  (1 + 0.67 + 0) / 3 against 0.67 + 1 + 0, and 0 + 0 + 1

    Args:
        texts: at least one.
    """
    forms = [tuple(tokens(text)) for text in texts]
    votes = Counter(forms)
    worth = {
        form: sum(number * overlap(form, other) for other, number in votes.items())
        for form in votes
    }
    return max(range(len(texts)), key=lambda i: (worth[forms[i]], -i))
