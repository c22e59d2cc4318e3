"""The guard: what every request must be before a route sees it.

    host      of this machine, or allowed: a page elsewhere cannot reach it by a name of its own
    origin    none, or this server: another page cannot use a browser that may ask
    key       a known one, where keys are needed; `/health` and the page itself need none
    body      JSON, not larger than allowed, and all of it within some seconds

A body is read before the route runs. Each answer gets an id and strict headers, and is logged in
one line.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from quatrain.serve.forms import new_id
from quatrain.serve.journal import failed, line
from quatrain.serve.refusal import Refusal, failure
from quatrain.words import LANGUAGES, Sentence, speak

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_PUBLIC = ("/", "/health", "/favicon.ico")
_STATIC = "/static/"
_OURS = ("localhost", socket.gethostname().lower())
_DRAINED = 16
"""How many times the largest body is read and dropped, so that its sender hears why."""
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_CLOSE = {"connection": "close"}
"""The rest of the body is not waited for."""
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not set them itself."""


@dataclass(frozen=True)
class Rules:
    """What the guard allows."""

    keys: frozenset[bytes] = frozenset()
    """Hashes of keys; none means that no key is needed."""
    hosts: frozenset[str] = frozenset()
    """Further names of this server."""
    most_bytes: int = 2**20
    """Of a body."""
    most_seconds: float = 30.0
    """In which a body must arrive."""


def hashed(key: bytes) -> bytes:
    """Hash a key: hashes are of one length, so that comparing them tells nothing."""
    return hashlib.sha256(key).digest()


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, app: App, rules: Rules, count: Callable[[str | None, int], None] = lambda *_: None
    ) -> None:
        """Guard an application.

        Args:
            app: the application.
            rules: what is allowed.
            count: takes the route and the status of each answer.
        """
        self._app, self._rules, self._count = app, rules, count

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on with its body."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _speak(scope)
        answer = _Answer(send)
        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _again(body, receive), answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:
            logger.error(failed("route", error, request=answer.id))
            await answer.refuse(failure())
        finally:
            self._count(answer.route(scope), answer.status)
            logger.info(answer.line(scope))

    def _check(self, scope: Message) -> None:
        headers = _headers(scope)
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(host):
            raise Refusal(403, Sentence.of("serve.host"), "host_not_allowed")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host.lower():
            raise Refusal(403, Sentence.of("serve.origin"), "origin_not_allowed")
        if not self._is_public(scope["path"]) and not self._has_key(headers):
            raise Refusal(
                401, Sentence.of("serve.key"), "invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )  # fmt: skip

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server; an address cannot be somebody else's name."""
        name = name_of(host)
        if name in self._rules.hosts or name in _OURS:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def _is_public(self, path: str) -> bool:
        return not self._rules.keys or path in _PUBLIC or path.startswith(_STATIC)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = hashed(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._rules.keys]
        return scheme.lower() == b"bearer" and any(matches)

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        """Read the whole body."""
        headers = _headers(scope)
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return b""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refusal(415, Sentence.of("serve.content_type"), "unsupported_media_type")
        try:
            async with asyncio.timeout(self._rules.most_seconds):
                return await self._read(receive)
        except TimeoutError:
            message = Sentence.of("serve.slow", seconds=self._rules.most_seconds)
            raise Refusal(408, message, "request_timeout", headers=_CLOSE) from None

    async def _read(self, receive: Receive) -> bytes:
        most, parts, size = self._rules.most_bytes, list[bytes](), 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            if not message.get("more_body", False) or size > _DRAINED * most:
                break
        if size > most:
            large = Sentence.of("serve.large", most=most)
            raise Refusal(413, large, "request_too_large", headers=_CLOSE)
        return b"".join(parts)


def name_of(host: str) -> str:
    """Take the port from a Host header: localhost:8000, [::1]:8000."""
    name, _, port = host.lower().rpartition(":")
    return name.rstrip(".") if name and port.isdecimal() else host.lower().rstrip(".")


def _headers(scope: Message) -> dict[bytes, bytes]:
    """Give the headers by name; of several, the first."""
    return dict(reversed(scope["headers"]))


def _speak(scope: Message) -> None:
    """Speak the first known language that is asked for; else the server's own."""
    asked = _headers(scope).get(b"accept-language", b"").decode("latin-1")
    for part in asked.split(","):
        language = part.strip()[:2].lower()
        if language in LANGUAGES:
            speak(language)
            return


def _again(body: bytes, receive: Receive) -> Receive:
    """Give the body once more, then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


class _Answer:
    """Sends an answer with our headers, and remembers what the log says of it."""

    def __init__(self, send: Send) -> None:
        self.id, self._send = new_id("req_"), send
        self._began, self.status = time.monotonic(), 0
        """Of HTTP; 0 where nothing was sent, since nobody waits any more."""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            ours = {**HEADERS, "x-request-id": self.id}
            message["headers"] = [
                *message["headers"],
                *((name.encode(), value.encode()) for name, value in ours.items()
                  if name.encode() not in given),
            ]  # fmt: skip
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer by an error object, unless an answer has begun."""
        if self.status:
            raise ConnectionError  # nothing else tells a client that this is not the end
        body = to_json(refusal.body())
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        pairs = [(n.encode(), v.encode()) for n, v in {**headers, **refusal.headers}.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": pairs})
        await self({"type": "http.response.body", "body": body, "more_body": False})

    def route(self, scope: Message) -> str | None:
        """Name the route that was found: what was asked for may hold anything."""
        return getattr(scope.get("route"), "path", None)

    def line(self, scope: Message) -> str:
        """Describe the exchange for the log."""
        seconds = round(time.monotonic() - self._began, 3)
        return line(
            "request", request=self.id, method=scope["method"], route=self.route(scope),
            status=self.status, seconds=seconds, **scope.get("told", {}),
        )  # fmt: skip


def to_json(value: Any) -> bytes:
    """Write JSON; half a surrogate pair, which UTF-8 does not have, stays an escape."""
    return _JSON.encode(value).encode("utf-8", "backslashreplace")
