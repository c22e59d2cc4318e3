"""A server for the page's tests: it answers as `quatrain serve` does, from a table of answers.

A token is a word with the space before it. Which experts a token goes to, and how sure the model
is, follow from its text, so that tests know them.
"""

from __future__ import annotations

import json
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import quatrain

PAGE = Path(quatrain.__file__).parent / "serve" / "page"
KINDS = {".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONTEXT, LAYERS, EXPERTS = 64, 4, 8


def models() -> list[dict[str, Any]]:
    """Describe two models: one fine-tuned, with a report, and its base."""
    shape = {"context": CONTEXT, "vocab": 999, "layers": LAYERS, "experts": EXPERTS}
    return [
        {
            "id": "demo",
            "base": "pretrain",
            "report": True,
            "abstains": True,
            "single_questions": False,
            **shape,
        },
        {
            "id": "pretrain",
            "base": None,
            "report": False,
            "abstains": False,
            "single_questions": False,
            **shape,
        },
    ]


@dataclass
class Fake:
    """What the server says, and what it heard; tests change the first and read the second."""

    models: list[dict[str, Any]] = field(default_factory=models)
    answers: dict[str, str] = field(default_factory=dict)
    """By the last message's content; another gets an answer of seven tokens."""
    by_model: dict[str, str] = field(default_factory=dict)
    """By the model: answers to every question."""
    pause: float = 0.0
    """Seconds before each token."""
    refuse: tuple[int, str, str | None] | None = None
    """Status, message and code for all questions and ratings."""
    break_off: bool = False
    """Whether a stream ends in its middle, without [DONE]."""
    inspects: bool = True
    key: str | None = None
    feedback: bool = True
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    active: int = 0
    """Answers that are being streamed."""
    url: str = ""

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Give the bodies that one route got."""
        return [body for where, body in self.heard if where == path]

    def answer(self, body: dict[str, Any]) -> str:
        """Find the answer to a request."""
        question = body["messages"][-1]["content"]
        named = self.by_model.get(body["model"])
        return named or self.answers.get(question, "Le chat dort sur le tapis rouge.")


def pieces(text: str) -> list[str]:
    """Cut a text into tokens: words with the space before them."""
    return re.findall(r"\s?\S+|\s+", text)


def logprob(text: str) -> float:
    """Say how sure the model is of a token: from -0.0 to -3.0."""
    return -(zlib.crc32(text.encode()) % 31) / 10


def expert(text: str, layer: int) -> int:
    """Say which expert of a layer a token goes to."""
    return zlib.crc32(f"{layer}{text}".encode()) % EXPERTS


def inspected(text: str) -> list[dict[str, Any]]:
    """Describe the tokens of an answer."""
    return [
        {
            "id": place,
            "text": token,
            "logprob": logprob(token),
            "top": [{"text": one, "logprob": p} for one, p in likeliest(token)],
            "experts": {str(layer): [expert(token, layer)] for layer in range(LAYERS)},
        }
        for place, token in enumerate(pieces(text))
    ]


def likeliest(token: str) -> list[tuple[str, float]]:
    """Give a token and four others that the model finds as likely or less."""
    others = [(f" autre{number}", logprob(token) - number / 2) for number in range(1, 5)]
    return [(token, logprob(token)), *others]


@contextmanager
def serving() -> Iterator[Fake]:
    """Serve the page and a table of answers on a port of this machine."""
    fake = Fake()
    handler = type("Bound", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: Fake

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("/static/").lstrip("/") or "index.html"
        if path == "api/info":
            if self._may():
                told = {"models": self.fake.models, "feedback": self.fake.feedback, "version": "0"}
                self._json(200, told)
        elif path.startswith("report/"):
            if self._may():
                self._send(200, b"<!doctype html><title>report</title>", "text/html")
        elif (PAGE / path).is_file():
            kind = KINDS.get(Path(path).suffix, "text/html")
            self._send(200, (PAGE / path).read_bytes(), f"{kind}; charset=utf-8")
        else:
            self._send(404, b"", "text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.heard.append((self.path, body))
        if not self._may():
            return
        if self.path == "/v1/chat/completions":
            self._chat(body)
        elif self.path == "/api/tokens":
            used = sum(4 + len(pieces(message["content"])) for message in body["messages"])
            self._json(200, {"prompt_tokens": used, "context": CONTEXT})
        elif self.path == "/api/inspect" and self.fake.inspects:
            self._json(200, {"prompt_tokens": 9, "tokens": inspected(body["answer"])})
        elif self.path == "/api/feedback" and self.fake.refuse:
            self._error(*self.fake.refuse)
        elif self.path == "/api/feedback":
            self._json(200, {})
        else:
            self._error(500, "out of order", None)

    def _chat(self, body: dict[str, Any]) -> None:
        if self.fake.refuse:
            self._error(*self.fake.refuse)
            return
        self.fake.active += 1
        try:
            self._stream(body)
        except OSError:  # the page went away
            pass
        finally:
            self.fake.active -= 1

    def _stream(self, body: dict[str, Any]) -> None:
        self._head(200, "text/event-stream")
        tokens = pieces(self.fake.answer(body))[: body["max_tokens"]]
        for place, token in enumerate(tokens):
            time.sleep(self.fake.pause)
            if self.fake.break_off and place == 3:
                return
            top = [{"token": one, "logprob": p} for one, p in likeliest(token)]
            told = {"content": [{"token": token, "logprob": logprob(token), "top_logprobs": top}]}
            self._event(choices=[{"index": 0, "delta": {"content": token}, "logprobs": told,
                                  "finish_reason": None}])  # fmt: skip
        ended = "length" if len(tokens) == body["max_tokens"] else "stop"
        self._event(choices=[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": ended}])
        used = {"prompt_tokens": 9, "completion_tokens": len(tokens) + 1}
        self._event(choices=[], usage=used)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, **chunk: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _may(self) -> bool:
        if self.fake.key in (None, (self.headers["Authorization"] or "").removeprefix("Bearer ")):
            return True
        self._error(401, "a key is needed", "invalid_api_key")
        return False

    def _error(self, status: int, message: str, code: str | None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        self._json(status, {"error": error}, {"Retry-After": "3"} if status == 429 else {})

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(
        self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self._head(status, kind, {"Content-Length": str(len(data)), **(headers or {})})
        self.wfile.write(data)

    def _head(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Security-Policy": POLICY,
                            **(headers or {})}.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
