"""Let one of several forked processes of a run fail, in one way after another.

    PYTHONPATH=tests python tests/parallel/faults.py DIRECTORY --world 2 killed hung recipe

Prints one JSON object: by fault, the exit code as the launcher gives it, the seconds that passed
from the fault on (or from the start), how each process ended, and the lines that they said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from forked import fork

from quatrain.config import Config
from quatrain.parallel import launch
from quatrain.parallel import run as together
from quatrain.parallel.seat import Seat
from quatrain.parallel.team import Team
from quatrain.parallel.watch import FOLDER, TOLD
from quatrain.recipe import build
from quatrain.train import checkpoint
from quatrain.train import run as run_module
from tiny_run import tiny_run

TIMEOUT = 4.0
AT_STEP = 2


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ValueError("une panne")


def have_no_memory() -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def send_another_shape() -> None:
    dist.all_reduce(torch.zeros(7))


IN_A_STEP: dict[str, Callable[[], None]] = {
    "killed": kill_itself,
    "raised": fail,
    "memory": have_no_memory,
    "hung": lambda: time.sleep(1000),
    "stopped": stop_itself,
    "shape": send_another_shape,
}


def broken(fault: str, rank: int, config: Config, place: Path) -> Config:
    """Prepare a fault of this process, which is the last one (or the first, for its disk)."""
    if fault in IN_A_STEP:
        mark = Team.mark

        def marked(self: Team, step: int) -> None:
            mark(self, step)
            if step == AT_STEP:
                (place / "since").write_text(str(time.monotonic()))
                IN_A_STEP[fault]()

        Team.mark = marked  # type: ignore[method-assign]
    elif fault == "recipe":
        return config.replace(train=config.train.replace(learning_rate=1e-4))
    elif fault == "folder":
        return config.replace(run_dir=place / "elsewhere")
    elif fault == "data":
        run_module.fingerprint = lambda *_: "0" * 64  # type: ignore[assignment]
    elif fault == "not finite":
        norm = Team.norm

        def spoilt(self: Team, model: Any) -> torch.Tensor:
            next(model.parameters()).grad.to_local().fill_(float("nan"))
            return norm(self, model)

        Team.norm = spoilt  # type: ignore[method-assign]
    elif fault == "clock":
        now = time.time
        time.time = lambda: now() + 86400  # type: ignore[assignment]
    elif fault == "disk":
        checkpoint.write_file = no_space
    return config


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


class Child:
    """A forked process, as launch.wait sees one."""

    def __init__(self, number: int) -> None:
        self.number, self.code = number, None

    def poll(self) -> int | None:
        if self.code is None:
            done, status = os.waitpid(self.number, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code


def process(fault: str, rank: int, world: int, config: Config, place: Path) -> None:
    sys.stderr.flush()
    said = os.open(place / f"said-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)
    together._TO_JOIN = timedelta(seconds=3)
    os.environ["RANK"] = str(rank)
    if rank == (0 if fault == "disk" else world - 1):
        config = broken(fault, rank, config, place)
    together.run_together(config, Seat(rank, world, rank, socket.gethostname()), quiet=True)


def attempt(fault: str, world: int, directory: Path) -> dict[str, Any]:
    place = directory / fault.replace(" ", "-")
    place.mkdir(parents=True)
    values = tiny_run(place, batch_size=4, max_steps=4, eval_interval=4).model_dump(
        mode="json", exclude_unset=True
    )
    config = build({**values, "parallel": {"timeout": f"{TIMEOUT:g}s"}})
    os.environ["QUATRAIN_MEET"] = str(place / "meet")
    busy = socket.socket()
    if fault == "port":
        del os.environ["QUATRAIN_MEET"]
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(busy.getsockname()[1])}
        os.environ["WORLD_SIZE"] = str(world)
    begun = time.monotonic()
    coming = range(world - 1) if fault == "missing" else range(world)
    children = [
        Child(fork(lambda rank=rank: process(fault, rank, world, config, place)))  # type: ignore[misc]
        for rank in coming
    ]
    code = launch.wait(children, config.run_dir / FOLDER / TOLD)
    since = place / "since"
    seconds = time.monotonic() - (float(since.read_text()) if since.exists() else begun)
    ended = [child.poll() for child in children]
    for child in children:
        if child.code is None:
            os.kill(child.number, signal.SIGKILL)
            os.waitpid(child.number, 0)
    busy.close()
    said = [(place / f"said-{rank}.txt").read_text() for rank in coming]
    traces = [one.read_text() for one in sorted((config.run_dir / FOLDER).glob("trace-*"))]
    return {"code": code, "seconds": round(seconds, 1), "ended": ended, "said": said,
            "traces": traces}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("faults", nargs="+")
    parser.add_argument("--world", type=int, default=2)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    report = {one: attempt(one, options.world, options.directory) for one in options.faults}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
