"""An exchange: what is said goes out together, and nothing is computed for who has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from live import soon
from quatrain.generate.request import Completion
from quatrain.generate.voice import Answer, Piece
from quatrain.serve.answering import Asked, EventStream, _events, _Said
from quatrain.serve.chat import ChatForm
from quatrain.serve.exchange import Exchange, GoneError
from quatrain.serve.protocol import ChatRequest
from quatrain.serve.runner import Runner

ANSWER = Answer.of("À Lyon.", Completion([1, 2], "stop"), prompt_tokens=3)


class Nothing:
    """An engine with nothing to do."""

    is_idle = True

    def step(self) -> None:
        raise AssertionError


class Counted:
    """Measures that are not looked at."""

    def answered(self, *_: Any) -> None:
        pass


@pytest.fixture
def runner() -> Iterator[Runner]:
    one = Runner([Nothing()], most_active=2, most_waiting=2)
    one.start()
    yield one
    one.stop()


async def forever() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def together(
    runner: Runner, works: Sequence[Iterator[Any]], then: Callable[[Exchange], Any]
) -> Any:
    """Have works computed to their ends, and only then read what they said."""

    async def exchanged() -> Any:
        exchange = Exchange(runner, forever)
        exchange.ask(works, None)
        assert await asyncio.to_thread(soon, lambda: runner.running + runner.waiting == 0, 10)
        try:
            return await then(exchange)
        finally:
            exchange.close()

    return asyncio.run(exchanged())


async def all_parts(exchange: Exchange) -> list[list[tuple[int, Any]]]:
    return [[tuple(part) for part in some] async for some in exchange.parts()]


def test_all_that_was_said_comes_at_once_neighbouring_pieces_as_one(runner: Runner) -> None:
    said = iter([Piece("À "), Piece("Lyon"), Piece("."), ANSWER])
    assert together(runner, [said], all_parts) == [[(0, "À Lyon."), (0, ANSWER)]]


def test_answers_beside_each_other_are_told_apart(runner: Runner) -> None:
    works = [iter([Piece(text), ANSWER]) for text in ("oui", "non")]
    [parts] = together(runner, works, all_parts)
    assert {(choice, str(said)) for choice, said in parts} == {
        (0, "oui"), (1, "non"), (0, str(ANSWER)), (1, str(ANSWER)),
    }  # fmt: skip


def test_an_error_comes_after_what_was_said_before_it(runner: Runner) -> None:
    def work() -> Iterator[Any]:
        yield Piece("À ")
        raise ValueError("broken")

    async def read(exchange: Exchange) -> list[str]:
        parts = exchange.parts()
        texts = [str(part.said) for part in await anext(parts)]
        with pytest.raises(ValueError, match="broken"):
            await anext(parts)
        return texts

    assert together(runner, [work()], read) == ["À "]


def test_who_leaves_ends_the_work_and_is_told_nothing(runner: Runner) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield None

    async def left() -> None:
        leaving = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await leaving.wait()
            return {"type": "http.disconnect"}

        exchange = Exchange(runner, receive)
        exchange.ask([endless(), endless(), endless()], None)
        reading = asyncio.ensure_future(anext(exchange.parts()))
        assert await asyncio.to_thread(soon, lambda: runner.running == 2, 10)
        leaving.set()
        with pytest.raises(GoneError):
            await reading
        assert await asyncio.to_thread(soon, lambda: runner.running + runner.waiting == 0, 10)

    asyncio.run(left())


def test_a_stream_that_is_whole_goes_out_in_one_write(runner: Runner) -> None:
    body = ChatRequest.model_validate({
        "messages": [{"role": "user", "content": "Où ?"}], "stream": True,
        "stream_options": {"include_usage": True},
    })  # fmt: skip
    form, told = ChatForm(body, "demo", 3), dict[str, Any]()
    question: Any = SimpleNamespace(served=SimpleNamespace(id="demo"), prompt=[1, 2, 3])
    asked = Asked([question], [])

    async def sent(exchange: Exchange) -> list[dict[str, Any]]:
        messages = list[dict[str, Any]]()

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        parts = exchange.parts()
        first = await anext(parts)
        measures: Any = Counted()
        said = _Said(measures, asked, told, 1)
        await EventStream(_events(form, said, first, parts), exchange)({}, forever, send)
        return messages

    begin, whole, end = together(runner, [iter([Piece("À Lyon."), ANSWER])], sent)
    assert begin["status"] == 200
    assert end == {"type": "http.response.body", "body": b"", "more_body": False}
    events = whole["body"].decode().removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "À Lyon."}, {}]
    assert chunks[-1]["usage"]["completion_tokens"] == ANSWER.completion_tokens
    assert told["completion_tokens"] == ANSWER.completion_tokens
