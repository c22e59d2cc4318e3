"""Measures for Prometheus: requests, tokens, times, and what is running now."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from quatrain.generate.voice import Answer
from quatrain.serve.runner import Runner

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Measures:
    """The measures of one server."""

    def __init__(self, runner: Runner) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "quatrain_requests", "Requests, by route and status", ("route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._prompt = self._count("prompt_tokens", "Tokens of prompts that were answered")
        self._generated = self._count("generated_tokens", "Tokens of answers")
        self._first = self._time("first_token_seconds", "Until the first text of an answer")
        self._whole = self._time("answer_seconds", "Until the end of an answer")
        for name in ("running", "waiting"):
            gauge = Gauge(f"quatrain_{name}", f"Answers that are {name}", registry=self._registry)
            gauge.set_function(partial(getattr, runner, name))

    def _count(self, name: str, what: str) -> Counter:
        return Counter(f"quatrain_{name}", what, ("model",), registry=self._registry)

    def _time(self, name: str, what: str) -> Histogram:
        return Histogram(
            f"quatrain_{name}", what, ("model",), buckets=_SECONDS, registry=self._registry
        )

    def request(self, route: str | None, status: int) -> None:
        """Count a request."""
        self._requests.labels(route or "other", str(status)).inc()

    def first(self, model: str, seconds: float) -> None:
        """Take the time until the first text."""
        self._first.labels(model).observe(seconds)

    def answered(
        self, model: str, prompt_tokens: int, answers: Sequence[Answer], seconds: float
    ) -> None:
        """Count the tokens of a request that was answered."""
        self._prompt.labels(model).inc(prompt_tokens)
        self._generated.labels(model).inc(sum(one.completion_tokens for one in answers))
        self._whole.labels(model).observe(seconds)

    def text(self) -> bytes:
        """Write all measures in Prometheus' format."""
        return generate_latest(self._registry)
