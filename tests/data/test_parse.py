"""Parsing: each shape gives the same conversations, and a row that breaks a rule says which."""

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.lines import RawRow
from quatrain.data.parse import Rejection, guess_shape, parse_row
from quatrain.data.question import group_key
from quatrain.data.records import Records, load_records
from quatrain.errors import DataError
from quatrain.text.conversation import Conversation, Document

QUESTION = "Où est née Colette ?"
ANSWER = "À Saint-Sauveur."


def parse(value: Any, **columns: str) -> list[Any]:
    shape = guess_shape(value, columns)
    assert shape is not None
    return list(parse_row(RawRow("f:1", value), shape, columns))


def one(value: Any, **columns: str) -> Any:
    [outcome] = parse(value, **columns)
    return outcome


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


SAME = [
    {"instruction": QUESTION, "input": "", "output": ANSWER},
    {"instruction": QUESTION, "input": None, "output": ANSWER},
    {"question": QUESTION, "answer": ANSWER},
    {"Question": QUESTION, "Réponse": ANSWER},
    {"question": QUESTION, "reponse": ANSWER},
    {"question": QUESTION, "answers": [ANSWER]},
    {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
]


@pytest.mark.parametrize("row", SAME, ids=lambda row: "+".join(row))
def test_every_shape_gives_the_same_conversation(row: dict[str, Any]) -> None:
    conversation = one(row)
    assert turns(conversation) == [("user", QUESTION), ("assistant", ANSWER)]
    assert conversation.answers == (ANSWER,)
    assert conversation.group == "où est née colette"
    assert conversation.source == "f:1"
    assert conversation.fields == {}


def test_input_joins_the_question_and_never_the_answer() -> None:
    conversation = one({"instruction": "Résume.", "input": "Le chat dort.", "output": "Il dort."})
    assert turns(conversation) == [
        ("user", "Résume.\n\nLe chat dort."),
        ("assistant", "Il dort."),
    ]
    assert conversation.group == "le chat dort"


def test_other_columns_are_kept_as_fields() -> None:
    row = {"question": QUESTION, "answer": ANSWER, "theme": "lettres", "choices": ["a", "b"]}
    assert one(row).fields == {"theme": "lettres", "choices": ["a", "b"]}


def test_every_gold_answer_is_kept_once_and_the_answer_comes_first() -> None:
    row = {"question": "Capitale ?", "answer": "Paris", "answers": ["Lutèce", "Paris", " "]}
    assert one(row).answers == ("Paris", "Lutèce")


def test_mapped_columns_are_read_and_a_namesake_is_kept() -> None:
    row = {"Frage": QUESTION, "Antwort": ANSWER, "question": 7}
    conversation = one(row, question="Frage", answer="Antwort")
    assert turns(conversation)[0] == ("user", QUESTION)
    assert conversation.fields == {"question (column)": 7}


def test_a_column_of_text_can_be_mapped() -> None:
    assert one({"paragraph": "Il pleut."}, text="paragraph") == Document(
        "Il pleut.", "il pleut", "f:1"
    )


def test_a_line_of_text_is_a_document() -> None:
    assert one("Il pleut.") == Document("Il pleut.", "il pleut", "f:1")


ARTICLE = {
    "title": "Sport",
    "categorie": "Loisirs",
    "paragraphs": [
        {
            "context": "Le judo vient du Japon.",
            "qas": [
                {
                    "id": "a",
                    "question": "D'où vient le judo ?",
                    "answers": [
                        {"text": "du Japon", "answer_start": 14},
                        {"text": "Japon", "answer_start": 17},
                        {"text": "Japon", "answer_start": 17},
                    ],
                },
                {"id": "b", "question": "Et le golf ?", "answers": [], "is_impossible": True},
            ],
        },
        {"context": "Vide."},
    ],
}


def test_a_squad_article_gives_one_record_a_question() -> None:
    good, unanswerable, broken = parse(ARTICLE)
    assert turns(good)[0] == ("user", "D'où vient le judo ?\n\nLe judo vient du Japon.")
    assert good.answers == ("du Japon", "Japon")
    assert (good.group, good.source) == ("sport", "f:1.1.1")
    assert good.fields == {"categorie": "Loisirs", "id": "a", "title": "Sport"}
    assert turns(unanswerable)[1] == ("assistant", "Sans réponse dans le texte.")
    assert (unanswerable.answers, unanswerable.source) == ((), "f:1.1.2")
    assert broken.location == "f:1.2"
    assert broken.reason == "a paragraph needs a context and a list qas"


def test_a_flat_squad_row_is_read_and_grouped_by_its_context() -> None:
    answers = {"text": ["Japon"], "answer_start": [17]}
    row = {"context": "Le judo vient du Japon.", "question": "D'où ?", "answers": answers}
    assert one(row).group == "le judo vient du japon"
    assert one({**row, "title": "Judo"}).group == "judo"
    assert one(row).answers == ("Japon",)


def message(role: str, content: Any = "Oui.") -> dict[str, Any]:
    return {"role": role, "content": content}


USER, ASSISTANT = message("user"), message("assistant")
REJECTED = [
    ({"messages": [USER, message("tool"), ASSISTANT]}, "tool"),
    ({"messages": [USER, message("assistant", "")]}, "is empty"),
    ({"messages": [message("user", " "), ASSISTANT]}, "is empty"),
    (
        {"messages": [message("system"), message("system"), USER, ASSISTANT]},
        "only the first message may",
    ),
    ({"messages": [USER, ASSISTANT, USER]}, "ends with user"),
    ({"messages": [USER, USER, ASSISTANT]}, "assistant was expected"),
    ({"messages": [ASSISTANT]}, "user was expected"),
    ({"messages": []}, "messages is an empty list"),
    ({"messages": "Bonjour"}, "messages must be a list, this is text"),
    ({"messages": ["Bonjour"]}, "a message must be an object, this is text"),
    ({"messages": [message("user", None), ASSISTANT]}, "content must be text, this is null"),
    ({"messages": [{"content": "x"}, ASSISTANT]}, "unknown role None"),
    ({"conversations": [{"from": "robot", "value": "x"}]}, "unknown from 'robot'"),
    ({"question": "", "answer": "x"}, "question (instruction) is empty"),
    ({"question": "x", "answer": " \n"}, "answer (output) is empty"),
    ({"question": "x", "answer": None}, "answer (output) must be text, this is null"),
    ({"question": ["x"], "answer": "x"}, "question (instruction) must be text, this is a list"),
    ({"question": "x", "answer": {"a": 7}}, "answer (output) must be text, this is an object"),
    ({"question": "x", "answer": "y", "input": {}}, "context (input) must be text"),
    ({"question": "x", "answers": [[3]]}, "all answers must be text; one is a list"),
    ({"question": "x", "answers": [None]}, "all answers must be text; one is null"),
    ({"text": ""}, "text is empty"),
    ({"text": None}, "text must be text, this is null"),
    ({"paragraphs": {}}, "paragraphs must be a list, this is an object"),
    ({"paragraphs": [{"context": "c", "qas": [1]}]}, "a question must be an object"),
]


@pytest.mark.parametrize(("row", "reason"), REJECTED, ids=[reason for _, reason in REJECTED])
def test_a_row_that_breaks_a_rule_is_rejected_with_its_reason(
    row: dict[str, Any], reason: str
) -> None:
    outcome = one(row)
    assert isinstance(outcome, Rejection)
    assert reason in outcome.reason
    assert outcome.location.startswith("f:1")


def test_a_missing_column_names_those_that_are_there() -> None:
    [outcome] = parse_row(RawRow("f:1", {"prompt": "x", "note": 1}), "alpaca", {})
    assert isinstance(outcome, Rejection)
    assert outcome.reason == "no column answer (output); the columns are note, prompt"
    [outcome] = parse_row(RawRow("f:1", {"prompt": "x", "completion": " "}), "alpaca", {})
    assert outcome.reason == "completion is empty"


def test_an_unreadable_row_keeps_its_reason() -> None:
    [outcome] = parse_row(RawRow("f:9", None, "not JSON"), "text", {})
    assert outcome == Rejection("f:9", "not JSON")


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"instruction": "", "input": "", "output": "", "text": ""}, "alpaca"),
        ({"context": "", "question": "", "answers": {}}, "squad"),
        ({"context": "", "question": "", "answer": ""}, "alpaca"),
        ({"title": "", "paragraphs": []}, "squad"),
        ({"text": ""}, "text"),
        ("Bonjour.", "text"),
        ({"prompt": "", "completion": ""}, "alpaca"),
        ({"prompt": "", "answers_of_others": ""}, None),
        ({}, None),
    ],
)
def test_the_shape_is_told_from_the_keys(row: Any, shape: str | None) -> None:
    assert guess_shape(row, {}) == shape


def test_groups_ignore_case_spaces_and_final_signs() -> None:
    assert group_key("  Où  est\u00a0l'ÉTÉ ?") == group_key("où est l'été")
    assert group_key("?") == "?"
    assert len(group_key("mot " * 1000)) == 32


def load(path: Path, rows: list[Any], **data: Any) -> Records:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "a.jsonl").write_text(text, encoding="utf-8")
    return load_records([str(path / "a.jsonl")], DataConfig(**data), path)


def test_an_unknown_shape_lists_the_shapes_and_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no known shape: prompt, reward\. Shapes are alpaca,"):
        load(tmp_path, [{"prompt": "x", "reward": "y"}])


def test_the_first_row_of_a_known_shape_tells_the_files(tmp_path: Path) -> None:
    records = load(tmp_path, [{}, SAME[0], SAME[0]], max_bad_fraction=0.5)
    assert (len(records.conversations), len(records.rejected)) == (2, 1)
    assert records.notes[0].endswith("read as alpaca")


def test_a_mapped_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no such column. Its columns are input, inst"):
        load(tmp_path, [SAME[0]], columns={"question": "Frage"})
    with pytest.raises(
        DataError, match=r"data\.columns has no field 'frage'\. Its fields: question,"
    ):
        load(tmp_path, [SAME[0]], columns={"frage": "instruction"})


def test_a_mapped_column_missing_from_a_later_row_rejects_that_row(tmp_path: Path) -> None:
    rows = [{"q": "x", "a": "y"}] * 3 + [{"a": "y"}]
    records = load(tmp_path, rows, columns={"question": "q", "answer": "a"}, max_bad_fraction=0.5)
    assert records.rejected[0].location == "a.jsonl:4"
    assert records.rejected[0].reason == "no column 'q', which data.columns.question names"
