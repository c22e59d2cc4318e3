"""Run several scripts of this folder one after the other, within a limit of time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LEAST = 20.0
"""Seconds under which no further part is begun."""


def run_parts(parts: Mapping[str, Sequence[str]], seconds: float, more: Sequence[str]) -> int:
    """Run each part while there is time; say on stderr how long it took, and which ones failed.

    Args:
        parts: for each name a script and its arguments.
        seconds: for all of them.
        more: arguments for every script.

    Returns:
        1 when any part failed, 0 otherwise.
    """
    begun, failed = time.monotonic(), []
    for name, command in parts.items():
        part_begun = time.monotonic()
        left = seconds - (part_begun - begun)
        if left < LEAST or run(*command, *more, seconds=left):
            failed.append(name)
        print(f"{name}: {time.monotonic() - part_begun:.0f} s", file=sys.stderr, flush=True)
    if failed:
        print(f"failed, or out of time: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(script: str, *words: str, seconds: float) -> int:
    """Run a script of this folder; give its exit status, and 124 when its time was up.

    A script that has to end takes the child that it measures with it.
    """
    command = [sys.executable, str(Path(__file__).parent / script), *words]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
