"""The page of a run in progress: written when due, cheap, and no failure of it stops the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import quatrain.report.page as page_module
from quatrain.train.report import Reporter
from quatrain.train.run import run
from tiny_run import tiny_run


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(monkeypatch: pytest.MonkeyPatch, clock: Clock, takes: float) -> list[float]:
    written: list[float] = []

    def write(*_: Any) -> None:
        written.append(clock.now)
        clock.now += takes

    monkeypatch.setattr(page_module, "write_report", write)
    return written


def test_a_run_leaves_a_page_that_tells_its_end(tmp_path: Path) -> None:
    run_dir = run(tiny_run(tmp_path), quiet=True).run_dir
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "12" in page
    assert page.count('class="heat"') == 2
    assert "</html>" in page


def test_pages_take_a_hundredth_of_the_time_and_the_last_is_always_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    written = counted(monkeypatch, clock, takes=1.0)
    reporter = Reporter(tmp_path, "en", clock)
    for now in (0.0, 50.0, 100.0, 101.5, 102.0):
        clock.now = max(clock.now, now)
        reporter.refresh()
    assert written == [0.0, 101.5]  # 1 s, then 100 s of rest
    reporter.refresh(last=True)
    assert len(written) == 3


def test_a_page_that_fails_is_one_warning_and_the_run_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no page")

    monkeypatch.setattr(page_module, "write_report", fail)
    monkeypatch.setattr("quatrain.train.report._SHARE", 1e9)  # at every evaluation
    with caplog.at_level(logging.WARNING):
        result = run(tiny_run(tmp_path), quiet=True)
    assert result.state.finished
    assert caplog.text.count("report.html cannot be written (no page)") == 1
    assert not (result.run_dir / "report.html").exists()
