"""Abstention: what a model says if there is no answer, and how likely that must be.

    abstention.json   {"no_answer": "Sans réponse dans le texte.", "threshold": -4.2, ...}

The file is beside the chat format. Not for finding the threshold (evaluate/abstention.py).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quatrain.files import write_json
from quatrain.rules import problems_of
from quatrain.text.french import tokens
from quatrain.text.tokenizer_files import broken, read_object
from quatrain.words import Sentence

ABSTENTION = "abstention.json"
_MOST_BYTES = 2**16


class Abstention(BaseModel):
    """How a model abstains."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    no_answer: str = Field(min_length=1)
    """The sentence that it was taught for questions without an answer."""
    threshold: float | None = Field(None, allow_inf_nan=False)
    """It abstains where the log-probability of that sentence, given the prompt, is above this, and
    nowhere else; with None where it says so itself."""
    f1: float | None = None
    """Of the held-out questions, with the threshold, in percent."""
    questions: int | None = None
    """How many they were."""

    def never(self) -> Abstention:
        """Put the threshold above every log-probability."""
        return self.model_copy(update={"threshold": math.inf})

    @property
    def decided_by(self) -> Literal["model", "threshold", "answering"]:
        """What decides whether there is no answer; with `answering` nothing does."""
        if self.threshold is None:
            return "model"
        return "threshold" if self.threshold < math.inf else "answering"

    @property
    def needs_score(self) -> bool:
        """Whether the likelihood of the sentence decides anything."""
        return self.decided_by == "threshold"

    def applies(self, score: float | None) -> bool:
        """Say whether the sentence is likely enough to replace the answer."""
        return self.threshold is not None and score is not None and score > self.threshold

    def forbids(self, score: float | None) -> bool:
        """Say whether the sentence is so unlikely that another answer has to replace it."""
        return self.threshold is not None and not self.applies(score)

    def is_said_by(self, answer: str) -> bool:
        """Say whether an answer abstains: it is empty, or the sentence, whatever its typography."""
        return not answer.strip() or tokens(answer) == tokens(self.no_answer)

    def may_begin_with(self, text: str) -> bool:
        """Say whether a text, of which the last word may be incomplete, may become the sentence."""
        words, sentence = tokens(text), tokens(self.no_answer)
        return len(words) <= len(sentence) and words[:-1] == sentence[: len(words[:-1])]

    def save(self, directory: Path) -> None:
        """Write `abstention.json`."""
        write_json(directory / ABSTENTION, self.model_dump())

    @classmethod
    def load(cls, directory: Path) -> Abstention | None:
        """Read `abstention.json`; None if the model has none.

        Raises:
            CheckpointError: Q431 when it is too large or breaks a rule.
        """
        path = directory / ABSTENTION
        if not path.is_file():
            return None
        try:
            return cls.model_validate(read_object(path, _MOST_BYTES))
        except ValidationError as error:
            raise broken(path, Sentence.of("reasons.rules", problems=problems_of(error))) from error
