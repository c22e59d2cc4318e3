"""What every comparison shares: a child process a side, in turn, and a calibration around each.

A script runs itself with `--child NAME` for each side, one child alive at a time and the order
turned round at every repeat, so that a slow phase of the machine falls on both. A child prints one
JSON object as its last line. With a floor, a run that a slow phase touched is run again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

Found = dict[str, list[dict[str, Any]]]
TRIES = 4


def alternate(
    script: str, names: Sequence[str], repeats: int, *more: str, floor: float = 0.0
) -> Found:
    """Run every side `repeats` times, in turn; `more` are arguments after the script's own."""
    found: Found = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            found[name].append(measured(script, name, more, floor))
    return found


def measured(script: str, name: str, more: Sequence[str], floor: float) -> dict[str, Any]:
    """Run one child until the machine was fast around it, in GFLOP/s; return what it prints."""
    command = [sys.executable, script, *sys.argv[1:], "--child", name, *more]
    for _ in range(TRIES):
        before = gemm_rate() if floor else None
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if before is not None:
            result["gemm_gflops"] = [before, gemm_rate()]
        kept = before is None or min(result["gemm_gflops"]) >= floor
        print(json.dumps({"who": name, "kept": kept, **result}), flush=True)
        if kept:
            return result
    sys.exit(f"{script}: {name} was slow {TRIES} times, under {floor} GFLOP/s; try another hour")


def gemm_rate(size: int = 1024, repeats: int = 9) -> float:
    """Time a float32 matrix product of this process's threads; return the median in GFLOP/s."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds[1:]) / 1e9


class Watch:
    """Reads this process's anonymous memory every few milliseconds, and keeps the peak."""

    def __enter__(self) -> Watch:
        self.before = self.peak = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, anonymous())

    @property
    def peak_mb(self) -> int:
        """How far the memory rose, in MB."""
        return round((self.peak - self.before) / 10**6)


def anonymous() -> int:
    """Return this process's anonymous resident memory in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) for x in status.splitlines() if x.startswith("RssAnon")) * 1024
