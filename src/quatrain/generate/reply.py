"""A reply: an answer on its way, whoever drives the engine and whatever else it computes.

    None      the engine has to go on
    Piece     text that is final
    Answer    the whole, last

A model that abstains by a threshold is asked for the likelihood of its sentence first. Above the
threshold the sentence is the answer. Below it the sentence must not be said: text that may still
become it is held back, and if it does, the best other answer is looked for.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from quatrain.config import GenerateConfig
from quatrain.generate.abstain import log_probabilities
from quatrain.generate.alternative import search
from quatrain.generate.likelihood import likelihoods_of
from quatrain.generate.request import Completion, Step, Watch
from quatrain.generate.voice import Answer, Piece, Telling, Voice
from quatrain.model.llama import LlamaModel
from quatrain.text.abstention import Abstention
from quatrain.text.stops import before_stop

Said = Piece | Answer | None


class Taken(Protocol):
    """What a reply needs of a request: see request.Request."""

    is_finished: bool

    def take(self) -> list[Step]:
        """Give the tokens that have come since the last time."""

    def cancel(self) -> None:
        """End the answer."""


class Submits(Protocol):
    """What a reply needs of an engine: see engine.Engine."""

    def submit(
        self,
        prompt_ids: Sequence[int],
        options: GenerateConfig,
        stop_ids: Collection[int] = (),
        watch: Watch | None = None,
        begun: int = 0,
    ) -> Taken:
        """Have a prompt answered."""


@dataclass(frozen=True)
class Replier:
    """A model that replies, and how it abstains."""

    model: LlamaModel
    voice: Voice
    abstention: Abstention | None = None

    def score(self, prompt: Sequence[int]) -> float | None:
        """Give what decides whether there is an answer; None where nothing has to be known."""
        abstention = self.abstention
        if abstention is None or not abstention.needs_score:
            return None
        sentence = self.voice.sentence(abstention.no_answer)
        return log_probabilities(self.model, [prompt], sentence)[0]

    def reply(
        self,
        engine: Submits,
        prompt: Sequence[int],
        options: GenerateConfig,
        score: float | None = None,
    ) -> Iterator[Said]:
        """Answer a prompt, one candidate; what is not taken to its end frees its place.

        Args:
            engine: of the model; after each None it must have made a step.
            prompt: its ids.
            options: how the answer is generated.
            score: as `score` gives it.

        Raises:
            DataError: Q340 for a prompt that is empty or fills the context.
        """
        abstention = self.abstention
        if abstention is not None and abstention.applies(score):
            yield from _whole(self.abstained(prompt, options, abstention))
            return
        holds, held = abstention is not None and abstention.threshold is not None, Piece("")
        for said in self._told(engine, prompt, options):
            if said is None or abstention is None or not holds:
                yield said
            elif isinstance(said, Answer):
                if abstention.is_said_by(said):
                    said = yield from self._otherwise(engine, prompt, options, abstention)
                yield from _whole(said)
            else:
                held += said
                if held.strip() and not abstention.may_begin_with(held):
                    yield held
                    holds = False

    def abstained(
        self, prompt: Sequence[int], options: GenerateConfig, abstention: Abstention
    ) -> Answer:
        """Give the sentence for no answer as the answer."""
        ids = self.voice.sentence(abstention.no_answer)[:-1]
        text = before_stop(abstention.no_answer, options.stop)
        answer = self._known(Completion(ids, "stop"), prompt, options, text)
        answer.abstained = True
        return answer

    def _told(
        self, engine: Submits, prompt: Sequence[int], options: GenerateConfig
    ) -> Iterator[Said]:
        telling = Telling(self.voice, len(prompt), options)
        request = engine.submit(prompt, options, self.voice.stop_ids)
        try:
            while not telling.stopped:
                steps = request.take()
                for step in steps:
                    if (piece := telling.push(step)) is not None:
                        yield piece
                    if telling.stopped:
                        break
                if not steps:
                    if request.is_finished:
                        break
                    yield None
        finally:
            request.cancel()
        rest, answer = telling.finish()
        if rest is not None:
            yield rest
        yield answer

    def _otherwise(
        self,
        engine: Submits,
        prompt: Sequence[int],
        options: GenerateConfig,
        abstention: Abstention,
    ) -> Generator[Said, None, Answer]:
        """Look for the best answer that does not abstain."""

        def abstains(ids: Sequence[int]) -> bool:
            return abstention.is_said_by(self.voice.text(ids, options)[0])

        sentence, stop_ids = self.voice.sentence(abstention.no_answer), self.voice.stop_ids
        watch = self.voice.watch(options.stop)
        going = search(self.model, [prompt], sentence[:-1], abstains, options, stop_ids, watch)
        try:
            begun = next(going)
            while True:
                [ids] = begun.prompts
                request = engine.submit(ids, begun.options, stop_ids, watch, begun.length)
                begun = going.send([(yield from _completed(request))])
        except StopIteration as end:
            [completion] = end.value
        return self._known(completion, prompt, options)

    def _known(
        self,
        completion: Completion,
        prompt: Sequence[int],
        options: GenerateConfig,
        said: tuple[str, bool] | None = None,
    ) -> Answer:
        """Make the Answer of ids that did not come from the decoding loop, or not all of them."""
        if options.logprobs is not None:
            [completion.likelihoods] = likelihoods_of(
                self.model, [prompt], [completion.ids], options.logprobs
            )
        return self.voice.answer(completion, len(prompt), options, said)


def _completed(request: Taken) -> Generator[Said, None, Completion]:
    """Wait for all of a request."""
    completion = Completion()
    try:
        while True:
            steps = request.take()
            for step in steps:
                completion.add(step)
            if not steps:
                if request.is_finished:
                    return completion
                yield None
    finally:
        request.cancel()


def _whole(answer: Answer) -> Iterator[Said]:
    yield Piece.of(answer, answer.logprobs or ())
    yield answer
