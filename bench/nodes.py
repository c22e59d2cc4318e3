"""Two machines with addresses of their own, on one: the two-machine command of docs/scale.md.

    python bench/nodes.py WORK [--processes 1] [--kill]

Two namespaces of network, host name and processes, which a pair of interfaces joins. The command is
read from the page, and runs with its addresses and its port; only the number of processes a machine
is another one, and behind `sft` there is a tiny recipe. Losses are compared with those of one
process. With --kill a process of the second machine is killed when there is a checkpoint, and the
same command then goes on. Needs root and Linux. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIRST, SECOND = "10.0.0.1", "10.0.0.2"
"""The address that the page names, and another machine's."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no machine behind
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    recipe = recipe_in(work, max_steps=8 if options.kill else 2)
    with two_machines() as machines:
        found = on_both(machines, recipe, work / "two", options.processes, options.kill)
        if options.kill:
            found = {"killed": found} | on_both(machines, recipe, work / "two", options.processes)
    alone = subprocess.run(
        [sys.executable, "-m", "quatrain", "sft", str(recipe), f"run_dir={work / 'one'}"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    one, two = losses(work / "one"), losses(work / "two")
    apart = max(abs(a - b) / a for a, b in zip(one, two, strict=True))
    print(json.dumps({**found, "steps": len(one), "apart": apart}))


def recipe_in(work: Path, **train: Any) -> Path:
    """Write the recipe of the tests' tiny run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_run import recipe_in as write

    sizes = {"batch_size": 4, "eval_interval": 8, "save_interval": 2}
    return write(work, **{**sizes, **train})


def losses(run_dir: Path) -> list[float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def environment() -> dict[str, str]:
    """Give the variables of a machine: nothing there says which interface is to be taken."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: one for name, one in os.environ.items() if not name.startswith("GLOO_")}
    return {**kept, "PATH": paths, "PYTHONPATH": str(ROOT / "src"), "TORCH_CPP_LOG_LEVEL": "ERROR"}


def command_of_page() -> list[str]:
    """Read the words of the two-machine command in docs/scale.md, up to `sft`."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (block,) = [one for one in page.split("```") if "--node-rank 0" in one]
    words = shlex.split(block.removeprefix("bash").replace("\\\n", " "))
    assert words[0] == "torchrun", words
    assert FIRST in words, words
    return words[: words.index("sft") + 1]


def changed(words: list[str], **values: int) -> list[str]:
    """Give options other values, by name."""
    words = list(words)
    for name, value in values.items():
        words[words.index("--" + name.replace("_", "-")) + 1] = str(value)
    return words


@contextmanager
def two_machines() -> Iterator[list[list[str]]]:
    """Make two machines, and give for each the words that run a command there."""
    mine = os.getpid()
    names = [f"quatrain-{mine}-{rank}" for rank in range(2)]
    links = [f"q{mine}x{rank}" for rank in range(2)]
    machines = [["ip", "netns", "exec", name] for name in names]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for inside, name, link, address in zip(
            machines, names, links, (FIRST, SECOND), strict=True
        ):
            ip("link", "set", link, "netns", name)
            for words in (
                ("addr", "add", f"{address}/24", "dev", link),
                ("link", "set", link, "up"),
                ("link", "set", "lo", "up"),
            ):
                subprocess.run([*inside, "ip", *words], check=True)
        own = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
        yield [
            [*inside, *own, f'hostname node-{rank} && exec "$@"', "sh"]
            for rank, inside in enumerate(machines)
        ]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def on_both(
    machines: list[list[str]], recipe: Path, run_dir: Path, processes: int, kills: bool = False
) -> dict[str, Any]:
    """Run the command of the page on both machines; give exit codes and what was said."""
    words = command_of_page()
    said = [run_dir.parent / f"said-{rank}.txt" for rank in range(2)]
    started = []
    for rank, machine in enumerate(machines):
        command = changed(words, node_rank=rank, nproc_per_node=processes)
        one = [*machine, *command, str(recipe), f"run_dir={run_dir}"]
        with said[rank].open("w") as file:
            started.append(subprocess.Popen(one, env=environment(), stdout=file, stderr=file))
    try:
        since = kill_one(run_dir, started) if kills else time.monotonic()
        codes = [one.wait() for one in started]
    finally:
        for one in started:
            one.kill()  # and with it all that it started
    seconds = round(time.monotonic() - since, 1)
    lines = [line for one in said for line in one.read_text().splitlines() if "error[" in line]
    return {"codes": codes, "said": lines, "seconds": seconds}


def kill_one(run_dir: Path, started: list[subprocess.Popen[bytes]]) -> float:
    """Kill the last process of the second machine once there is a checkpoint."""
    while not (run_dir / "checkpoints" / "step-000002").exists():
        time.sleep(0.02)
        assert all(one.poll() is None for one in started), "it ended before it could be killed"
    os.kill(below(started[1].pid)[-1], signal.SIGKILL)
    return time.monotonic()


def below(parent: int) -> list[int]:
    """List the processes that train, of those that a process has started: they start none."""
    children = [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [one for child in children for one in below(child)] or [parent]


if __name__ == "__main__":
    main()
