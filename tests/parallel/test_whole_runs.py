"""Runs of several processes go on in others, after a stop or a kill, as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks import forks, reported

pytestmark = forks
NEXT = 1e-6
"""Of the next loss: sums of float32 in another order."""


def test_a_run_goes_on_in_other_numbers_of_processes(tmp_path: Path) -> None:
    runs = ("2:2", "1:1", "2:1")
    for name, found in reported("whole_runs.py", str(tmp_path), "resume", *runs).items():
        assert found["next"] < NEXT, name
        assert found["tokens"], name
        assert found["experts"] == [4, 4], name


@pytest.mark.slow
def test_kills_of_one_process_change_no_bit(tmp_path: Path) -> None:
    report = reported("whole_runs.py", str(tmp_path), "kills", "--world", "2", "--kills", "3")
    assert report["kills"] == 3
    assert report["codes"] == [7]
    assert report["different"] == []
