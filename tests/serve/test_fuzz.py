"""Whatever is sent, the answer is an error object or an answer: never a fault, never silence."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bodies import FIELDS, ROUTES, TEXTS, VALUES, hand_made
from live import Live, by_rule, by_weights, serving, small

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(by_rule(lambda prompt: "Là."), by_weights(small())) as one:
        yield one


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=live.address, timeout=20) as one:
        yield one


def check(answer: httpx2.Response) -> None:
    """An answer is JSON or events, and says what is wrong in a few words."""
    assert answer.status_code < 500, answer.text[:500]
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert len(answer.content) < 2_000


@pytest.mark.parametrize("route", ROUTES)
def test_bodies_made_by_hand_are_refused_or_answered(client: httpx2.Client, route: str) -> None:
    begin, count = list(ROUTES).index(route), 0
    for raw in islice(hand_made(route), begin, None, 6):  # bench/serve.py sends all
        check(client.post(route, content=raw, headers=JSON))
        count += 1
    assert count > 60


def test_a_refusal_takes_no_time(client: httpx2.Client) -> None:
    for raw in (b"[" * 100_000, b'{"messages":' + b"[" * 5_000, b"1" * 500_000,
                json.dumps({"messages": [{}] * 50_000}).encode(),
                json.dumps({"messages": [{"role": "user", "content": [1] * 90_000}]}).encode(),
                json.dumps({"messages": [{"role": "user", "content": "a"}], "stop": ["a"] * 99_999}
                           ).encode()):  # fmt: skip
        began = time.monotonic()
        answer = client.post("/v1/chat/completions", content=raw, headers=JSON)
        check(answer)
        assert answer.status_code == 400
        assert time.monotonic() - began < 1.0


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    route=st.sampled_from(sorted(ROUTES)),
    fields=st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.sampled_from(VALUES), TEXTS)),
    is_whole=st.booleans(),
)
def test_bodies_drawn_at_random_are_refused_or_answered(
    client: httpx2.Client, route: str, fields: dict[str, Any], is_whole: bool
) -> None:
    body = {**(ROUTES[route] if is_whole else {}), **fields}
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    check(client.post(route, content=raw, headers=JSON))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=200), route=st.sampled_from(sorted(ROUTES)))
def test_bytes_drawn_at_random_are_refused(client: httpx2.Client, raw: bytes, route: str) -> None:
    answer = client.post(route, content=raw, headers=JSON)
    check(answer)
    assert answer.status_code == 400


def test_methods_and_paths_drawn_from_a_list_are_refused(client: httpx2.Client) -> None:
    paths = [
        "/",
        "/v1",
        "/v1/",
        "/v1/chat/completions/",
        "/v1/models/a/b",
        "//",
        "/%00",
        "/..",
        "/static/",
        "/static/..%2f",
        "/report/",
        "/report/\u00e9",
        "/api",
        "/openapi.json",
    ]
    for path in paths:
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"):
            answer = client.request(method, path, json=None if method == "GET" else {})
            assert answer.status_code < 500, (method, path)
            if answer.status_code >= 400 and method != "HEAD":
                check(answer)


def test_the_server_answers_as_before(live: Live, client: httpx2.Client) -> None:
    assert live.quiet()
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
