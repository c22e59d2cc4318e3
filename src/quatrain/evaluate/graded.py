"""A question, the answer given, and how good it is. Not for grading (run.py)."""

from __future__ import annotations

from dataclasses import dataclass

from quatrain.evaluate.abstention import Said
from quatrain.text.conversation import Conversation


@dataclass(frozen=True)
class Graded:
    """A question, the answer given, and how good it is."""

    conversation: Conversation
    answer: str
    finish_reason: str
    """stop, length, or too_long if the question leaves no room for an answer; it then scores 0."""
    exact_match: float
    f1: float
    said: Said | None = None
    """The answer before any threshold; None where nothing can abstain."""
    abstained: bool = False
    """Whether the final answer is that there is none."""
    exact_answering: float = 0.0
    """Exact match of the best answer that does not abstain; `said` has its F1."""

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.conversation.messages[-2].content
