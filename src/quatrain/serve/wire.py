"""The wire: sockets, and uvicorn's HTTP with deadlines for both directions, ended in good order.

    head     must arrive within some seconds, from the first byte of a connection on
    answer   a reader that takes nothing for some seconds is cut off

On SIGTERM or Ctrl-C what waits is refused, what runs may finish within the grace time, and the
process ends by itself; a second signal ends it at once. Bodies have their deadline in the guard.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from quatrain.errors import ConfigError
from quatrain.serve.guard import App
from quatrain.serve.runner import Runner

HEAD_SECONDS, TAKEN_SECONDS, IDLE_SECONDS = 30.0, 60.0, 75
"""For a head to arrive, for a reader to take something, and between two requests."""
_LONGEST_HEAD = 32_768
_MOST_CONNECTIONS = 1_000
_LOOKS = 0.05
"""Seconds between two looks at whether all answers have ended."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with deadlines."""

    _head: asyncio.TimerHandle | None = None
    _taken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
            return
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes: a head that has begun has its deadline, one that is whole needs none."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._stop_head()
        self._stop_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the reader, but not for ever."""
        super().pause_writing()
        self._taken = self.loop.call_later(TAKEN_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the reader took something."""
        self._stop_taken()
        super().resume_writing()

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_taken(self) -> None:
        if self._taken is not None:
            self._taken.cancel()
            self._taken = None


def listen(host: str, port: int) -> socket.socket:
    """Take a port; nothing is accepted before the server runs.

    Raises:
        ConfigError: Q213 for a port that another program has, or a host that is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends small packets at once only where the protocol is said to be TCP
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        is_taken = getattr(error, "errno", None) == errno.EADDRINUSE
        key = "Q213.taken" if is_taken else "Q213.address"
        raise ConfigError(key, host=host, port=port, why=str(error)) from None
    return found


class Server(uvicorn.Server):
    """A server that drains before it ends."""

    def __init__(
        self, app: App, runner: Runner, grace: float, ready: Callable[[], None] = lambda: None
    ) -> None:
        """Make a server.

        Args:
            app: what answers.
            runner: what computes.
            grace: seconds for the answers that are being computed when the server is told to end.
            ready: called once connections are accepted.
        """
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=_LONGEST_HEAD,
            )
        )
        self._runner, self._grace, self._ready = runner, grace, ready
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        try:
            await super().startup(sockets)
        except OSError as error:  # another program took the port in the meantime
            host, port = (sockets or [])[0].getsockname()[:2]
            raise ConfigError("Q213.address", host=host, port=port, why=str(error)) from None
        self._ready()

    def end(self) -> None:
        """End in good order; the second time at once."""
        if self._ending is not None:
            self._grace = 0.0
            return
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        self._runner.drain()
        began = time.monotonic()
        while self._runner.running and time.monotonic() - began < self._grace:
            await asyncio.sleep(_LOOKS)
        await asyncio.to_thread(self._runner.stop)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server in good order; uvicorn would raise them again afterwards."""
        loop, taken = asyncio.get_running_loop(), list[signal.Signals]()
        for one in _SIGNALS:
            # neither in another thread nor on Windows
            with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
                loop.add_signal_handler(one, self.end)
                taken.append(one)
        try:
            yield
        finally:
            for one in taken:
                loop.remove_signal_handler(one)
