"""Results that are kept: one JSON file a claim, with when, where, of which source and how.

    bench/results/2026-11-24-step-8-layers-fp32.json
    {"claim": "step", "name": "step-8-layers-fp32", "date": ..., "commit": ..., "command": ...,
     "machine": {...}, "versions": {...}, "settings": {...}, "result": {...}}

`tables.py` makes the pages' tables of the newest file of each name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
NO_SETTINGS = {"save", "child", "directory", "files", "questions", "draw", "picture"}
"""Arguments that say where things lie, not how they were measured."""
PACKAGES = ("torch", "transformers", "trl", "peft", "tokenizers", "datasets", "numpy")


def finish(claim: str, name: str, options: argparse.Namespace, result: Any) -> dict[str, Any]:
    """Print a result with its circumstances as JSON; with `options.save`, keep it. Return it."""
    settings = {key: value for key, value in vars(options).items() if key not in NO_SETTINGS}
    whole = {
        "claim": claim, "name": name, "date": date.today().isoformat(), "commit": commit(),
        "command": command(sys.argv), "machine": machine(), "versions": versions(),
        "settings": settings, "result": result,
    }  # fmt: skip
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    print(text)
    if options.save:
        (RESULTS / f"{whole['date']}-{name}.json").write_text(text + "\n", encoding="utf-8")
    return whole


def command(words: list[str]) -> str:
    """Repeat a command without the places where its files lie."""
    short = [Path(word).name if "/" in word and Path(word).exists() else word for word in words]
    return " ".join(["python", f"bench/{Path(words[0]).name}", *short[1:]])


def commit() -> str:
    """Name the commit, and whether files of the source differ from it."""
    root = Path(__file__).parents[1]
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "src", "bench/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + (" with changes" if changed else "")


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Describe processor, cores, memory and, where torch finds one, the CUDA device."""
    import torch

    found = {"processor": processor(), "cores": os.cpu_count(), "memory_gb": memory_gb()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def memory_gb() -> int:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)


def versions() -> dict[str, str]:
    """Give Python's version, and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
