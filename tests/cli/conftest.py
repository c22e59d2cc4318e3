"""The command line, run in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from outcome import Outcome
from quatrain.cli.main import main


@pytest.fixture
def quatrain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Call a verb by its words; what is typed, if anything, stands on its stdin."""

    def call(*words: str | Path, typed: str | None = None) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["quatrain", *map(str, words)])
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
