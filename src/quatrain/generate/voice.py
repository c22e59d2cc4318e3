"""The ids of an answer as its text: up to a stop string, with the likelihood of each token.

    ids      "L"  "a f"  "in"  ". S"       stop ". "
    pieces   "L"  "a f"  "in"  ""          what may still become ". " is held back
    answer   "La fin"

Not for generating ids (engine.py), nor for deciding whether there is an answer (reply.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from quatrain.config import GenerateConfig
from quatrain.generate.likelihood import Likelihood
from quatrain.generate.request import Completion, FinishReason, Step, Watch
from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Message
from quatrain.text.stops import Reader, before_stop
from quatrain.text.tokenizer import Tokenizer


class TokenLogprob(NamedTuple):
    """One token and its log-probability, in nats, under the model itself."""

    id: int
    text: str
    """With U+FFFD for a part of a character; a control token's name."""
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, the likeliest first."""

    def as_openai(self, with_top: bool = True) -> dict[str, Any]:
        """Describe it as OpenAI's API does, with its id."""
        return {
            "token": self.text,
            "id": self.id,
            "bytes": list(self.bytes),
            "logprob": self.logprob,
            **({"top_logprobs": [one.as_openai(False) for one in self.top]} if with_top else {}),
        }


class Answer(str):
    """The text of an answer, with how it was generated."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    abstained: bool = False
    """Whether the threshold replaced the answer by the model's sentence for no answer."""
    logprobs: list[TokenLogprob] | None = None
    """Of each token of the text, if options.logprobs asks for them."""

    @classmethod
    def of(cls, text: str, completion: Completion, prompt_tokens: int) -> Answer:
        """Combine a text and its counts; all that was generated is counted, also what is cut."""
        answer = cls(text)
        answer.finish_reason = completion.finish_reason
        answer.prompt_tokens = prompt_tokens
        answer.completion_tokens = completion.num_generated
        return answer


class Piece(str):
    """A piece of an answer's text that is final."""

    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that ended with this piece, if options.logprobs asks for them. Those of all
    pieces are those of the answer."""

    @classmethod
    def of(cls, text: str, logprobs: Sequence[TokenLogprob]) -> Piece:
        """Combine a text and its tokens."""
        piece = cls(text)
        piece.logprobs = tuple(logprobs)
        return piece

    def __add__(self, other: str) -> Piece:
        logprobs = other.logprobs if isinstance(other, Piece) else ()
        return Piece.of(str(self) + str(other), [*self.logprobs, *logprobs])


@dataclass(frozen=True)
class Voice:
    """What turns conversations into prompts, and ids into answers."""

    tokenizer: Tokenizer
    chat: ChatFormat

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Encode what comes before the answer."""
        return self.chat.encode_prompt(list(messages), self.tokenizer)

    def opening(self, text: str) -> list[int]:
        """Encode a text that is to go on, without any turn."""
        begin = [self.tokenizer.control_id(self.chat.begin)] if self.chat.begin else []
        return [*begin, *self.tokenizer.encode(text)]

    def sentence(self, no_answer: str) -> list[int]:
        """Encode the sentence for no answer, and its end."""
        return self.chat.encode_answer(no_answer, self.tokenizer)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        return self.chat.stop_ids(self.tokenizer)

    def text(self, ids: Sequence[int], options: GenerateConfig) -> tuple[str, bool]:
        """Decode ids up to the first stop string; say whether there is one."""
        return before_stop(self.tokenizer.decode(list(ids)), options.stop)

    def answer(
        self,
        completion: Completion,
        prompt_tokens: int,
        options: GenerateConfig,
        said: tuple[str, bool] | None = None,
    ) -> Answer:
        """Make the Answer of a completion; `said` is its text where `text` is not asked."""
        text, is_cut = said or self.text(completion.ids, options)
        if is_cut and completion.finish_reason == "length":
            completion = replace(completion, finish_reason="stop", by_text=True)
        answer = Answer.of(text, completion, prompt_tokens)
        if options.logprobs is not None:
            number = self._tokens_of(text, completion.ids) if is_cut else None
            answer.logprobs = [self.described(one) for one in completion.likelihoods[:number]]
        return answer

    def _tokens_of(self, text: str, ids: Sequence[int]) -> int:
        """Count the first tokens that a text which was cut needs."""
        number = len(ids)
        while number and self.tokenizer.decode(ids[: number - 1]).startswith(text):
            number -= 1
        return number

    def described(self, likelihood: Likelihood) -> TokenLogprob:
        """Name the tokens of a likelihood."""

        def token(token_id: int, logprob: float) -> TokenLogprob:
            spelt = self.tokenizer.bytes_of(token_id)
            return TokenLogprob(token_id, spelt.decode(errors="replace"), spelt, logprob)

        own = token(likelihood.token_id, likelihood.logprob)
        return own._replace(top=tuple(token(*one) for one in likelihood.top))

    def watch(self, stops: Sequence[str]) -> Watch | None:
        """Make what ends answers at their first stop string."""

        def ends() -> Callable[[int], bool]:
            reader = Reader(self.tokenizer.stream(), stops)

            def ends_at(token_id: int) -> bool:
                reader.push(token_id)
                return reader.found

            return ends_at

        return ends if stops else None


class Telling:
    """Takes the steps of one answer and gives its pieces, then the whole."""

    def __init__(self, voice: Voice, prompt_tokens: int, options: GenerateConfig) -> None:
        self._voice, self._options, self._prompt_tokens = voice, options, prompt_tokens
        self._reader = Reader(voice.tokenizer.stream(), options.stop)
        self._completion, self._given, self._texts = Completion(), 0, list[str]()

    def push(self, step: Step) -> Piece | None:
        """Take a step of the engine; give the text that is now final, if there is some."""
        self._completion.add(step)
        text = self._reader.push(step.token_id) if step.is_text else ""
        return self._piece(text) if text else None

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: later steps are none of this answer's."""
        return self._reader.found

    def finish(self) -> tuple[Piece | None, Answer]:
        """Give what was held back, if anything, and the whole answer."""
        text = self._reader.finish()
        self._texts.append(text)
        said = "".join(self._texts), self._reader.found
        answer = self._voice.answer(self._completion, self._prompt_tokens, self._options, said)
        rest = (answer.logprobs or [])[self._given :]
        return Piece.of(text, rest) if text or rest else None, answer

    def _piece(self, text: str) -> Piece:
        """Make a piece, with the tokens of which no part is held back."""
        self._texts.append(text)
        if self._options.logprobs is None or self._reader.holds or self._reader.found:
            return Piece(text)
        new = self._completion.likelihoods[self._given :]
        self._given += len(new)
        return Piece.of(text, [self._voice.described(one) for one in new])
