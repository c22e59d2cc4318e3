"""Start several processes on this machine, and end them together.

They meet through a file, so that no port is open to other machines. The processes watch one another
(watch.py) and say what happened; this one only waits, passes signals on, and ends those that stay
when one is gone. torch is not imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from quatrain.errors import RankError
from quatrain.parallel.watch import say_fault

_LOOKS = 0.1
"""Seconds between two looks at the processes."""
_GRACE = 8.0
"""Seconds that the others have to end by themselves, once one has failed."""


class Started(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Give its exit code, or minus its signal; None while it runs."""


def launch(words: Sequence[str], processes: int, told: Path) -> int:
    """Run `quatrain` with these words in several processes; give the exit code of the run.

    Args:
        words: of the command line.
        processes: how many.
        told: exists if the processes have said themselves what happened.
    """
    with tempfile.TemporaryDirectory(prefix="quatrain-") as folder:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "quatrain", *words],
                env=_environment(rank, processes, Path(folder) / "meet"),
                stdout=None if rank == 0 else subprocess.DEVNULL,
            )
            for rank in range(processes)
        ]
        before = {one: signal.signal(one, lambda number, _: _pass_on(started, number))
                  for one in (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
        try:
            return wait(started, told)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for one in started:
                one.kill()
                one.wait()


def _environment(rank: int, processes: int, meet: Path) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {
        "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo",
        **os.environ,
        "TORCH_CPP_LOG_LEVEL": "ERROR", "QUATRAIN_MEET": str(meet),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
    }  # fmt: skip


def _pass_on(started: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Give a signal to all; one from a terminal has reached them already."""
    if number == signal.SIGINT and os.isatty(0):
        return
    for one in started:
        if one.poll() is None:
            one.send_signal(number)


def wait(started: Sequence[Started], told: Path) -> int:
    """Wait until all have ended, or some seconds after one has failed; give the exit code."""
    until = None
    failed: tuple[int, int] | None = None
    while True:
        codes = [one.poll() for one in started]
        bad = [(rank, code) for rank, code in enumerate(codes) if code]
        if bad and until is None:
            until, failed = time.monotonic() + _GRACE, bad[0]
        over = None not in codes or (until is not None and time.monotonic() > until)
        if over:
            break
        time.sleep(_LOOKS)
    if failed is None:
        return 0
    leader, (rank, code) = codes[0], failed
    if leader is not None and leader > 0 and leader != RankError.exit_code:
        return leader  # it has told its own error, or stopped as it was asked to
    if not told.exists() and code < 0:
        name = signal.Signals(-code).name
        say_fault({"rank": rank, "host": os.uname().nodename, "how": "Q703.signal", "name": name})
    return RankError.exit_code
