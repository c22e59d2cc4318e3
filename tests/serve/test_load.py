"""Many at once: nothing is lost or crossed, who leaves frees a place, and nobody blocks others."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from live import Live, RuleEngine, by_rule, by_weights, serving, small, soon
from quatrain.serve import wire
from quatrain.serve.guard import Rules

PATH = "/v1/chat/completions"


def nonce(prompt: str) -> str:
    """Say the number that was asked for, in words enough to take some steps."""
    number = "".join(filter(str.isdigit, prompt))
    return f"Le mot secret est {number}. " * 4


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(by_rule(nonce), by_weights(small()), most_waiting=120) as one:
        yield one


@pytest.fixture
def slow() -> Iterator[Live]:
    with serving(by_rule(lambda prompt: "mot " * 300, seconds=0.005), most_active=4) as one:
        yield one


def asking(content: str, streams: bool, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "stream": streams, **more}


def text_of(raw: str) -> str:
    """Join the text of a stream."""
    events = [json.loads(line[6:]) for line in raw.split("\n\n") if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)


def request(body: dict[str, Any], path: str = PATH) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def every_answer(live: Live, questions: list[dict[str, Any]]) -> list[str]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=live.address, limits=limits, timeout=60) as client:
        answers = await asyncio.gather(*(client.post(PATH, json=body) for body in questions))
    assert [answer.status_code for answer in answers] == [200] * len(questions)
    return [
        text_of(answer.text)
        if body["stream"]
        else answer.json()["choices"][0]["message"]["content"]
        for body, answer in zip(questions, answers, strict=True)
    ]


def test_of_a_hundred_streams_none_is_lost_and_none_is_crossed(live: Live) -> None:
    numbers = random.Random(0).sample(range(10**6), 100)
    questions = [asking(f"Le numéro {number} ?", streams=True) for number in numbers]
    found = asyncio.run(every_answer(live, questions))
    assert found == [nonce(str(number)) for number in numbers]
    assert live.quiet()


def test_of_the_models_weights_each_gets_its_own_answer(live: Live) -> None:
    questions = [
        asking(f"Combien font {n} ?", streams=n % 2 == 0, model="small", max_tokens=8)
        for n in range(40)
    ]
    expected = [str(small().answer(f"Combien font {n} ?", max_new_tokens=8)) for n in range(40)]
    assert asyncio.run(every_answer(live, questions)) == expected


def test_beyond_the_queue_is_refused_with_a_time() -> None:
    with serving(
        by_rule(lambda prompt: "mot " * 10, seconds=0.03), most_active=2, most_waiting=3
    ) as busy:
        body = asking("Où ?", streams=False)
        client = httpx2.Client(base_url=busy.address, timeout=60)
        with ThreadPoolExecutor(12) as pool, client:
            answers = list(pool.map(lambda _: client.post(PATH, json=body), range(12)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 7
        for answer in refused:
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert sum(answer.status_code == 200 for answer in answers) == 5
        many = busy.address + PATH
        assert httpx2.post(many, json=asking("Où ?", streams=False, n=8)).status_code == 400


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("place", ["running", "waiting"])
def test_who_leaves_frees_a_place_at_once(slow: Live, streams: bool, place: str) -> None:
    held = [socket.create_connection(("127.0.0.1", slow.port)) for _ in range(6)]
    for one in held:
        one.sendall(request(asking("Où ?", streams)))
        time.sleep(0.02)
    assert (slow.runner.running, slow.runner.waiting) == (4, 2)
    leaving = held[0] if place == "running" else held[5]
    leaving.close()
    time.sleep(0.1)
    assert slow.runner.running + slow.runner.waiting == 5
    for one in held:
        one.close()
    assert slow.quiet()


def test_two_hundred_clients_leave_at_random_and_nothing_stays(live: Live) -> None:
    draw = random.Random(0)

    def visit(number: int) -> None:
        with socket.create_connection(("127.0.0.1", live.port)) as one:
            body = asking(f"Le numéro {number} ?", streams=draw.random() < 0.5,
                          model=draw.choice(["rule", "small"]), max_tokens=60)  # fmt: skip
            raw = request(body)
            one.sendall(raw[: draw.choice([1, 40, len(raw) - 5, len(raw), len(raw), len(raw)])])
            one.settimeout(draw.choice([0.001, 0.01, 0.05, 2.0]))
            try:
                one.recv(draw.choice([1, 500, 100_000]))
            except TimeoutError:
                pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(200)))
    assert live.quiet(1.0)
    question = asking("Le numéro 7 ?", streams=True)
    assert asyncio.run(every_answer(live, [question])) == [nonce("7")]


def test_a_reader_that_takes_nothing_blocks_nobody(live: Live) -> None:
    readers = []
    for number in range(12):  # more than there are places
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.connect(("127.0.0.1", live.port))
        one.sendall(request(asking(f"Le numéro {number} ?", streams=True)))
        readers.append(one)
    began = time.monotonic()
    found = asyncio.run(every_answer(live, [asking("Le numéro 5 ?", streams=True)]))
    assert found == [nonce("5")]
    assert time.monotonic() - began < 5
    assert live.quiet(2.0)  # their answers are computed, whether they take them or not
    for one in readers:
        one.close()


def test_a_reader_of_a_byte_at_a_time_gets_the_whole_answer(slow: Live) -> None:
    with socket.create_connection(("127.0.0.1", slow.port)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.sendall(request(asking("Où ?", streams=True, max_tokens=40)))
        raw = b""
        while b"[DONE]" not in raw:
            raw += one.recv(1)
    chunks = [line for line in raw.split(b"\n") if line.startswith(b"data: {")]
    said = "".join(json.loads(c[6:])["choices"][0]["delta"].get("content", "") for c in chunks)
    answerer = small()
    assert said == answerer.tokenizer.decode(answerer.tokenizer.encode("mot " * 300)[:40])


def test_a_writer_of_a_byte_at_a_time_is_answered_or_cut_off_and_blocks_nobody() -> None:
    with serving(by_rule(nonce), rules=Rules(most_seconds=0.5)) as live:
        slow = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(20)]
        raw = request(asking("Le numéro 3 ?", streams=False))
        stop = threading.Event()

        def dribble() -> None:
            for byte in raw[:-1]:
                for one in slow:
                    one.sendall(bytes([byte]))
                if stop.wait(0.002):
                    return

        writer = threading.Thread(target=dribble)
        writer.start()
        for number in range(5):
            question = asking(f"Le numéro {number} ?", streams=True)
            assert asyncio.run(every_answer(live, [question])) == [nonce(str(number))]
        writer.join()
        for one in slow:  # the last byte never comes
            one.settimeout(5)
            answer = b"".join(iter(lambda one=one: one.recv(10_000), b""))
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"request_timeout" in answer
            one.close()
        stop.set()


def is_cut_off(one: socket.socket) -> bool:
    try:
        return not one.recv(100)
    except ConnectionResetError:
        return True


def test_a_head_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.3)
    with serving(by_rule(nonce)) as live:
        for begun in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: loc"):
            with socket.create_connection(("127.0.0.1", live.port)) as one:
                one.sendall(begun)
                one.settimeout(5)
                assert is_cut_off(one)
        with socket.create_connection(("127.0.0.1", live.port)) as one:  # a second request
            one.settimeout(5)
            for _ in range(2):
                one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = one.recv(10_000)
                while not answer.endswith(b"}"):
                    answer += one.recv(10_000)
                assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)  # longer than a head may take: nothing has begun
            one.sendall(b"GET /hea")
            assert is_cut_off(one)


def test_a_reader_that_takes_nothing_is_cut_off_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TAKEN_SECONDS", 0.3)
    endless = by_rule(lambda prompt: "mot " * 1000, seconds=0.02)
    with serving(endless, send_buffer=4096) as live:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            one.connect(("127.0.0.1", live.port))
            body = asking("Où ?", streams=True, n=8, logprobs=True, top_logprobs=20)
            one.sendall(request(body))
            assert soon(lambda: live.runner.running == 8, seconds=10)
            assert soon(lambda: not live.server.server_state.connections, seconds=10)
            assert live.quiet()
        assert isinstance(endless.engine, RuleEngine)
        assert len(endless.engine.asked) == 8
        assert all(answer.steps for answer in endless.engine.asked)  # no answer was at its end


def test_a_body_beyond_the_bound_is_refused_and_its_sender_hears_it(live: Live) -> None:
    for size in (2**20, 10 * 2**20):
        body = asking("x" * size, streams=False)
        answer = live.http.post(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    def parts() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    answer = live.http.post(PATH, content=parts(), headers=headers)
    assert answer.status_code == 413
