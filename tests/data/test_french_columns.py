"""The usual columns under their French names."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.errors import DataError

CONTEXT = "Marie est née à Lyon."


def users(tmp_path: Path, row: dict[str, Any], **options: Any) -> list[str]:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    [one] = load_records([str(path)], DataConfig(**options)).conversations
    return [message.content for message in one.messages]


NAMES = ["Contexte", "contexte", "CONTEXTE", " Contexte ", "Passage", "Texte", "Extrait",
         "Document", "Paragraphe"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_text_beside_question_and_answer_is_the_context(tmp_path: Path, name: str) -> None:
    row = {"Question": "Où ?", name: CONTEXT, "Réponse": "à Lyon"}
    user, said = users(tmp_path, row)
    assert CONTEXT in user
    assert "Où ?" in user
    assert said == "à Lyon"


@pytest.mark.parametrize(
    ("instruction", "entry", "output"),
    [("Consigne", "Entrée", "Sortie"), ("Instruction", "Entrée", "Sortie"),
     ("consigne", "entree", "sortie"), ("consigne", "entrée", "réponse")],
)  # fmt: skip
def test_instruction_entry_and_output(
    tmp_path: Path, instruction: str, entry: str, output: str
) -> None:
    row = {instruction: "Résumez.", entry: CONTEXT, output: "Née à Lyon."}
    for form in ("NFC", "NFD"):
        spelt = {unicodedata.normalize(form, name): value for name, value in row.items()}  # type: ignore[arg-type]
        user, said = users(tmp_path, spelt)
        assert "Résumez." in user
        assert CONTEXT in user
        assert said == "Née à Lyon."


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Questions", "Réponses"), ("Question :", "Réponse :"), ("Question\u00a0:", "Réponse\u202f:"),
     ("Q", "R"), ("Q.", "R."), ("Q", "A"), ("Demande", "Réponse"), ("Questions", "Answers")],
)  # fmt: skip
def test_headings_as_people_write_them(tmp_path: Path, question: str, answer: str) -> None:
    assert users(tmp_path, {question: "Où ?", answer: "à Lyon"}) == ["Où ?", "à Lyon"]
    user, _ = users(tmp_path, {question: "Où ?", "Texte": CONTEXT, answer: "à Lyon"})
    assert CONTEXT in user


def test_headings_that_differ_in_their_punctuation_alone_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Question"):
        users(tmp_path, {"Question": "Où ?", "Question :": "Quand ?", "Réponse": "à Lyon"})


def test_entry_and_output_alone_are_a_question_and_an_answer(tmp_path: Path) -> None:
    assert users(tmp_path, {"Entrée": "Où ?", "Sortie": "à Lyon"}) == ["Où ?", "à Lyon"]


@pytest.mark.parametrize("name", ["Système", "systeme"])
def test_the_system_message(tmp_path: Path, name: str) -> None:
    row = {name: "Sois bref.", "Question": "Où ?", "Réponse": "à Lyon"}
    assert users(tmp_path, row) == ["Sois bref.", "Où ?", "à Lyon"]


def test_a_list_of_answers(tmp_path: Path) -> None:
    row = {"Contexte": CONTEXT, "Question": "Où ?", "Réponses": ["à Lyon", "Lyon"]}
    user, said = users(tmp_path, row)
    assert CONTEXT in user
    assert said == "à Lyon"


@pytest.mark.parametrize(
    "pair",
    [("Contexte", "Context"), ("Passage", "Extrait"), ("Contexte", "Entrée"),
     ("Texte", "Document")],
)  # fmt: skip
def test_two_texts_are_an_error_that_shows_how_to_choose(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    row = {"Question": "Où ?", pair[0]: CONTEXT, pair[1]: "Autre texte.", "Réponse": "à Lyon"}
    with pytest.raises(DataError, match=f"2 ways:(.|\n)*data.columns.context={pair[1]}"):
        users(tmp_path, row)
    assert CONTEXT in users(tmp_path, row, columns={"context": pair[0]})[0]


@pytest.mark.parametrize("name", ["document", "passage", "Texte"])
def test_beside_a_column_context_other_texts_are_kept(tmp_path: Path, name: str) -> None:
    row = {"question": "Où ?", "context": CONTEXT, name: "x", "answer": "à Lyon"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [one] = load_records([str(path)], DataConfig()).conversations
    assert CONTEXT in one.messages[0].content
    assert one.fields[name] == "x"


def test_two_texts_beside_listed_answers_are_an_error_too(tmp_path: Path) -> None:
    row = {"question": "Où ?", "passage": CONTEXT, "extrait": "x", "answers": ["à Lyon"]}
    with pytest.raises(DataError, match=r"2 ways:(.|\n)*context=extrait"):
        users(tmp_path, row)
    assert CONTEXT in users(tmp_path, row, columns={"context": "passage"})[0]


def test_a_document_beside_turns_keeps_its_name(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Où ?"}, {"role": "assistant", "content": "à Lyon"}]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": turns, "document": "a"}) + "\n", encoding="utf-8")
    [one] = load_records([str(path)], DataConfig()).conversations
    assert one.fields["document"] == "a"
