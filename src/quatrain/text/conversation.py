"""The two kinds of record: a Conversation and a Document.

Not for reading files (data/read.py) nor for guessing shapes (data/parse.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    learnt: bool = True
    """Whether fine-tuning trains on it, for an assistant's turn; else it is context only."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Questions and answers in order, and what is needed to judge the last answer."""

    messages: tuple[Message, ...]
    """Alternating user and assistant turns, after at most one system turn; the last is an answer
    to train on."""
    answers: tuple[str, ...]
    """Every gold answer to the last question; the first is the last message's content. If empty,
    the question has no answer, and the last message says so."""
    group: str
    """What training and evaluation must not share: a title, a context, or the first question."""
    source: str
    """Where it came from, as `file:line` or `file:index`."""
    fields: dict[str, Any] = field(default_factory=dict)
    """The row's other columns (family, theme, level ...), for scores by field."""

    @property
    def has_answer(self) -> bool:
        """Whether the last question has an answer."""
        return bool(self.answers)


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text to pretrain on."""

    text: str
    group: str
    source: str
