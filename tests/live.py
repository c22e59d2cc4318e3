"""A server in this process, with a small model that answers by its weights or by a rule."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from quatrain.config import GenerateConfig
from quatrain.generate.answer import Answerer
from quatrain.generate.engine import Engine
from quatrain.generate.likelihood import Likelihood
from quatrain.generate.request import Step
from quatrain.serve.answering import Service
from quatrain.serve.app import make_app
from quatrain.serve.guard import Rules
from quatrain.serve.measures import Measures
from quatrain.serve.models import Models, Served
from quatrain.serve.page_files import File
from quatrain.serve.runner import Runner
from quatrain.serve.wire import Server, listen
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import train_bpe
from tiny import tiny_config, tiny_model

CORPUS = ["Combien font 12 et 30 ?", "Le mot secret est le numéro 4711.", "Où est l'été ? Là-bas."]


@functools.cache
def small(context: int = 512) -> Answerer:
    """A model with random weights, which says nonsense."""
    tokenizer = train_bpe(CORPUS * 4, 330)
    config = tiny_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=context)
    return Answerer.of(tiny_model(config).eval(), tokenizer, LLAMA4)


@dataclass
class RuleRequest:
    """See request.Request."""

    steps: deque[Step]
    new: list[Step] = field(default_factory=list)
    is_finished: bool = False
    is_cancelled: bool = False

    def take(self) -> list[Step]:
        taken, self.new = self.new, []
        return taken

    def cancel(self) -> None:
        self.is_cancelled = self.is_finished = True


class RuleEngine:
    """An engine whose answers follow a rule, a token a step, as fast or slow as wanted."""

    def __init__(
        self, answerer: Answerer, rule: Callable[[str], str], seconds: float = 0.0
    ) -> None:
        """Answer by a rule.

        Args:
            answerer: for its tokenizer.
            rule: from the text of a prompt to the answer; an exception breaks the engine.
            seconds: that a step takes.
        """
        self.answerer, self.rule, self.seconds = answerer, rule, seconds
        self.rows: list[RuleRequest] = []
        self.prompts: list[list[int]] = []
        self.asked: list[RuleRequest] = []

    @property
    def is_idle(self) -> bool:
        return not self.rows

    def submit(
        self,
        prompt_ids: Sequence[int],
        options: GenerateConfig,
        stop_ids: Collection[int] = (),
        watch: Any = None,
        begun: int = 0,
    ) -> RuleRequest:
        self.prompts.append(list(prompt_ids))
        tokenizer = self.answerer.tokenizer
        said = tokenizer.encode(self.rule(tokenizer.decode(list(prompt_ids))))
        steps = [
            Step(token_id, None, True, self._likelihood(token_id, options)) for token_id in said
        ]
        steps.append(Step(min(stop_ids), "stop", False, self._likelihood(min(stop_ids), options)))
        if len(steps) > options.max_new_tokens:
            steps = steps[: options.max_new_tokens]
            steps[-1] = steps[-1]._replace(finish_reason="length")
        request = RuleRequest(deque(steps))
        self.rows.append(request)
        self.asked.append(request)
        return request

    def _likelihood(self, token_id: int, options: GenerateConfig) -> Likelihood | None:
        if options.logprobs is None:
            return None
        return Likelihood(
            token_id, -0.5, tuple((token_id + i, -0.5 - i) for i in range(options.logprobs))
        )

    def step(self) -> list[RuleRequest]:
        time.sleep(self.seconds)
        self.rows = [row for row in self.rows if not row.is_finished]
        for row in self.rows:
            step = row.steps.popleft()
            row.new.append(step)
            row.is_finished = step.finish_reason is not None
        return self.rows


def soon(holds: Callable[[], Any], seconds: float = 1.0) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(holds())


@dataclass
class Live:
    """A server that answers."""

    address: str
    port: int
    service: Service
    server: Server
    http: httpx2.Client
    """Asks it."""

    @property
    def api(self) -> str:
        return f"{self.address}/v1"

    @property
    def runner(self) -> Runner:
        return self.service.runner

    def quiet(self, seconds: float = 1.0) -> bool:
        """Whether nothing is computed, or will not be within a time."""
        engines = [one.engine for one in self.service.models.values()]

        def is_quiet() -> bool:
            is_busy = self.runner.running or self.runner.waiting
            return not is_busy and all(engine.is_idle for engine in engines)

        return soon(is_quiet, seconds)


def by_weights(answerer: Answerer, name: str = "small", **more: Any) -> Served:
    return Served(name, answerer, Engine(answerer.model, most_rows=8), **more)


def by_rule(rule: Callable[[str], str], seconds: float = 0.0, name: str = "rule") -> Served:
    answerer = small()
    return Served(name, answerer, RuleEngine(answerer, rule, seconds))


@contextmanager
def serving(
    *served: Served,
    rules: Rules | None = None,
    most_active: int = 8,
    most_waiting: int = 64,
    feedback: Path | None = None,
    files: Mapping[str, File] | None = None,
    grace: float = 0.5,
    send_buffer: int | None = None,
) -> Iterator[Live]:
    """Serve models from a thread; of an answer, so many bytes may wait in the system."""
    models = Models(served)
    runner = Runner([one.engine for one in served], most_active, most_waiting)
    service = Service(models, runner, Measures(runner), feedback)
    ready, loops = threading.Event(), list[asyncio.AbstractEventLoop]()
    door = listen("127.0.0.1", 0)
    if send_buffer is not None:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # connections inherit it
    app = make_app(service, rules or Rules(), files if files is not None else {})
    server = Server(app, runner, grace, ready.set)

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([door])

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    port = door.getsockname()[1]
    runner.start()
    thread.start()
    assert ready.wait(10)
    address = f"http://127.0.0.1:{port}"
    client = httpx2.Client(base_url=address, timeout=60)
    try:
        yield Live(address, port, service, server, client)
    finally:
        client.close()
        if thread.is_alive():
            loops[0].call_soon_threadsafe(server.end)
        thread.join(60)
        runner.stop()
        assert not thread.is_alive()
