"""Headers of the shapes of other trainers, in tables; columns of one name among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.errors import DataError

TURNS = json.dumps([{"role": "user", "content": "Un ?"}, {"role": "assistant", "content": "Deux"}])
TABLES = [
    {"prompt": "Un ?", "completion": "Deux"},
    {"query": "Un ?", "response": "Deux"},
    {"input": "Un ?", "output": "Deux"},
    {"Instruction": "Un ?", "Response": "Deux"},
    {"id": "7", "conversation": TURNS},
    {"id": "7", "dialogue": TURNS},
]
MARKED = {"prompt": "Un ?", "completion": "Deux"}
UNANSWERED = {"question": "Un ?", "context": "Deux.", "answer": None}


def csv(path: Path, row: dict[str, Any], title: str = "") -> str:
    cells = ('"' + str(cell).replace('"', '""') + '"' for cell in row.values())
    path.write_text(f"{title}{';'.join(row)}\n{';'.join(cells)}\n", encoding="utf-8")
    return str(path)


def workbook(path: Path, row: dict[str, Any], title: str = "") -> str:
    book = pytest.importorskip("openpyxl").Workbook()
    for cells in ([title.strip()] if title else [], [], list(row), list(row.values())):
        book.active.append(cells)
    book.save(path)
    return str(path)


def jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("make", [csv, workbook])
@pytest.mark.parametrize("row", TABLES, ids="+".join)
def test_a_header_of_another_trainer_is_found_below_a_title(
    tmp_path: Path, row: dict[str, Any], make: Any
) -> None:
    path = make(tmp_path / f"a.{'csv' if make is csv else 'xlsx'}", row, "Mon quiz\n\n")
    records = load_records([path], DataConfig())
    assert "skipped above it: 1" in records.notes[0]
    [conversation] = records.conversations
    assert [turn.content for turn in conversation.messages] == ["Un ?", "Deux"]


SAME = [
    ({"Prompt": "Un ?", "prompt": "Trois ?", "completion": "Deux"}, "question", "Prompt"),
    ({"Input": "Un ?", "input": "Trois ?", "output": "Deux"}, "question", "Input"),
    ({"prompt": "Un ?", "Response": "Deux", "response": "Trois"}, "answer", "Response"),
    ({"Messages": json.loads(TURNS), "messages": [], "id": 7}, "messages", "Messages"),
    ({"conversation": json.loads(TURNS), "Conversation": []}, "messages", "conversation"),
    ({"question": "Un ?", "SYSTEM": "a", "system": "b", "answer": "Deux"}, "system", "SYSTEM"),
]


@pytest.mark.parametrize(("row", "meaning", "column"), SAME, ids=str)
def test_columns_of_one_name_must_be_chosen_and_the_choice_is_obeyed(
    tmp_path: Path, row: dict[str, Any], meaning: str, column: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", row)
    with pytest.raises(DataError, match=f"could both be the {meaning}") as caught:
        load_records([path], DataConfig())
    assert f"data.columns.{meaning}={column}" in caught.value.remedy
    [conversation] = load_records([path], DataConfig(columns={meaning: column})).conversations
    assert [turn.content for turn in conversation.messages][-2:] == ["Un ?", "Deux"]


def test_names_are_told_apart_before_readings_are(tmp_path: Path) -> None:
    row = {"Question": "Un ?", "question": "Trois ?", "answer": "Deux", "response": "Quatre"}
    path = jsonl(tmp_path / "a.jsonl", row)
    with pytest.raises(DataError, match="could both be the question"):
        load_records([path], DataConfig())
    with pytest.raises(DataError, match="can be read in 2 ways"):
        load_records([path], DataConfig(columns={"question": "Question"}))
    columns = {"question": "Question", "answer": "response"}
    [conversation] = load_records([path], DataConfig(columns=columns)).conversations
    assert [turn.content for turn in conversation.messages] == ["Un ?", "Quatre"]


NOT_READ = [
    {"messages": json.loads(TURNS), "Prompt": "a", "prompt": "b"},
    {"messages": json.loads(TURNS), "Context": "a", "context": "b"},
    {"question": "Un ?", "answer": "Deux", "Text": "a", "text": "b"},
    {"instruction": "Un ?", "output": "Deux", "Prompt": "a", "prompt": "b"},
]


@pytest.mark.parametrize("row", NOT_READ, ids="+".join)
def test_names_that_a_shape_does_not_read_may_be_alike(tmp_path: Path, row: Any) -> None:
    [conversation] = load_records([jsonl(tmp_path / "a.jsonl", row)], DataConfig()).conversations
    assert [turn.content for turn in conversation.messages] == ["Un ?", "Deux"]


@pytest.mark.parametrize("language", ["fr", "en"])
@pytest.mark.parametrize("value", [True, False])
def test_verdicts_of_a_workbook_are_preferences(tmp_path: Path, language: str, value: bool) -> None:
    path = workbook(tmp_path / "a.xlsx", {**MARKED, "label": value})
    with pytest.raises(DataError, match="learns answers, not preferences"):
        load_records([path], DataConfig(sheet_language=language))


@pytest.mark.parametrize("language", ["fr", "en"])
def test_a_workbook_may_say_that_nothing_answers(tmp_path: Path, language: str) -> None:
    path = workbook(tmp_path / "a.xlsx", {**UNANSWERED, "is_impossible": True})
    [conversation] = load_records([path], DataConfig(sheet_language=language)).conversations
    assert conversation.answers == ()
    assert conversation.messages[-1].content == DataConfig().no_answer
