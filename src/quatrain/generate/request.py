"""A request: a prompt, how it is to be answered, and its answer so far.

The engine (engine.py) takes it from step to step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from quatrain.config import GenerateConfig
from quatrain.generate.likelihood import Likelihood
from quatrain.generate.lookup import Lookup
from quatrain.generate.sampling import generator
from quatrain.model.store import Held

FinishReason = Literal["stop", "length"]

Watch = Callable[[], Callable[[int], bool]]
"""Makes, for one answer, what takes its tokens in order and says whether the answer ends there."""


class Step(NamedTuple):
    """One new token of an answer."""

    token_id: int
    finish_reason: FinishReason | None
    """Why the answer ends here, or None if it goes on."""
    is_text: bool = True
    """False for a stop token, which is no part of the answer."""
    likelihood: Likelihood | None = None
    """Known if options.logprobs asks for it."""


@dataclass
class Completion:
    """The tokens that answer one prompt, without the stop token."""

    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    by_text: bool = False
    """Whether it stopped without a stop token: a Watch ended it."""
    likelihoods: list[Likelihood] = field(default_factory=list)
    """One for each id if options.logprobs asks for them."""

    def add(self, step: Step) -> None:
        """Take the next token."""
        if step.is_text:
            self.ids.append(step.token_id)
            if step.likelihood is not None:
                self.likelihoods.append(step.likelihood)
        if step.finish_reason:
            self.finish_reason = step.finish_reason
            self.by_text = step.is_text and step.finish_reason == "stop"

    @property
    def num_generated(self) -> int:
        """Count the tokens, including a stop token."""
        return len(self.ids) + (self.finish_reason == "stop" and not self.by_text)


class Request(Iterator[Step]):
    """A prompt and its answer so far. Iterating lets the engine work until the answer ends."""

    def __init__(
        self,
        work: Callable[[], object],
        context: int,
        prompt_ids: Sequence[int],
        options: GenerateConfig,
        stop_ids: Collection[int],
        ends_at: Callable[[int], bool] | None,
        begun: int,
    ) -> None:
        self._work, self.options, self.stop_ids = work, options, stop_ids
        self.history, self.answer = list(prompt_ids), list(prompt_ids[len(prompt_ids) - begun :])
        self.most = min(len(prompt_ids) + options.max_new_tokens, context)
        """The most ids that history can have."""
        self.draw, self.ends_at = generator(options), ends_at
        self.lookup = Lookup(self.history)
        self.is_finished = self.is_cancelled = False
        self.held: Held | None = None
        """What was read of history; None while it waits."""
        self._new: deque[Step] = deque()
        if ends_at is not None:
            for token_id in self.answer:
                ends_at(token_id)

    def __next__(self) -> Step:
        while not self._new and not self.is_finished:
            self._work()
        if not self.has_news:
            raise StopIteration
        return self._new.popleft()

    def take(self) -> list[Step]:
        """Give the tokens that have come since the last time; none once it is cancelled."""
        new = [self._new.popleft() for _ in range(len(self._new))]
        return [] if self.is_cancelled else new

    def cancel(self) -> None:
        """End the answer; at the next step its place is free. Any thread may call this."""
        self.is_cancelled = self.is_finished = True

    @property
    def num_unread(self) -> int:
        """Count the ids that must be read before the next one is known."""
        return len(self.history) - (self.held.length if self.held else 0)

    @property
    def unread(self) -> list[int]:
        """Give those ids."""
        return self.history[len(self.history) - self.num_unread :]

    @property
    def has_news(self) -> bool:
        """Whether there are tokens to take."""
        return bool(self._new) and not self.is_cancelled

    def add(self, token_id: int, likelihood: Likelihood | None) -> None:
        """Take the next token."""
        self.history.append(token_id)
        self.answer.append(token_id)
        reason: FinishReason | None = "length" if len(self.history) >= self.most else None
        if token_id in self.stop_ids or (self.ends_at is not None and self.ends_at(token_id)):
            reason = "stop"
        self._new.append(Step(token_id, reason, token_id not in self.stop_ids, likelihood))
        self.is_finished = self.is_finished or reason is not None
