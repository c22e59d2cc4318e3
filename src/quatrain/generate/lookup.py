"""Prompt lookup: answers quote their context, so the next tokens may stand in what was read.

The last two tokens are looked for earlier in the prompt and the answer; what followed them there
is a draft. The model reads the draft together with the last token, and the part that it would have
said itself is kept (Saxena, 2023, after Leviathan et al., 2023). So answers are the same, and a
quotation takes fewer steps.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 7
"""Tokens of a draft at most."""
_PAUSE = 4
"""Tokens without a draft after one of which nothing was right."""


class Lookup:
    """Drafts for one answer."""

    def __init__(self, history: Sequence[int]) -> None:
        """Look through a history, which may grow later."""
        self.history = history
        self.most = 3
        """Tokens of the next draft at most: more where drafts were right."""
        self._after: dict[tuple[int, int], int] = {}
        """Where the tokens after a pair begin; of the last such pair but the final one."""
        self._looked = 1
        self._pause = 0

    def draft(self, most: int) -> Sequence[int]:
        """Give the tokens that may follow, at most so many."""
        history = self.history
        for place in range(self._looked, len(history) - 1):
            self._after[history[place - 1], history[place]] = place + 1
        self._looked = max(self._looked, len(history) - 1)
        if self._pause:
            self._pause -= 1
            return []
        if most < 1 or len(history) < 2:
            return []
        found = self._after.get((history[-2], history[-1]))
        return [] if found is None else history[found : found + min(most, self.most)]

    def judge(self, drafted: int, right: int) -> None:
        """Take note of how many drafted tokens were right."""
        if not drafted:
            return
        if not right:
            self.most, self._pause = max(1, self.most // 2), _PAUSE
        elif right == drafted:
            self.most = min(_LONGEST, 2 * self.most)
