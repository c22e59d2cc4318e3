"""Kill runs with SIGKILL at random instants until they are done, and compare with a calm one.

    PYTHONPATH=tests python tests/train/killer.py DIRECTORY --kills 30 --seed 0

torch is imported once, with what an optimizer imports when it is made; every attempt is a fork of
this process, which itself computes nothing.
Prints one JSON object: kills by phase, runs, and what differed (nothing, when all is well).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (a second, which each attempt would spend anew)

from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.files import sha256
from quatrain.train import run as run_module
from quatrain.train.checkpoint import Keeper
from quatrain.train.judge import Judge
from quatrain.train.log import SAMPLES
from tiny_run import questions_file, timeless_metrics, tiny_run

PHASES = ("training", "saving", "evaluating", "preparing")
phase = mmap.mmap(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    questions_file(options.directory)
    mark_phases()
    started = time.monotonic()
    assert attempt(options.directory, "calm", None) is None
    calm_seconds = time.monotonic() - started
    draw, killed, runs = random.Random(options.seed), Counter[str](), 0
    different: list[str] = []
    while killed.total() < options.kills:
        name = f"killed-{runs}"
        while where := attempt(options.directory, name, plan(draw, killed, calm_seconds)):
            killed[where] += 1
        runs += 1
        different += compare(options.directory / "calm", options.directory / name)
    report = {"kills": killed.total(), "by_phase": killed, "runs": runs, "different": different}
    print(json.dumps(report))


def plan(
    draw: random.Random, killed: Counter[str], calm_seconds: float
) -> tuple[str | None, float]:
    """Choose a phase to wait for, and how long to wait from there; half of all, any instant."""
    if draw.random() < 0.5:
        return None, draw.uniform(0, calm_seconds)
    rarest = min(PHASES[:3], key=lambda name: killed[name])
    return rarest, draw.uniform(0, 0.01)


def attempt(directory: Path, name: str, when: tuple[str | None, float] | None) -> str | None:
    """Fork a run; None when it came to its end, else the phase in which it was killed."""
    phase[0] = PHASES.index("preparing")
    child = os.fork()
    if child == 0:
        run_module.run(tiny_run(directory, name), quiet=True)
        os._exit(0)
    if when is not None:
        target, delay = when
        while target is not None and phase[0] != PHASES.index(target) and alive(child):
            time.sleep(0.0005)
        time.sleep(delay)
        where = PHASES[phase[0]]
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return where
    assert os.WEXITSTATUS(status) == 0, f"{name} ended with status {status}"
    return None


def alive(child: int) -> bool:
    """Say whether a child still runs; a zombie does not."""
    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def mark_phases() -> None:
    """Let the run say what it is doing, in shared memory."""

    def marked(function: Callable[..., Any], during: str, after: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            phase[0] = PHASES.index(during)
            try:
                return function(*args, **kwargs)
            finally:
                phase[0] = PHASES.index(after)

        return wrapper

    Keeper.save = marked(Keeper.save, "saving", "training")  # type: ignore[method-assign]
    Judge.evaluate = marked(Judge.evaluate, "evaluating", "training")  # type: ignore[method-assign]
    run_module.load_and_prepare_french_data = marked(  # type: ignore[assignment]
        load_and_prepare_french_data, "preparing", "training"
    )


def compare(calm: Path, other: Path) -> list[str]:
    """Name what differs between two finished runs, clocks left out."""
    found = []
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        paths = [run / "checkpoints" / "step-000012" / name for run in (calm, other)]
        if sha256(paths[0]) != sha256(paths[1]):
            found.append(f"{other.name}: {name}")
    if timeless_metrics(calm) != timeless_metrics(other):
        found.append(f"{other.name}: metrics")
    if (calm / SAMPLES).read_text() != (other / SAMPLES).read_text():
        found.append(f"{other.name}: samples")
    best = [os.readlink(run / "checkpoints" / "best") for run in (calm, other)]
    if best[0] != best[1]:
        found.append(f"{other.name}: best")
    return found


if __name__ == "__main__":
    main()
