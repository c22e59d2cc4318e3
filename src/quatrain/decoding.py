"""Decoding: how answers are generated; a section of a Config."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from quatrain.sections import Section, number_of_bytes
from quatrain.words import Sentence

_MOST_CANDIDATES = 2**12
_MOST_STOPS = 8


class GenerateConfig(Section):
    """How answers are generated; temperature 0 is greedy decoding."""

    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0, le=100)
    top_k: int | None = Field(None, ge=1)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample only tokens at least this many times as likely as the likeliest one."""
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted from the logit of each token that the answer has already."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """Subtracted as many times as the answer has the token already."""
    stop: tuple[str, ...] = ()
    """Up to eight strings. The answer ends before the first of them. A text is one string: commas
    do not divide it."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """Give the log-probability of each token of the answer under the model itself, and those of
    this many of the likeliest tokens there."""
    candidates: int = Field(1, ge=1, le=_MOST_CANDIDATES)
    """Answers to sample for each question. The one that agrees best with the others is given
    (generate/consensus.py). More than one needs a temperature above 0."""
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(128, ge=1)
    """Prompts per batch."""
    kv_memory: str | None = None
    """Memory for the keys and values of all that is answered side by side, such as 2GB. By default
    512MB, or what one prompt and its answer need where that is more."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("kv_memory")
    @classmethod
    def _read_kv_memory(cls, value: str | None) -> str | None:
        if value is not None:
            number_of_bytes(value)
        return value

    @property
    def kv_bytes(self) -> int | None:
        """`kv_memory` in bytes."""
        return None if self.kv_memory is None else number_of_bytes(self.kv_memory)

    def problems(self) -> list[Sentence]:
        """See Section."""
        found = []
        if self.candidates > 1 and self.temperature == 0:
            found.append(Sentence.of("rules.candidates", candidates=self.candidates))
        if "" in self.stop:
            found.append(Sentence.of("rules.stop_empty"))
        if len(self.stop) > _MOST_STOPS:
            found.append(Sentence.of("rules.stop", number=len(self.stop), most=_MOST_STOPS))
        return found
