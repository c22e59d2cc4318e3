"""A run that is killed again and again ends like one that was not interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks runs, which this system cannot")


def killed(directory: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "killer.py"), str(directory), *words],
        capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.slow
@forks
def test_a_dozen_kills_at_random_instants_change_no_bit(tmp_path: Path) -> None:
    report = killed(tmp_path, "--kills", "12")
    assert report["kills"] >= 12
    assert {"training", "saving", "evaluating"} <= set(report["by_phase"])
    assert report["different"] == []


@pytest.mark.slow
@forks
@pytest.mark.parametrize("base", ["gguf", "nf4"])
def test_kills_beside_a_stored_base_change_no_bit(base: str, tmp_path: Path) -> None:
    report = killed(tmp_path, "--kills", "3", "--base", base)
    assert report["kills"] >= 3
    assert report["different"] == []
