"""`quatrain serve` as a process: ready, ended in good order or by force, and what it imports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from live import small
from quatrain.serve.wire import listen

pytestmark = pytest.mark.slow
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a long context, which does not stop by itself when it answers greedily."""
    directory, answerer = tmp_path_factory.mktemp("model"), small(50_000)
    with torch.no_grad():
        answerer.model.lm_head.weight[list(answerer.chat.stop_ids(answerer.tokenizer))] = 0.0
    answerer.model.save_pretrained(directory)
    answerer.tokenizer.save(directory)
    answerer.chat.save(directory)
    return directory


@contextlib.contextmanager
def process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve in a process of its own; give it with its address."""
    command = [sys.executable, "-m", "quatrain", "serve", *words, "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, encoding="utf-8", env=environment
    ) as one:
        assert one.stderr is not None
        try:
            for line in one.stderr:
                if found := re.search(r"serving at (http://\S+) ", line):
                    yield one, found[1]
                    break
            else:
                pytest.fail("it did not begin to serve")
        finally:
            if one.poll() is None:
                one.kill()
            one.wait(10)


def long_answer(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Où est l'été ?"}], "stop": ["\0\0"],
            "max_tokens": 20_000, "temperature": 0.0, **more}  # fmt: skip


def begun(address: str, body: dict[str, Any], results: list[Any]) -> threading.Thread:
    """Ask in a thread; keep the answer, or the error."""

    def ask() -> None:
        try:
            answer = httpx2.post(address + PATH, json=body, timeout=60)
            results.append((answer.status_code, answer.text))
        except httpx2.TransportError as error:
            results.append((0, type(error).__name__))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_sigterm_lets_running_answers_finish_and_refuses_the_others(model: Path) -> None:
    with process(str(model), "--max-active", "2") as (server, address):
        running, waiting = list[Any](), list[Any]()
        threads = [begun(address, long_answer(max_tokens=3_000, stream=n == 0), running)
                   for n in range(2)]  # fmt: skip
        wait_until(address, running=2)
        threads += [begun(address, long_answer(stream=n == 0), waiting) for n in range(3)]
        wait_until(address, running=2, waiting=3)
        server.send_signal(signal.SIGTERM)
        for thread in threads[2:]:
            thread.join(5)
        assert [status for status, _ in waiting] == [503] * 3
        assert json.loads(waiting[0][1])["error"]["code"] == "shutting_down"
        refused = httpx2.post(address + PATH, json=long_answer(), timeout=5)
        assert refused.status_code == 503
        assert httpx2.get(f"{address}/health").status_code == 503
        assert server.wait(15) == 0
        for thread in threads:
            thread.join(5)
        assert [status for status, _ in running] == [200] * 2
        assert sorted("[DONE]" in text for _, text in running) == [False, True]
        assert all('"finish_reason":"' in text for _, text in running)


def test_what_does_not_finish_in_time_is_ended(model: Path) -> None:
    with process(str(model)) as (server, address):
        results = list[Any]()
        threads = [begun(address, long_answer(stream=n == 0), results) for n in range(2)]
        wait_until(address, running=2)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.send_signal(signal.SIGTERM)  # the second time there is no grace
        assert server.wait(8) == 0
        assert time.monotonic() - began < 5
        for thread in threads:
            thread.join(5)
        whole, stream = sorted(results, key=lambda one: "data:" in one[1])
        assert whole[0] == 503
        assert '"code":"shutting_down"' in stream[1]
        assert stream[1].endswith("data: [DONE]\n\n")


def test_a_killed_server_starts_again_and_its_port_is_free(model: Path) -> None:
    with process(str(model)) as (server, address):
        results = list[Any]()
        thread = begun(address, long_answer(), results)
        wait_until(address, running=1)
        server.kill()
        server.wait(10)
        thread.join(5)
        assert results[0][0] == 0
    port = address.rpartition(":")[2]
    began = time.monotonic()
    with process(str(model), "--port", port) as (_, again):
        assert httpx2.get(f"{again}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    assert time.monotonic() - began < 30  # five seconds where nothing else runs


def test_a_port_that_is_taken_is_told_before_the_model_is_read(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = [sys.executable, "-m", "quatrain", "serve", str(model), "--port", port]
        done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 2
    assert f"[Q213] port {port} of 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_imports_nothing_that_it_does_not_need(model: Path) -> None:
    program = (
        "import sys, quatrain.serve.run as run\n"
        f"run.open_models([{str(model)!r}])\n"
        "needless = {'transformers', 'datasets', 'matplotlib', 'openai', 'gguf', 'pandas',\n"
        "            'peft', 'accelerate', 'tensorboard', 'litellm', 'jinja2.ext', 'typer',\n"
        "            'quatrain.train.run', 'quatrain.report.page', 'quatrain.data.prepare'}\n"
        "print(sorted(needless & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8")
    assert done.stdout == "[]\n", done.stderr


def wait_until(address: str, **expected: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = httpx2.get(f"{address}/health").json()
        if all(found.get(name) == value for name, value in expected.items()):
            return
        time.sleep(0.02)
    pytest.fail(f"{found} is not {expected}")


def test_small_packets_are_sent_at_once() -> None:
    """A kept connection otherwise waits 40 ms for each answer's first text."""
    with listen("127.0.0.1", 0) as door:
        assert door.proto == socket.IPPROTO_TCP  # what asyncio asks before TCP_NODELAY
