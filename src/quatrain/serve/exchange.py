"""An exchange: the answers to one request on their way from the runner to whoever asked.

The runner never waits for a reader: what it says is kept until it is taken. That is at most the
answers themselves, which the context bounds, and a slow reader gets longer pieces.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from quatrain.generate.voice import Piece
from quatrain.serve.refusal import Refusal
from quatrain.serve.runner import FullError, Runner, Steps, Task
from quatrain.words import Sentence


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Part(NamedTuple):
    """Something that was said."""

    choice: int
    """Of which answer."""
    said: Any


class Exchange:
    """Several answers, computed side by side, as long as somebody waits for them."""

    def __init__(self, runner: Runner, receive: Callable[[], Awaitable[Any]]) -> None:
        """Begin an exchange, which has to be closed.

        Args:
            runner: what computes.
            receive: of the request, whose body has been read.
        """
        self._runner, self._loop = runner, asyncio.get_running_loop()
        self._said, self._more = deque[Part](), asyncio.Event()
        self._tasks, self._ended = list[Task](), list[Exception | None]()
        self._is_woken = self._is_left = False
        self._gone = asyncio.ensure_future(_disconnected(receive))
        self._gone.add_done_callback(self._leave)

    def ask(self, works: Sequence[Iterator[Any]], engine: Steps | None) -> None:
        """Have answers computed.

        Args:
            works: see `Task`; one for each answer.
            engine: of all of them.

        Raises:
            Refusal: 429 where too many wait already, 400 where it could never be done.
            ClosingError: the server is about to end.
        """
        if len(works) > self._runner.most:
            values = {"choices": len(works), "most": self._runner.most}
            raise Refusal(400, Sentence.of("serve.choices", **values), "invalid_value", "n")
        self._tasks = [
            Task(work, partial(self._deliver, choice), self._over, engine)
            for choice, work in enumerate(works)
        ]
        try:
            self._runner.ask(self._tasks)
        except FullError as error:
            after = str(error.seconds)
            message = Sentence.of("serve.full", most=self._runner.most, seconds=error.seconds)
            raise Refusal(
                429, message, "rate_limit_exceeded", headers={"retry-after": after}
            ) from None

    def close(self) -> None:
        """End it, and what is still computed for it."""
        self._runner.cancel(self._tasks)
        self._gone.cancel()

    async def parts(self) -> AsyncIterator[list[Part]]:
        """Give what is said as it comes: all that is there, neighbouring pieces as one.

        Raises:
            GoneError: nobody waits any more.
            Exception: whatever ended a task.
        """
        while not self._is_left:
            ended = list(self._ended)  # before what was said, or the last part could be missed
            if self._said:
                yield [self._next() for _ in iter(self._said.__len__, 0)]
            if (error := next(filter(None, ended), None)) is not None:
                raise error
            if len(ended) == len(self._tasks):
                return
            await self._more.wait()
            self._more.clear()
            self._is_woken = False
        raise GoneError

    def _next(self) -> Part:
        part = self._said.popleft()
        while type(part.said) is Piece and self._said and self._continues(part):
            part = part._replace(said=part.said + self._said.popleft().said)
        return part

    def _continues(self, part: Part) -> bool:
        following = self._said[0]
        return following.choice == part.choice and type(following.said) is Piece

    def _deliver(self, choice: int, said: Any) -> None:
        """Keep something, on the runner's thread."""
        self._said.append(Part(choice, said))
        self._wake()

    def _over(self, error: Exception | None) -> None:
        """Note that an answer has ended, on any thread."""
        self._ended.append(error)
        self._wake()

    def _leave(self, gone: asyncio.Future[None]) -> None:
        """End what nobody waits for."""
        if not gone.cancelled():
            self._is_left = True
            self._runner.cancel(self._tasks)
            self._more.set()

    def _wake(self) -> None:
        if self._is_woken:
            return
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._more.set)
        except RuntimeError:  # the loop is closed: nobody reads
            self._runner.cancel(self._tasks)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
