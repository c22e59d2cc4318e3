"""Kill runs with SIGKILL at random instants until they are done, and compare with a calm one.

    PYTHONPATH=tests python tests/train/killer.py DIRECTORY --kills 30 --seed 0 [--base gguf]

With --base, adapters learn beside a mapped GGUF file, or beside matrices in nf4; that base is
trained first.

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
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (a second, which each attempt would spend anew)

from frozen_bases import adapters_on, in_blocks, trained_base
from quatrain.config import Config
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.files import sha256
from quatrain.train import run as run_module
from quatrain.train.checkpoint import Keeper
from quatrain.train.judge import Judge
from quatrain.train.log import SAMPLES
from tiny_run import questions_file, timeless_metrics, tiny_run

Configure = Callable[[str], Config]
NF4 = {"quantize": "nf4"}
PHASES = ("training", "saving", "evaluating", "preparing")
phase = mmap.mmap(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", choices=("gguf", "nf4"))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    questions_file(options.directory)
    configure: Configure = partial(tiny_run, options.directory)
    if options.base:
        base = options.directory / "base"
        assert attempt(lambda: make_base(base), None) is None
        file, model = (base / "q4_1.gguf", {}) if options.base == "gguf" else (base / "text", NF4)
        configure = partial(adapters_on, options.directory, file, **model)
    mark_phases()
    started = time.monotonic()
    assert attempt(lambda: train(configure, "calm"), None) is None
    calm_seconds = time.monotonic() - started
    draw, killed, runs = random.Random(options.seed), Counter[str](), 0
    different: list[str] = []
    while killed.total() < options.kills:
        name = f"killed-{runs}"
        work = partial(train, configure, name)
        while where := attempt(work, plan(draw, killed, calm_seconds)):
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


def make_base(directory: Path) -> None:
    directory.mkdir()
    in_blocks(trained_base(directory))


def train(configure: Configure, name: str) -> None:
    run_module.run(configure(name), quiet=True)


def attempt(work: Callable[[], None], when: tuple[str | None, float] | None) -> str | None:
    """Fork a run; None when it came to its end, else the phase in which it was killed."""
    phase[0] = PHASES.index("preparing")
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
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
    assert os.WEXITSTATUS(status) == 0, f"a run ended with status {status}"
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
    last = calm / "checkpoints" / "step-000012"
    weights = next(last.glob("*model.safetensors")).name
    for name in (weights, "optimizer.safetensors", "state.json"):
        if sha256(last / name) != sha256(other / "checkpoints" / last.name / name):
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
