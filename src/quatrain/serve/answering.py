"""Answering: from a checked request to its answer, as one object or as a stream of events.

A stream begins with its first text, so that until then an error has its own status. Whoever leaves
frees the places of what was computed for them, whether it was a stream or not.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quatrain.config import GenerateConfig
from quatrain.errors import QuatrainError
from quatrain.generate.voice import Answer, Piece
from quatrain.serve.exchange import Exchange, GoneError, Part
from quatrain.serve.forms import Form
from quatrain.serve.guard import to_json
from quatrain.serve.journal import failed
from quatrain.serve.measures import Measures
from quatrain.serve.models import Models, Question, Served
from quatrain.serve.refusal import Refusal, failure, refusal_of, shutting_down
from quatrain.serve.runner import ClosingError, Runner, Steps
from quatrain.text.conversation import Message
from quatrain.words import Sentence

logger = logging.getLogger(__name__)

_MOST_INLINE = 16_384
"""Characters that are encoded at once; more are encoded beside the loop."""
_DONE = b"data: [DONE]\n\n"


@dataclass
class Service:
    """What the routes share."""

    models: Models
    runner: Runner
    measures: Measures
    feedback: Path | None = None
    """Where judged answers go."""


@dataclass
class Asked:
    """What is to be answered."""

    questions: Sequence[Question]
    options: Sequence[GenerateConfig]
    """Of each question."""
    choices: int = 1
    """Answers to each."""
    began: float = field(default_factory=time.monotonic)

    @property
    def served(self) -> Served:
        """The model."""
        return self.questions[0].served

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(question.prompt) for question in self.questions)


class Json(Response):
    """An object."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See Response."""
        return to_json(content)


async def encoded(served: Served, messages: Sequence[Message], must_fit: bool = True) -> list[int]:
    """Encode a conversation.

    Args:
        served: the model.
        messages: the turns.
        must_fit: whether it must leave room for an answer.

    Raises:
        Refusal: 400 for turns out of order, and for more tokens than the context holds.
    """
    voice = served.answerer.voice
    try:
        if sum(len(one.content) for one in messages) > _MOST_INLINE:
            prompt = await asyncio.to_thread(voice.prompt, messages)
        else:
            prompt = voice.prompt(messages)
    except QuatrainError as error:
        raise refusal_of(error) from None
    return _fitting(served, prompt, "messages") if must_fit else prompt


def raw(served: Served, prompt: str | list[int]) -> list[int]:
    """Encode a text that is to go on, or check ids.

    Raises:
        Refusal: 400 for ids of no token, and for no or too many tokens.
    """
    tools = served.answerer
    if isinstance(prompt, str):
        try:
            return _fitting(served, tools.voice.opening(prompt), "prompt")
        except QuatrainError as error:
            raise refusal_of(error, "prompt") from None
    if max(prompt) >= tools.model.config.vocab_size:
        vocab = tools.model.config.vocab_size
        raise Refusal(400, Sentence.of("serve.ids", vocab=vocab), "invalid_value", "prompt")
    return _fitting(served, prompt, "prompt")


def _fitting(served: Served, prompt: list[int], param: str) -> list[int]:
    if not prompt:
        raise Refusal(400, Sentence.of("serve.empty"), "invalid_value", param)
    if len(prompt) >= served.context:
        values = {"tokens": len(prompt), "context": served.context}
        raise Refusal(400, Sentence.of("serve.long", **values), "context_length_exceeded", param)
    return prompt


def settled(
    served: Served, prompt: Sequence[int], most: int | None, options: Callable[..., GenerateConfig]
) -> GenerateConfig:
    """Settle what a request leaves open: the length of the answer, and a seed where one matters.

    Raises:
        Refusal: 400 where an answer is asked for that is longer than the context.
    """
    if most is not None and most > served.context:
        message = Sentence.of("serve.most", context=served.context)
        raise Refusal(400, message, "invalid_value", "max_tokens")
    room = served.context - len(prompt)
    found = options(min(room, most or room))
    drawn = found.temperature > 0 and "seed" not in found.model_fields_set
    return found.replace(seed=secrets.randbelow(2**62)) if drawn else found


async def answer(
    service: Service, request: Request, asked: Asked, form: Form, streams: bool
) -> Response:
    """Have a request answered.

    Raises:
        Refusal: whatever prevents the answer before its first text.
    """
    told = {"model": asked.served.id, "prompt_tokens": asked.prompt_tokens}
    request.scope["told"] = told
    works = [
        reply
        for question, options in zip(asked.questions, asked.options, strict=True)
        for reply in question.replies(options, asked.choices)
    ]
    exchange = Exchange(service.runner, request.receive)
    try:
        exchange.ask(works, asked.served.engine)
        parts = exchange.parts()
        first = await anext(parts)
        service.measures.first(asked.served.id, time.monotonic() - asked.began)
        said = _Said(service.measures, asked, told, len(works))
        if streams:
            return EventStream(_events(form, said, first, parts), exchange)
        said.add(first)
        async for some in parts:
            said.add(some)
        exchange.close()
        return Json(form.whole(said.answers()))
    except GoneError:
        exchange.close()
        return Response(status_code=499)
    except Exception as error:
        exchange.close()
        raise refused(error) from None


async def computed(service: Service, request: Request, work: Any, engine: Steps | None) -> Any:
    """Have one value computed in its turn, as answers are.

    Raises:
        Refusal: whatever prevents it.
        GoneError: nobody waits any more.
    """
    exchange = Exchange(service.runner, request.receive)
    try:
        exchange.ask([work], engine)
        [part] = await anext(exchange.parts())
        return part.said
    except GoneError:
        raise
    except Exception as error:
        raise refused(error) from None
    finally:
        exchange.close()


def refused(error: Exception) -> Refusal:
    """Say to whoever asks what went wrong."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClosingError):
        return shutting_down()
    if isinstance(error, QuatrainError):
        return refusal_of(error)
    logger.error(failed("answer", error))
    return failure()


class _Said:
    """What was said so far."""

    def __init__(
        self, measures: Measures, asked: Asked, told: dict[str, Any], expected: int
    ) -> None:
        self._measures, self._asked, self._told, self._expected = measures, asked, told, expected
        self._answers: dict[int, Answer] = {}

    def add(self, parts: Sequence[Part]) -> None:
        self._answers |= {part.choice: part.said for part in parts if isinstance(part.said, Answer)}

    @property
    def is_whole(self) -> bool:
        return len(self._answers) == self._expected

    def answers(self) -> list[Answer]:
        """Give all answers, in the order in which they were asked for."""
        answers = [self._answers[choice] for choice in sorted(self._answers)]
        self._told["completion_tokens"] = sum(one.completion_tokens for one in answers)
        seconds = time.monotonic() - self._asked.began
        self._measures.answered(self._asked.served.id, self._asked.prompt_tokens, answers, seconds)
        return answers


async def _events(
    form: Form, said: _Said, first: list[Part], parts: AsyncIterator[list[Part]]
) -> AsyncIterator[bytes]:
    """Write what is said as server-sent events, all that are there at once; an error is one too."""
    last = _DONE if form.ends_with_done else b""
    try:
        events = [*form.opening(), *_of(form, first)]
        said.add(first)
        while not said.is_whole:
            yield b"".join(map(_event, events))
            some = await anext(parts)
            events = _of(form, some)
            said.add(some)
        events += form.closing(said.answers())
        yield b"".join(map(_event, events)) + last
    except GoneError:
        raise
    except Exception as error:
        yield _event(form.broken(refused(error))) + last


def _of(form: Form, parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        event
        for part in parts
        for event in (form.piece if isinstance(part.said, Piece) else form.end)(
            part.choice, part.said
        )
    ]


def _event(event: dict[str, Any]) -> bytes:
    name = event.get("type")
    return (b"event: %s\n" % name.encode() if name else b"") + b"data: %s\n\n" % to_json(event)


class EventStream(Response):
    """A stream of events, which ends when whoever reads it leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], exchange: Exchange) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._exchange = events, exchange

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events, see Response."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except GoneError:
            pass
        finally:
            self._exchange.close()
