"""Several answers to one question become one: that which agrees best with all of them.

An answer's worth is what F1 it can expect if the truth is distributed as the model draws it
(minimum Bayes risk: Kumar and Byrne, 2004; for answers drawn at random: Wang et al., 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from quatrain.text.french import overlap, tokens


def most_agreed(texts: Sequence[str]) -> int:
    """Give the index of the text of the highest mean F1 with all texts; ties go to the first.

        "Paris", "à Paris", "Lyon"  ->  0:  (1 + 0.67 + 0) / 3 against 0.67 + 1 + 0, and 0 + 0 + 1

    Args:
        texts: one at least.
    """
    forms = [tuple(tokens(text)) for text in texts]
    votes = Counter(forms)
    worth = {
        form: sum(number * overlap(form, other) for other, number in votes.items())
        for form in votes
    }
    return max(range(len(texts)), key=lambda i: (worth[forms[i]], -i))
