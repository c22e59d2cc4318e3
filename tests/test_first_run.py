"""Transcripts of newcomers show the commands of the scripts that make them, and no machine."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.read import read_rows
from quatrain.data.records import load_records

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("first-run.md", "first-hour.md")


def steps_of(name: str, bench: dict[str, ModuleType]) -> list[Any]:
    script: Any = bench[name.removesuffix(".md").replace("-", "_")]
    if name == "first-run.md":
        return list(script.STEPS)
    return [*script.BEGINNING, *(step for hour in script.HOURS for step in hour.steps)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_the_commands_of_its_script_in_their_order(
    name: str, bench: dict[str, ModuleType]
) -> None:
    shown = re.findall(r"^\$ (.*)$", (DOCS / name).read_text(encoding="utf-8"), re.MULTILINE)
    first = ("git clone REPOSITORY quatrain", "cd quatrain", ". .venv/bin/activate")
    assert [command for command in shown if command not in first] == [
        step.command for step in steps_of(name, bench)
    ]
    assert set(first) <= set(shown)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_the_words_of_its_script(name: str, bench: dict[str, ModuleType]) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    script: Any = bench[name.removesuffix(".md").replace("-", "_")]
    words = [script.HEAD, *(step.words for step in steps_of(name, bench))]
    words += [part for hour in getattr(script, "HOURS", ()) for part in (hour.title, hour.words)]
    assert [part for part in words if part not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_no_directory_of_a_machine(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert not re.findall(r"/(?:tmp|root|home|work|opt|Users)/\S*", text)


def test_the_secretarys_workbook_has_what_workbooks_gather(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    bench["newcomers"].write_workbook(tmp_path / "mairie.xlsx")
    records = load_records([str(tmp_path / "mairie.xlsx")], DataConfig())
    answers = [conversation.answers for conversation in records.conversations[-2:]]
    assert answers == [("4\u202f812",), ("15/01/2027",)]
    assert len(records.conversations) == 242
    assert [rejection.location for rejection in records.rejected] == ["mairie.xlsx:246"]
    assert str(records.notes[0]).endswith("not read: Notes")


def test_each_passage_of_the_museum_is_a_paragraph_of_its_texts_and_holds_what_is_answered(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    bench["newcomers"].write_museum(tmp_path)
    texts = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "textes").iterdir())
    columns = {"context": "Passage"}
    records = load_records([str(tmp_path / "musee.csv")], DataConfig(columns=columns))
    assert (len(records.conversations), records.rejected) == (50, [])
    passages = {
        row.value["Passage"] for row in read_rows(str(tmp_path / "musee.csv"), DataConfig())
    }
    assert len(passages) == 19
    assert all(passage in texts for passage in passages)


def test_the_teachers_files_ask_for_the_same_symbols_in_other_words(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    files = bench["newcomers"]
    asked = dict[str, list[Any]]()
    for name in ("LEARNT", "EXAMINED"):
        files.write_trl(tmp_path / f"{name}.jsonl", getattr(files, name))
        asked[name] = load_records([str(tmp_path / f"{name}.jsonl")], DataConfig()).conversations
    assert (len(asked["LEARNT"]), len(asked["EXAMINED"])) == (80, 20)
    assert {one.answers for one in asked["LEARNT"]} == {one.answers for one in asked["EXAMINED"]}
    assert not {one.group for one in asked["LEARNT"]} & {one.group for one in asked["EXAMINED"]}


def test_its_file_is_one_that_a_spreadsheet_in_german_writes(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    script: Any = bench["first_run"]
    script.write_csv(tmp_path / "fragen.csv", script.EXAMINED)
    lines = (tmp_path / "fragen.csv").read_bytes().decode("cp1252").splitlines()
    assert next(csv.reader(lines, delimiter=";")) == ["Frage", "Antwort"]
    rows = list(read_rows(str(tmp_path / "fragen.csv"), DataConfig()))
    assert rows[0].value["Frage"] == "Weißt du, wie die Hauptstadt von Österreich heißt?"


def test_installation_and_progress_are_left_out_and_nothing_else(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    printed = [
        "python -m pip install -e .", "Collecting torch", "touch x", ".venv/bin/quatrain demo",
        "step 1/9  loss 5", "step 2/9  loss 4", "step 3/9  loss 3", "step 4/9  loss 2", "done",
    ]  # fmt: skip
    assert bench["transcript"].shortened("\n".join(printed), tmp_path).splitlines() == [
        "python -m pip install -e .", "...", ".venv/bin/quatrain demo",
        "step 1/9  loss 5", "...", "step 4/9  loss 2", "done",
    ]  # fmt: skip
