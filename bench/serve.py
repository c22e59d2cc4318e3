"""The server under load: nothing lost, nothing left behind, nothing broken; and how fast it is.

    python bench/serve.py MODEL [--parts streams leave fuzz speed turns] [--questions FILE]
        [--streams 100] [--visits 2000] [--kv-memory 32MB] [--cases 5000]
        [--new 128] [--gguf FILE] [--repeats 3]

MODEL is what `quatrain serve` takes; it runs in a process of its own, on this machine.

    streams   official client, all at once: each answer is compared with Answerer.answer's
    leave     clients that leave before, during and after, streaming or not: what runs a second
              later, and how much memory the server holds after 100 of them, after as many as
              are asked for, which fill its cache, and after as many again
    fuzz      bodies made by hand, then schemathesis on the server's own OpenAPI: answers of 5xx
    speed     tokens a second of eight streams beside the engine's own eight rows, and the time to
              the first token of a short question, a new one and one that was read before; with
              --gguf, llama.cpp's server (xllamacpp) too
    turns     questions answered right by themselves, and after another question and its answer

Sides of `speed` are alternated. Questions are the demo's, or those of FILE.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PATH = "/v1/chat/completions"
PARTS = ("streams", "leave", "fuzz", "speed", "turns")
AT_ONCE = 8
TIMED = 12
IDLE = 0.05
"""Seconds in which nothing happens before a first token is timed, on every side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--questions", default="demo:heldout")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--visits", type=int, default=2000)
    parser.add_argument("--kv-memory", help="of the server of `leave`; what was read is kept in it")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--asked", type=int, default=48, help="questions of speed")
    parser.add_argument("--turns", type=int, default=60, help="questions of turns")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = {part: globals()[part](options) for part in options.parts}
    print(json.dumps(found, indent=1, ensure_ascii=False))


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[str, int]]:
    """Serve in another process; give its address and its number."""
    command = [sys.executable, "-m", "quatrain", "--lang", "en", "serve", *words, "--port", "0"]
    with (
        Path("/dev/null").open("wb") as nothing,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=nothing, text=True) as process,
    ):
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "serving at" in line)
            drained = ThreadPoolExecutor(1).submit(process.stderr.read)
            yield re.findall(r"http://\S+", line)[0], process.pid
            process.terminate()
            assert process.wait(30) == 0
            drained.result()
        finally:
            process.kill()


def questions(options: argparse.Namespace, number: int) -> list[str]:
    """Take questions from all over the data."""
    from quatrain.config import DataConfig
    from quatrain.data.records import load_records

    found = [one.messages[-2].content
             for one in load_records((options.questions,), DataConfig()).conversations]  # fmt: skip
    return found[:: max(1, len(found) // number)][:number]


def streams(options: argparse.Namespace) -> dict[str, Any]:
    from openai import AsyncOpenAI

    from quatrain.generate.answer import Answerer

    asked = questions(options, options.streams)

    async def all_of_them(address: str) -> list[str]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:

            async def one(question: str) -> str:
                stream = await client.chat.completions.create(
                    model=client_model, stream=True, max_tokens=64,
                    messages=[{"role": "user", "content": question}],
                )  # fmt: skip
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            client_model = (await client.models.list()).data[0].id
            return await asyncio.gather(*map(one, asked))

    with server(options.model, "--queue", str(options.streams)) as (address, _):
        began = time.perf_counter()
        said = asyncio.run(all_of_them(address))
        seconds = time.perf_counter() - began
    answerer = Answerer(options.model)
    expected = [str(answerer.answer(question, max_new_tokens=64)) for question in asked]
    return {
        "streams": len(asked),
        "seconds": round(seconds, 2),
        "different": sum(ours != theirs for ours, theirs in zip(expected, said, strict=True)),
        "distinct answers": len(set(said)),
    }


def memory_mb(process: int) -> float:
    """Say how much memory a process holds that no file does."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.findall(r"RssAnon:\s+(\d+)", text)[0]) / 1024


def request(body: dict[str, Any], path: str = PATH) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


def leave(options: argparse.Namespace) -> dict[str, Any]:
    import httpx2

    draw, refused = random.Random(0), list[bytes]()

    def visit(number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"Combien font {number} et 5 ?"}],
                "stream": draw.random() < 0.5, "max_tokens": draw.choice([8, 64, 200]),
                "temperature": 1.5}  # fmt: skip
        raw, port = request(body), int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(raw[: draw.choice([0, 1, 60, len(raw) - 3] + [len(raw)] * 8)])
            one.settimeout(draw.choice([0.0005, 0.005, 0.05, 0.3, 3.0]))
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                if b" 5" in one.recv(draw.choice([12, 1_000, 100_000]))[:12]:
                    refused.append(raw)

    words = ["--kv-memory", options.kv_memory] if options.kv_memory else []
    with server(options.model, *words) as (address, process):
        held = []
        with ThreadPoolExecutor(24) as pool:
            for begin, end in pairwise((0, 100, 100 + options.visits, 100 + 2 * options.visits)):
                list(pool.map(visit, range(begin, end)))
                time.sleep(1)
                held.append(memory_mb(process))
        health = httpx2.get(f"{address}/health").json()
        measures = httpx2.get(f"{address}/metrics").text
    statuses = re.findall(r'_total\{.*completions",status="(\d+)"\} (\S+)', measures)
    return {
        "visits": 100 + 2 * options.visits,
        "a second later": health,
        "held_mb": [round(one, 1) for one in held],
        "gained_mb": round(held[2] - held[1], 1),
        "statuses": {status: int(float(count)) for status, count in statuses},
        "5xx": len(refused),
    }


def fuzz(options: argparse.Namespace) -> dict[str, Any]:
    import httpx2
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    from bodies import ROUTES, hand_made

    counted: dict[int, int] = {}
    slowest, slowest_body = 0.0, ""
    with server(options.model, "--feedback", "/dev/null") as (address, _):

        def note(status: int, seconds: float, body: str) -> None:
            nonlocal slowest, slowest_body
            counted[status] = counted.get(status, 0) + 1
            if seconds > slowest:
                slowest, slowest_body = seconds, body[:400]

        with httpx2.Client(base_url=address, timeout=300) as client:
            for route in ROUTES:
                for raw in hand_made(route):
                    began = time.perf_counter()
                    headers = {"content-type": "application/json"}
                    answer = client.post(route, content=raw, headers=headers)
                    note(answer.status_code, time.perf_counter() - began, f"{route} {raw[:400]!r}")
            by_hand = sum(counted.values())
            operations = list(
                schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations()
            )
            each = max(1, (options.cases - by_hand) // len(operations) + 1)
            for operation in operations:

                @settings(max_examples=each, deadline=None, database=None, derandomize=True,
                          phases=[Phase.generate],
                          suppress_health_check=list(HealthCheck))  # fmt: skip
                @given(case=operation.ok().as_strategy())
                def one(case: Any) -> None:
                    began = time.perf_counter()
                    status = case.call(timeout=300).status_code
                    note(status, time.perf_counter() - began, f"{case.path} {case.body}")

                one()
            health = client.get("/health").json()
    return {
        "by hand": by_hand,
        "by schema": sum(counted.values()) - by_hand,
        "statuses": dict(sorted(counted.items())),
        "slowest_seconds": round(slowest, 2),
        "slowest": slowest_body,
        "5xx": sum(count for status, count in counted.items() if status >= 500),
        "afterwards": health,
    }


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Alternate the sides; the engine works in this process, while the servers do nothing."""
    rounds, each = options.repeats + 1, options.asked + TIMED  # the first round warms up
    every = questions(options, rounds * each)
    random.Random(0).shuffle(every)  # or the questions of a round would be of one kind
    found: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        ours, _ = stack.enter_context(server(options.model, "--max-active", str(AT_ONCE)))
        sides = {"server": ours}
        if options.gguf:
            sides["llama.cpp"] = stack.enter_context(llama_cpp(options.gguf))
        engine = Engine(options.model)
        for number in range(rounds):
            asked = every[number * each :][:each]  # new ones for all sides: all keep what they read
            timed = [asked.pop() for _ in range(TIMED)]
            found.setdefault("engine", []).append(engine.measured(asked, timed, options.new))
            for name, address in sides.items():
                measured = asyncio.run(served(address, asked, timed, options.new))
                found.setdefault(name, []).append(measured)
    table = {
        name: {key: round(statistics.median(run[key] for run in runs[1:]), 4) for key in runs[0]}
        for name, runs in found.items()
    }
    engine_side, ours_side = table["engine"], table["server"]
    return {
        **table,
        "server / engine": round(ours_side["tokens_s"] / engine_side["tokens_s"], 3),
        **{f"{key}, server / engine": round(ours_side[key] / engine_side[key], 3)
           for key in ("first_s", "first_again_s")},
        **({"server / llama.cpp": round(ours_side["tokens_s"] / table["llama.cpp"]["tokens_s"], 3)}
           if options.gguf else {}),
    }  # fmt: skip


def turns(options: argparse.Namespace) -> dict[str, Any]:
    from quatrain.config import DataConfig, GenerateConfig
    from quatrain.data.records import load_records
    from quatrain.evaluate.score import exact_match
    from quatrain.generate.answer import Answerer
    from quatrain.text.conversation import Message

    every = list(load_records((options.questions,), DataConfig()).conversations)
    asked = every[:: max(1, len(every) // options.turns)][: options.turns]
    answerer, how = Answerer(options.model), GenerateConfig(max_new_tokens=options.new)
    alone = answerer.replies([one.messages[-2:-1] for one in asked], how)
    before = [[asked[i - 1].messages[-2], Message("assistant", str(alone[i - 1]))]
              for i in range(len(asked))]  # fmt: skip
    after = answerer.replies(
        [[*two, one.messages[-2]] for two, one in zip(before, asked, strict=True)], how
    )
    right = [sum(exact_match(said, one.answers) for said, one in zip(answers, asked, strict=True))
             for answers in (alone, after)]  # fmt: skip
    return {"questions": len(asked), "alone": right[0], "after another turn": right[1]}


class Engine:
    """The engine by itself; as the server's, it keeps what it read from round to round."""

    def __init__(self, model: str) -> None:
        from quatrain.generate.answer import Answerer
        from quatrain.generate.engine import Engine as OurEngine

        answerer = Answerer(model)
        self.voice, self.engine = answerer.voice, OurEngine(answerer.model, most_rows=AT_ONCE)

    def measured(self, asked: list[str], timed: list[str], new: int) -> dict[str, float]:
        """Answer questions eight at a time, then the first token of others, one by one, twice."""
        from quatrain.config import GenerateConfig
        from quatrain.text.conversation import Message

        voice, engine, options = self.voice, self.engine, GenerateConfig(max_new_tokens=new)

        def submit(question: str) -> Any:
            prompt = voice.prompt([Message("user", question)])
            return engine.submit(prompt, options, voice.stop_ids)

        began = time.perf_counter()
        for question in asked:
            submit(question)
        tokens = 0
        while not engine.is_idle:
            tokens += sum(len(one.take()) for one in engine.step())
        seconds = time.perf_counter() - began

        def first(question: str) -> float:
            time.sleep(IDLE)
            began = time.perf_counter()
            one = submit(question)
            next(one)
            one.cancel()
            return time.perf_counter() - began

        firsts = [statistics.median(map(first, timed)) for _ in range(2)]
        return {"tokens_s": tokens / seconds, "first_s": firsts[0], "first_again_s": firsts[1]}


class Line:
    """A connection that is kept: a plain socket, so that the client takes little of the machine."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self.place, self.writer = (host, int(port)), None
        self.reader: Any = None

    async def ask(self, question: str, most: int) -> tuple[int, float]:
        """Have a question answered: tokens, and seconds until the first text."""
        if self.writer is None or self.reader.at_eof():
            self.reader, self.writer = await asyncio.open_connection(*self.place)
        body = {"messages": [{"role": "user", "content": question}], "stream": True,
                "max_tokens": most, "temperature": 0,
                "stream_options": {"include_usage": True}}  # fmt: skip
        began, first, raw = time.perf_counter(), 0.0, b""
        self.writer.write(request(body))
        while b"[DONE]" not in raw or not raw.endswith(b"0\r\n\r\n"):  # the last chunk
            more = await self.reader.read(65_536)
            if not more and not raw:  # the server had enough of this connection
                self.reader, self.writer = await asyncio.open_connection(*self.place)
                self.writer.write(request(body))
            assert more or not raw, raw
            raw += more
            if not first and re.search(rb'"content":\s?"[^"]', raw):
                first = time.perf_counter() - began
        counts = re.findall(rb'"completion_tokens":\s?(\d+)', raw)
        return int(counts[-1]), first

    def close(self) -> None:
        """End it."""
        if self.writer is not None:
            self.writer.close()


async def served(address: str, asked: list[str], timed: list[str], new: int) -> dict[str, float]:
    """Ask eight at a time, as many clients as that, each of which keeps its connection."""
    waiting, lines = list(reversed(asked)), [Line(address) for _ in range(AT_ONCE)]

    async def one_after_the_other(line: Line) -> int:
        tokens = 0
        while waiting:
            tokens += (await line.ask(waiting.pop(), new))[0]
        return tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(one_after_the_other, lines)))
    seconds = time.perf_counter() - began

    async def first(question: str) -> float:
        await asyncio.sleep(IDLE)
        return (await lines[0].ask(question, new))[1]

    firsts = [statistics.median([await first(question) for question in timed]) for _ in range(2)]
    for line in lines:
        line.close()
    return {"tokens_s": tokens / seconds, "first_s": firsts[0], "first_again_s": firsts[1]}


@contextlib.contextmanager
def llama_cpp(path: Path) -> Iterator[str]:
    """Serve a GGUF file by llama.cpp, in another process."""
    program = (
        "import sys, time, xllamacpp\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path, params.n_parallel, params.n_ctx = sys.argv[1], 8, 8 * 1024\n"
        "params.hostnames, params.port, params.cont_batching = ['127.0.0.1'], 0, True\n"
        "params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2\n"
        "server = xllamacpp.Server(params)\n"
        "print(server.listening_address, flush=True)\n"
        "time.sleep(3600)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


if __name__ == "__main__":
    main()
