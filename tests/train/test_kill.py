"""A run that is killed again and again ends like one that was not interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks runs, which this system cannot")
def test_thirty_kills_at_random_instants_change_no_bit(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "killer.py"), str(tmp_path), "--kills", "30"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= 30
    assert {"training", "saving", "evaluating"} <= set(report["by_phase"])
    assert report["different"] == []
