"""metrics.jsonl and samples.jsonl survive cut lines, unusual characters and resumption."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from quatrain.train.log import METRICS, SAMPLES, Display, Journal, read_rows


def test_line_separators_inside_an_answer_cut_no_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path, -1)
    for step, answer in enumerate(["un", "deux\u2028trois\x85", "quatre"]):
        journal.sample({"step": step, "answer": answer})
    assert [row["step"] for row in read_rows(tmp_path / SAMPLES)] == [0, 1, 2]
    Journal(tmp_path, 1)
    assert [row["step"] for row in read_rows(tmp_path / SAMPLES)] == [0, 1]


@pytest.mark.parametrize("rest", [b'{"step": 2, "loss": 1.', '{"answer": "é'.encode()[:-1]])
def test_a_line_that_a_kill_cut_is_left_out_and_said(
    tmp_path: Path, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / METRICS
    path.write_bytes(b'{"step": 1}\n' + rest)
    with caplog.at_level(logging.WARNING):
        assert read_rows(path) == [{"step": 1}]
    assert "metrics.jsonl:2 is incomplete" in caplog.text


def test_a_journal_that_cannot_write_warns_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal, opened = Journal(tmp_path, -1), Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == METRICS:
            raise OSError("full")
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        journal.metrics({"step": 1})
        journal.metrics({"step": 2})
    journal.metrics({"step": 3})
    assert caplog.text.count("cannot be written (full)") == 1
    assert [row["step"] for row in read_rows(tmp_path / METRICS)] == [3]


def test_in_a_notebook_progress_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    display = Display(num_steps=20, first_step=0)
    display.trained({"step": 1, "loss": 2.5, "lr": 0.1, "tokens_per_second": 100.0})
    display.close()
    assert capsys.readouterr().err == "step 1/20  loss 2.500  lr 1.0e-01  100 tok/s\n"
