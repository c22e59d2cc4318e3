"""Questions without an answer: trained on as data.no_answer, and marked as such throughout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import Config, DataConfig
from quatrain.data.inspect import inspect
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.records import Records, holdout, load_records
from quatrain.data.spool import temporary_spool

NONE = "Sans réponse dans le texte."
CONTEXT = "Ada vit à Lille."


def article(*qas: dict[str, Any], title: str = "Ada") -> dict[str, Any]:
    return {"title": title, "paragraphs": [{"context": CONTEXT, "qas": list(qas)}]}


ANSWERED = {"question": "Où vit Ada ?", "answers": [{"text": "à Lille", "answer_start": 8}]}
ASKED = {"question": "Quel âge a Ada ?"}
EMPTY = {"text": [], "answer_start": []}
FORMS = [
    article({**ASKED, "answers": [], "is_impossible": True}),
    article({**ASKED, "answers": [], "is_impossible": True, "plausible_answers": [{"text": "a"}]}),
    article({**ASKED, "answers": []}),
    article({**ASKED, "answers": None, "is_impossible": True}),
    {**ASKED, "context": CONTEXT, "answers": EMPTY},
    {**ASKED, "context": CONTEXT, "answers": []},
    {**ASKED, "context": CONTEXT, "answers": EMPTY, "is_impossible": "True"},
    {**ASKED, "context": CONTEXT, "answers": [], "is_impossible": 1},
    {**ASKED, "context": CONTEXT, "answer": "", "answers": []},
    {**ASKED, "context": CONTEXT, "answer": None, "is_impossible": True},
]
CONTRADICTIONS = [
    (article({**ANSWERED, "is_impossible": True}), "is_impossible is true, but there is an answer"),
    (
        article({**ASKED, "answers": [], "is_impossible": False}),
        "is_impossible is false, but there",
    ),
    (article({**ASKED, "answers": None}), "there is no answer: the context does not"),
    (article({**ASKED, "answers": [], "is_impossible": "peut-être"}), "must be true or false"),
    (article({**ASKED, "answers": {}}), "there is no answer: the context does not"),
    (article({**ASKED, "answers": {"text": None}}), "there is no answer: the context does not"),
    (article({**ASKED, "answers": [{"text": " "}]}), "there is no answer: the context does not"),
]


def load(directory: Path, *rows: Any, **data: Any) -> Records:
    path = directory / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_records([str(path)], DataConfig(**data))


@pytest.mark.parametrize("row", FORMS, ids=json.dumps)
def test_a_question_without_an_answer_learns_the_sentence(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    records = load(tmp_path, row)
    [conversation] = records.conversations
    assert conversation.answers == ()
    assert not conversation.has_answer
    assert conversation.messages[0].content == f"Quel âge a Ada ?\n\n{CONTEXT}"
    assert conversation.messages[-1].content == NONE
    assert any("1 question has no answer; the text of data.no_answer" in n for n in records.notes)
    [other] = load(tmp_path, row, no_answer="Aucune idée.").conversations
    assert (other.messages[-1].content, other.answers) == ("Aucune idée.", ())


@pytest.mark.parametrize("row", FORMS, ids=json.dumps)
def test_an_empty_sentence_rejects_as_before(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"context": CONTEXT, "question": "Où ?", "answers": ["à Lille"], "answer": "à Lille"}
    records = load(tmp_path, good, row, no_answer="", max_bad_fraction=0.9, shape="alpaca")
    if "paragraphs" in row:
        records = load(tmp_path, article(ANSWERED), row, no_answer="", max_bad_fraction=0.9)
    assert "there is no answer: the context does not answer the question" in (
        records.rejected[0].reason
    )


@pytest.mark.parametrize(("row", "reason"), CONTRADICTIONS, ids=lambda value: str(value)[:30])
def test_a_record_that_contradicts_itself_is_a_bad_row(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    [rejection] = load(tmp_path, article(ANSWERED), row, max_bad_fraction=0.9).rejected
    assert reason in rejection.reason


def test_an_answer_that_is_missing_is_no_question_without_an_answer(tmp_path: Path) -> None:
    good = {"question": "Un ?", "answer": "Deux"}
    for value in (None, "", []):
        records = load(tmp_path, good, {**good, "answer": value}, max_bad_fraction=0.9)
        assert len(records.rejected) == 1


def test_holdout_spool_and_prepared_questions_carry_it(tmp_path: Path) -> None:
    rows = [
        article(ANSWERED, {**ASKED, "answers": [], "is_impossible": True}, title=f"Titre {n}")
        for n in range(8)
    ]
    records = load(tmp_path, *rows)
    for part in holdout(records, 0.25, 0):
        assert {one.has_answer for one in part.conversations} == {True, False}
    with temporary_spool(tmp_path) as spool:
        for one in records.conversations:
            spool.append(one)
        assert list(spool) == list(records.conversations)
    sources = {"train": [str(tmp_path / "q.jsonl")], "holdout": 0.25, "block_size": 192}
    values = {"run_dir": tmp_path / "run", "tokenizer": {"kind": "char"}, "data": sources}
    config = Config.model_validate(values)
    for _ in range(2):  # made, then found
        _, data = load_and_prepare_french_data(config)
        assert [one.answers for one in data.questions] == [("à Lille",), ()] * 2
        assert data.report["train"]["unanswered"] == 6
        assert data.report["train"]["several_turns"] == 0
        assert data.report["eval"]["unanswered"] == 2
    _, other = load_and_prepare_french_data(
        config.replace(data=config.data.replace(no_answer="Aucune."))
    )
    assert other.questions[1].messages[-1].content == "Aucune."


def test_an_inspection_finds_nothing_wrong_with_them(tmp_path: Path) -> None:
    rows = [
        article({**ASKED, "question": f"Quel âge a-t-elle en {n} ?", "answers": []}, title=str(n))
        for n in range(60)
    ]
    load(tmp_path, *rows, article(ANSWERED))
    config = Config.model_validate({"data": {"train": [str(tmp_path / "q.jsonl")]}})
    found = {finding.what for finding in inspect(config).findings}
    assert not found & {"answer_not_in_context", "dominant_answer", "rejected"}
