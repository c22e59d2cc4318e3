"""What the forms of an answer share: OpenAI's routes write the same answer in three ways.

    whole                                  one object
    opening  piece ...  end  closing       the events of a stream

Not for what is asked (protocol.py), nor for sending it (routes.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from quatrain.generate.voice import Answer, Piece, TokenLogprob
from quatrain.serve.refusal import Refusal

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot write."""


class Form(Protocol):
    """How a route writes answers."""

    ends_with_done: bool
    """Whether `[DONE]` comes after the last event."""

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Write the answers as one object."""

    def opening(self) -> Iterable[dict[str, Any]]:
        """Write what comes before all text."""

    def piece(self, choice: int, piece: Piece) -> Iterable[dict[str, Any]]:
        """Write a piece of an answer."""

    def end(self, choice: int, answer: Answer) -> Iterable[dict[str, Any]]:
        """Write the end of an answer."""

    def closing(self, answers: Sequence[Answer]) -> Iterable[dict[str, Any]]:
        """Write what comes after all answers."""

    def broken(self, refusal: Refusal) -> dict[str, Any]:
        """Write that the stream ends before its answer does."""


def new_id(kind: str) -> str:
    """Make an identifier."""
    return f"{kind}{secrets.token_hex(12)}"


def now() -> int:
    """Give the time in seconds, as OpenAI writes it."""
    return int(time.time())


def usage(prompt_tokens: int, answers: Sequence[Answer]) -> dict[str, Any]:
    """Count tokens; each prompt is counted once."""
    generated = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


def finite(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Describe tokens as OpenAI does, in numbers that JSON can write."""
    return [_finite(token.as_openai()) for token in tokens]


def _finite(token: dict[str, Any]) -> dict[str, Any]:
    top = {"top_logprobs": [_finite(one) for one in token["top_logprobs"]]} if (
        "top_logprobs" in token) else {}  # fmt: skip
    return {**token, "logprob": written(token["logprob"]), **top}


def written(logprob: float) -> float:
    """Write a log-probability in a number that JSON has."""
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB
