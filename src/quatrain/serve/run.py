"""Serve models until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quatrain.serve.answering import Service
from quatrain.serve.app import make_app
from quatrain.serve.guard import Rules, hashed
from quatrain.serve.keys import is_loopback
from quatrain.serve.measures import Measures
from quatrain.serve.models import open_models
from quatrain.serve.runner import Runner
from quatrain.serve.wire import Server, listen

_SWITCH = 0.0005
"""Seconds after which a thread lets another one have the interpreter; Python has 0.005."""
_CHATTY = ("uvicorn", "uvicorn.error", "asyncio")


@dataclass(frozen=True)
class Settings:
    """How models are served."""

    host: str = "127.0.0.1"
    port: int = 8000
    quantize: str | None = None
    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    """Further names under which the server is reached."""
    most_active: int = 8
    """Answers that are computed side by side."""
    most_waiting: int = 64
    kv_memory: int | None = None
    feedback: Path | None = None
    grace: float = 10.0
    """Seconds in which running answers may finish when the server ends."""


def serve(names: Sequence[str], settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve models.

    Args:
        names: of the models, each as `quatrain ask` takes it.
        settings: how.
        ready: takes the server's address, once it answers.

    Raises:
        ConfigError: Q213 for a port that cannot be had.
        CheckpointError: for models that cannot be opened.
    """
    door = listen(settings.host, settings.port)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we log what they would, without text
    models = open_models(names, settings.quantize, settings.most_active, settings.kv_memory)
    engines = [one.engine for one in models.values()]
    runner = Runner(engines, settings.most_active, settings.most_waiting)
    service = Service(models, runner, Measures(runner), settings.feedback)
    named = () if is_loopback(settings.host) else (settings.host,)
    rules = Rules(
        keys=frozenset(hashed(key.encode()) for key in settings.keys),
        hosts=frozenset(one.lower() for one in (*settings.hosts, *named)),
    )
    port = door.getsockname()[1]
    address = f"http://{_shown(settings.host)}:{port}"
    server = Server(make_app(service, rules), runner, settings.grace, lambda: ready(address))
    sys.setswitchinterval(_SWITCH)  # the loop need not wait long for the thread that computes
    runner.start()
    try:
        asyncio.run(server.serve([door]))
    finally:
        runner.stop()


def _shown(host: str) -> str:
    return f"[{host.strip('[]')}]" if ":" in host else host
