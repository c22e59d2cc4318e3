"""The transcript of a first run shows its script's commands, and names no machine."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.read import read_rows

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-run.md"


@pytest.fixture(scope="module")
def script(bench: dict[str, ModuleType]) -> Any:
    return bench["first_run"]


def test_the_page_shows_the_commands_of_the_script_in_their_order(script: Any) -> None:
    shown = re.findall(r"^\$ (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    first = ("git clone REPOSITORY quatrain", "cd quatrain", ". .venv/bin/activate")
    assert [command for command in shown if command not in first] == [
        step.command for step in script.STEPS
    ]
    assert set(first) <= set(shown)


def test_the_page_names_no_directory_of_a_machine() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"/(?:tmp|root|home|work|opt|Users)/\S*", text)


def test_its_file_is_one_that_a_spreadsheet_in_german_writes(script: Any, tmp_path: Path) -> None:
    script.write_csv(tmp_path / "fragen.csv", script.EXAMINED)
    lines = (tmp_path / "fragen.csv").read_bytes().decode("cp1252").splitlines()
    assert next(csv.reader(lines, delimiter=";")) == ["Frage", "Antwort"]
    rows = list(read_rows(str(tmp_path / "fragen.csv"), DataConfig()))
    assert rows[0].value["Frage"] == "Weißt du, wie die Hauptstadt von Österreich heißt?"


def test_installation_and_progress_are_left_out_and_nothing_else(
    script: Any, tmp_path: Path
) -> None:
    printed = [
        "python -m pip install -e .", "Collecting torch", "touch x", ".venv/bin/quatrain demo",
        "step 1/9  loss 5", "step 2/9  loss 4", "step 3/9  loss 3", "step 4/9  loss 2", "done",
    ]  # fmt: skip
    assert script.shortened("\n".join(printed), tmp_path).splitlines() == [
        "python -m pip install -e .", "...", ".venv/bin/quatrain demo",
        "step 1/9  loss 5", "...", "step 4/9  loss 2", "done",
    ]  # fmt: skip
