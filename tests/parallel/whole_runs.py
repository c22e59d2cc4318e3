"""Whole runs in forked processes: stopped and resumed by others, or killed again and again.

    PYTHONPATH=tests python tests/parallel/whole_runs.py DIRECTORY resume 4:2 1:1 2:2 4:4
    PYTHONPATH=tests python tests/parallel/whole_runs.py DIRECTORY kills --world 2 --kills 20

A run is written PROCESSES:EXPERT_PARALLEL. `resume` trains the first one to its end, and a copy of
it half way; then every one of them from there. `kills` sends SIGKILL to a random process at a
random instant, until a run is done. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from faults import Child
from forked import fork
from safetensors.torch import load_file

from quatrain.config import Config
from quatrain.files import sha256
from quatrain.parallel import launch
from quatrain.parallel.run import run_together
from quatrain.parallel.seat import Seat
from quatrain.parallel.team import Team
from quatrain.parallel.watch import FOLDER, TOLD
from quatrain.recipe import build
from quatrain.train.alone import Alone
from quatrain.train.run import run
from tiny_run import timeless_metrics, tiny_run

HALF_WAY, STEPS = 3, 6
EXPERTS = 4
"""Of a layer of the tiny run."""


def config_of(directory: Path, name: str, experts: int, **train: Any) -> Config:
    train = {"batch_size": 4, "max_steps": STEPS, "eval_interval": STEPS, **train}
    values = tiny_run(directory, name, **train).model_dump(mode="json", exclude_unset=True)
    return build({**values, "parallel": {"expert_parallel": experts, "timeout": "60s"}})


def stop_half_way() -> None:
    """Stop before the step after HALF_WAY, as a signal would."""
    for team in (Alone, Team):
        original, calls = team.any, [0]

        def asked(self: Any, flag: bool, original: Any = original, calls: Any = calls) -> bool:
            calls[0] += 1
            return bool(original(self, flag or calls[0] > HALF_WAY))

        team.any = asked  # type: ignore[method-assign]


def start(config: Config, world: int, meet: Path, stops: bool = False) -> list[Child]:
    """Start the processes of a run."""
    os.environ["QUATRAIN_MEET"] = str(meet)
    meet.unlink(missing_ok=True)

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        if stops:
            stop_half_way()
        if world == 1:
            run(config, quiet=True)
        else:
            run_together(config, Seat(rank, world, rank, socket.gethostname()), quiet=True)

    return [Child(fork(lambda rank=rank: process(rank))) for rank in range(world)]  # type: ignore[misc]


def finish(children: list[Child], config: Config) -> int:
    """Wait as the launcher does, and end those that are left; give the exit code."""
    code = launch.wait(children, config.run_dir / FOLDER / TOLD)
    for child in children:
        if child.poll() is None:
            os.kill(child.number, signal.SIGKILL)
            os.waitpid(child.number, 0)
    return code


def resume(directory: Path, runs: list[str]) -> dict[str, Any]:
    sizes = [tuple(map(int, one.split(":"))) for one in runs]
    world, experts = sizes[0]
    whole = config_of(directory, "whole", experts)
    assert finish(start(whole, world, directory / "meet"), whole) == 0
    half = config_of(directory, "half", experts)
    assert finish(start(half, world, directory / "meet", stops=True), half) == 0
    report = {}
    for name, (world, experts) in zip(runs, sizes, strict=True):
        config = config_of(directory, f"from-{name.replace(':', '-')}", experts)
        shutil.copytree(half.run_dir, config.run_dir, symlinks=True)
        assert finish(start(config, world, directory / "meet"), config) == 0, name
        report[name] = apart(whole.run_dir, config.run_dir)
    return report


def apart(whole: Path, other: Path) -> dict[str, Any]:
    """Say how far the losses after the resumption are from those of the uninterrupted run."""
    rows = [[row for row in timeless_metrics(one) if "loss" in row] for one in (whole, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    later = [(a, b) for a, b in zip(*rows, strict=True) if a["step"] > HALF_WAY]
    return {
        "next": max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in later[:1]),
        "all": max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in later),
        "tokens": all(a["tokens"] == b["tokens"] for a, b in later),
        "loads": sum(a["expert_load"] != b["expert_load"] for a, b in later),
        "experts": [experts_kept(whole, other), EXPERTS],
    }


def experts_kept(whole: Path, other: Path) -> int:
    """Count the experts that a resumed run has, and that are those of the uninterrupted one."""
    name = Path("checkpoints") / f"step-{STEPS:06d}" / "model.safetensors"
    one, resumed = (load_file(run / name) for run in (whole, other))
    stacks = [name for name in one if ".experts." in name]
    far = [((one[s] - resumed[s]).abs().amax((1, 2)) / one[s].abs().amax((1, 2))) for s in stacks]
    return int((torch.stack(far) < 1e-3).all(0).sum())


def kills(directory: Path, world: int, experts: int, number: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    calm = config_of(directory, "calm", experts, save_interval=2)
    begun = time.monotonic()
    assert finish(start(calm, world, directory / "meet"), calm) == 0
    seconds = time.monotonic() - begun
    done, slowest, runs, codes, different = 0, 0.0, 0, set[int](), list[str]()
    while done < number:
        config = config_of(directory, f"killed-{runs}", experts, save_interval=2)
        while True:
            children = start(config, world, directory / "meet")
            until = time.monotonic() + draw.uniform(0, seconds)
            while time.monotonic() < until and children[0].poll() is None:
                time.sleep(0.01)
            if children[0].poll() is not None or done >= number:
                assert finish(children, config) == 0
                break
            os.kill(children[draw.randrange(world)].number, signal.SIGKILL)
            since = time.monotonic()
            codes.add(finish(children, config))
            slowest = max(slowest, time.monotonic() - since)
            done += 1
        different += differences(calm.run_dir, config.run_dir)
        runs += 1
    return {"kills": done, "runs": runs, "codes": sorted(codes), "slowest": round(slowest, 1),
            "seconds": round(seconds, 1), "different": different}  # fmt: skip


def differences(calm: Path, other: Path) -> list[str]:
    last = calm / "checkpoints" / f"step-{STEPS:06d}"
    found = [
        f"{other.name}: {name}"
        for name in ("model.safetensors", "optimizer.safetensors", "state.json")
        if sha256(last / name) != sha256(other / "checkpoints" / last.name / name)
    ]
    if timeless_metrics(calm) != timeless_metrics(other):
        found.append(f"{other.name}: metrics")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("what", choices=("resume", "kills"))
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--experts", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    if options.what == "resume":
        report = resume(options.directory, options.runs)
    else:
        report = kills(options.directory, options.world, options.experts, options.kills,
                       options.seed)  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
