"""Turns: which answers are trained on, in rows, samples and counts; no key is lost silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import Config, DataConfig
from quatrain.data.inspect import inspect
from quatrain.data.lines import RawRow
from quatrain.data.parse import Rejection, guess_shape, parse_row
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.records import Records, load_records
from quatrain.words import Sentence

KEYS = {"messages": ("role", "content", "user", "assistant"),
        "conversations": ("from", "value", "human", "gpt")}  # fmt: skip


def dialogue(*answers: dict[str, Any], column: str = "messages") -> dict[str, Any]:
    """Make a dialogue of short questions, whose answers have further keys."""
    role, content, user, assistant = KEYS[column]
    turns: list[dict[str, Any]] = []
    for number, keys in enumerate(answers, 1):
        turns.append({role: user, content: f"Question {number} ?"})
        turns.append({role: assistant, content: f"Réponse {number}.", **keys})
    return {column: turns}


def one(row: dict[str, Any]) -> Any:
    shape = guess_shape(row, {})
    assert shape is not None
    [outcome] = parse_row(RawRow("f:1", row), shape, {})
    return outcome


def load(directory: Path, *rows: dict[str, Any], **data: Any) -> Records:
    path = directory / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_records([str(path)], DataConfig(max_bad_fraction=1.0, **data))


CONTEXT = [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}]
CONTEXT += [{"loss": 0}, {"loss": False}, {"loss_scale": 0.0}, {"trainable": False}]
CONTEXT += [{"masked": True}]
LEARNT = [{"weight": 1}, {"weight": 1.0}, {"train": True}, {"loss": True}, {"masked": False},
          {"weight": None}, {"train": None, "weight": 1}, {}]  # fmt: skip


@pytest.mark.parametrize("column", KEYS)
@pytest.mark.parametrize("keys", CONTEXT, ids=str)
def test_an_answer_that_is_switched_off_is_context(keys: dict[str, Any], column: str) -> None:
    messages = one(dialogue(keys, {}, column=column)).messages
    assert [message.learnt for message in messages] == [True, False, True, True]


@pytest.mark.parametrize("column", KEYS)
@pytest.mark.parametrize("keys", LEARNT, ids=str)
def test_an_answer_that_is_not_switched_off_is_learnt(keys: dict[str, Any], column: str) -> None:
    assert all(message.learnt for message in one(dialogue(keys, {}, column=column)).messages)


@pytest.mark.parametrize("column", KEYS)
@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"weight": 0.5}, "weight is 0.5; it must be 1 for a turn to learn, or 0 for context"),
        ({"weight": -1}, "weight is -1; it must be 1"),
        ({"weight": "0"}, 'weight is "0"; it must be 1'),
        ({"weight": True}, "weight is true; it must be 1"),
        ({"weight": []}, "weight is []; it must be 1"),
        ({"loss_scale": 2}, "loss_scale is 2; it must be 1"),
        ({"loss": "no"}, 'loss is "no"; it must be 1'),
        ({"train": "false"}, 'train is "false"; it must be true or false'),
        ({"train": 0}, "train is 0; it must be true or false"),
        ({"masked": 1}, "masked is 1; it must be true or false"),
        ({"weight": 1, "train": False}, "weight and train contradict each other"),
        ({"mask": 1}, "a turn has mask, which different programs read differently"),
        ({"train_detail": [{"begin_offset": 0}]}, "a turn has train_detail, which"),
        ({"tool_calls": [{"id": "1"}]}, "a turn has tool_calls, but tool calls are not learnt"),
        ({"function_call": {"name": "f"}}, "a turn has function_call, but tool calls are not"),
        ({"images": ["a.png"]}, "a turn has images, but only text is learnt"),
    ],
    ids=str,
)
def test_a_key_that_means_nothing_or_too_much_is_refused(
    keys: dict[str, Any], reason: str, column: str
) -> None:
    outcome = one(dialogue(keys, {}, column=column))
    assert isinstance(outcome, Rejection)
    assert reason in outcome.reason


@pytest.mark.parametrize("key", ["tool_calls", "images", "mask", "function_call"])
@pytest.mark.parametrize("value", [None, [], {}, ""])
def test_a_key_that_holds_nothing_is_as_if_it_were_not_there(key: str, value: Any) -> None:
    assert not isinstance(one(dialogue({key: value})), Rejection)


@pytest.mark.parametrize("role", ["tool", "function", "observation", "function_call", "ipython"])
@pytest.mark.parametrize("column", KEYS)
def test_roles_of_tools_are_refused_by_name(role: str, column: str) -> None:
    row = dialogue({}, {}, column=column)
    row[column][2][KEYS[column][0]] = role
    assert f"a turn has the role {role}, but tool calls are not learnt" in one(row).reason


@pytest.mark.parametrize("column", KEYS)
def test_a_conversation_that_teaches_nothing_is_a_bad_row(column: str) -> None:
    outcome = one(dialogue({"weight": 0}, {"train": False}, column=column))
    assert isinstance(outcome, Rejection)
    assert "no answer would be learnt" in outcome.reason


def test_what_follows_the_last_learnt_answer_is_left_out_and_said(tmp_path: Path) -> None:
    records = load(tmp_path, dialogue({}, {"weight": 0}))
    [conversation] = records.conversations
    assert [message.content for message in conversation.messages] == ["Question 1 ?", "Réponse 1."]
    assert conversation.answers == ("Réponse 1.",)
    assert any("2 turns are left out, since no answer to learn follows" in n for n in records.notes)
    listed = one({**dialogue({}, {"weight": 0}), "answers": ["Oui"]})
    assert (
        "answers lists the right answers for the last turn, but that turn is not" in listed.reason
    )


def test_unused_keys_and_columns_are_said_once_a_file_with_their_counts(tmp_path: Path) -> None:
    row = dialogue({"reasoning_content": "Je pense.", "name": "Ada"}, {"reasoning_content": "Hum."})
    row["messages"][0] |= {"weight": 1, "thinking": None}
    bad = dialogue({"reasoning_content": "Mauvais.", "weight": 3})
    notes = load(tmp_path, {**row, "weight": 0.5, "tools": []}, {**row, "id": 1}, bad).notes
    path = str(tmp_path / "d.jsonl")
    assert notes == [
        f"{path}: read as messages",
        f"{path}: other columns, kept but not learnt: weight (1x), id (1x)",
        f"{path}: keys of turns that are ignored: reasoning_content (4x), name (2x)",
        f"{path}: 2 user or system turns are marked to be learnt; only answers are learnt",
    ]
    assert all(isinstance(note, Sentence) for note in notes)


def test_answers_that_are_context_are_counted_in_a_note(tmp_path: Path) -> None:
    notes = load(tmp_path, dialogue({"weight": 0}, {"weight": 0}, {}), dialogue({})).notes
    assert any("2 answers are marked as context only" in note for note in notes)


def config_for(tmp_path: Path, *rows: dict[str, Any], **data: Any) -> Config:
    load(tmp_path, *rows)
    sources = {"train": [str(tmp_path / "d.jsonl")], "block_size": 192}
    values = {"run_dir": tmp_path / "run", "tokenizer": {"kind": "char"}, "data": sources | data}
    return Config.model_validate(values)


def test_rows_samples_and_counts_agree_on_what_is_learnt(tmp_path: Path) -> None:
    rows = [dialogue({"weight": 0}, {}), dialogue({}, {"train": False}, {}), dialogue({})]
    config = config_for(tmp_path, *rows)
    _, data = load_and_prepare_french_data(config)
    said = ["".join(data.tokenizer.decode(row.ids[row.mask].tolist())) for row in data.train]
    learnt = "".join(said)
    assert [learnt.count(f"Réponse {n}.") for n in (1, 2, 3)] == [2, 1, 1]
    targets = sum(int(row.mask.sum()) for row in data.train)
    assert targets == 4 * len("Réponse 1.|") == data.report["train"]["answer_tokens"]
    assert data.report["train"]["several_turns"] == 2
    found = inspect(config)
    assert found.sides["train"].survey.notes == data_notes(config)[1:]  # the first says the shape
    shown = next(sample for sample in found.samples if sample.location == "d.jsonl:1")
    green = "".join(text for text, one_is, control in shown.spans if one_is and not control)
    assert green == "Réponse 2."


def data_notes(config: Config) -> list[str]:
    return load_records(config.data.train, config.data).notes


def test_a_weight_that_changes_makes_the_rows_anew(tmp_path: Path) -> None:
    _, first = load_and_prepare_french_data(config_for(tmp_path, dialogue({}, {})))
    _, second = load_and_prepare_french_data(config_for(tmp_path, dialogue({"weight": 0}, {})))
    counts = [data.report["train"]["answer_tokens"] for data in (first, second)]
    assert counts == [22, 11]


def test_held_out_questions_remember_what_is_learnt(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps(dialogue({"weight": 0}, {})) + "\n", encoding="utf-8")
    config = config_for(tmp_path, dialogue({}), eval=[str(path)])
    _, data = load_and_prepare_french_data(config)
    _, again = load_and_prepare_french_data(config)
    for prepared in (data, again):
        [question] = prepared.questions
        assert [message.learnt for message in question.messages] == [True, False, True, True]
    assert data.report["eval"]["answer_tokens"] == 11


# --- system and history --------------------------------------------------------------------------

SYSTEM = "Réponds en un mot."
QUESTION = {"instruction": "Deux et deux ?", "output": "Quatre"}
SHAREGPT = dialogue({}, column="conversations")


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize("row", [QUESTION, SHAREGPT, dialogue({}),
                                 {"context": "c", "question": "q ?", "answers": {"text": ["r"]}}],
                         ids=["alpaca", "sharegpt", "messages", "squad"])  # fmt: skip
def test_a_system_column_comes_first(name: str, row: dict[str, Any]) -> None:
    conversation = one({**row, name: SYSTEM})
    assert (conversation.messages[0].role, conversation.messages[0].content) == ("system", SYSTEM)
    assert conversation.messages[1:] == one(row).messages
    assert conversation.fields == one(row).fields
    assert conversation.group == one(row).group


@pytest.mark.parametrize("nothing", [None, "", " \n"])
@pytest.mark.parametrize("row", [QUESTION, SHAREGPT], ids=["alpaca", "sharegpt"])
def test_an_empty_system_column_is_none(nothing: str | None, row: dict[str, Any]) -> None:
    assert one({**row, "system": nothing}) == one(row)


@pytest.mark.parametrize("wrong", [3, ["x"], {}, True])
@pytest.mark.parametrize("row", [QUESTION, SHAREGPT], ids=["alpaca", "sharegpt"])
def test_a_system_column_of_another_kind_is_refused(wrong: Any, row: dict[str, Any]) -> None:
    assert "system must be text, this is" in one({**row, "system": wrong}).reason


def test_a_system_column_and_a_system_turn_must_say_the_same() -> None:
    turns = [{"from": "system", "value": f" {SYSTEM}"}, *SHAREGPT["conversations"]]
    said = [m.content for m in one({"conversations": turns, "system": SYSTEM}).messages]
    assert said == [SYSTEM, "Question 1 ?", "Réponse 1."]
    other = one({"conversations": turns, "system": "Sois long."})
    assert "the system column and the system turn differ" in other.reason
    turns[0]["value"] = ""
    filled = one({"conversations": turns, "system": SYSTEM})
    assert [m.content for m in filled.messages] == said


def test_history_gives_earlier_turns_which_are_learnt() -> None:
    history = [["Un et un ?", "Deux"], ["Et un ?", "Trois"]]
    conversation = one({**QUESTION, "system": SYSTEM, "history": history, "input": "Vite."})
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("system", SYSTEM), ("user", "Un et un ?"), ("assistant", "Deux"), ("user", "Et un ?"),
        ("assistant", "Trois"), ("user", "Deux et deux ?\n\nVite."), ("assistant", "Quatre"),
    ]  # fmt: skip
    assert all(m.learnt for m in conversation.messages)
    assert conversation.answers == ("Quatre",)
    assert conversation.fields == {}


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_history_is_none(nothing: Any) -> None:
    assert one({**QUESTION, "history": nothing}) == one(QUESTION)


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("Un ?", "history must be a list, this is text"),
        ({}, "history must be a list, this is an object"),
        (["Un ?", "Deux"], "item 1 of history must be a list of a question and its answer"),
        ([["a", "b"], ["Un ?"]], "item 2 of history must be a list of a question"),
        ([["a", None]], "item 1 of history must be a list of a question"),
        ([["a", "b", "c"]], "item 1 of history must be a list of a question"),
        ([["a", " "]], "message 2 (assistant) is empty"),
    ],
    ids=str,
)
def test_a_history_of_another_form_is_refused(history: Any, reason: str) -> None:
    assert reason in one({**QUESTION, "history": history}).reason


def test_system_and_history_can_be_mapped(tmp_path: Path) -> None:
    row = {**QUESTION, "consigne": SYSTEM, "avant": [["Un ?", "Deux"]], "system": "autre"}
    records = load(tmp_path, row, columns={"system": "consigne", "history": "avant"})
    [conversation] = records.conversations
    assert len(conversation.messages) == 5
    assert conversation.messages[0].content == SYSTEM
    assert conversation.fields == {"system (column)": "autre"}
