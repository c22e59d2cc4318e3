"""`quatrain serve`: models that people and programs can ask."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from quatrain.cli.usage import size_of
from quatrain.errors import ConfigError
from quatrain.serve.keys import read_keys, refuse_open_door
from quatrain.words import say

_NEEDED = ("fastapi", "prometheus_client", "uvicorn")


def run_serving(
    models: list[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    quantize: str | None = None,
    key_file: Path | None = None,
    hosts: list[str] | None = None,
    max_active: int = 8,
    queue: int = 64,
    kv_memory: str = "2GB",
    feedback: Path | None = None,
) -> None:
    """Serve models until a signal ends it; what is wrong with the options is said before."""
    for name, value, least in (("--max-active", max_active, 1), ("--queue", queue, 0)):
        if value < least:
            raise ConfigError("Q208.too_few", name=name, value=value, least=least)
    most_bytes = size_of(kv_memory, "--kv-memory")
    if feedback is not None and not feedback.absolute().parent.is_dir():
        raise ConfigError("Q208.no_directory", path=feedback, directory=feedback.parent)
    keys = read_keys(key_file)
    refuse_open_door(host, bool(keys))
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ConfigError("Q214.serve", name=name)
    # Threads that wait for each other spin this long: longer takes cores from other processes, and
    # without it every product of a small model has to wake them.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read when torch is imported
    from quatrain.serve.run import Settings, serve

    settings = Settings(
        host=host, port=port, quantize=quantize, keys=keys, hosts=hosts or (),
        most_active=max_active, most_waiting=queue, kv_memory=most_bytes, feedback=feedback,
    )  # fmt: skip
    serve(models, settings, _say_where)


def _say_where(address: str) -> None:
    print(say("cli.serve.where", address=address), file=sys.stderr, flush=True)
