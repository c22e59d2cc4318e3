"""Shapes that other trainers take: each golden file gives the conversations it is meant to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.records import Records, load_records
from quatrain.errors import DataError
from quatrain.text.conversation import Conversation

GOLDEN = Path(__file__).parent / "golden"
BRIEF, ONE_WORD = "S: Sois bref.", "S: Réponds en un mot."
WEATHER = [
    "U: Quel temps fait-il à Lyon ?",
    'A: <tool_call>{"name": "météo", "arguments": {"ville": "Lyon"}}</tool_call>',
    "U: <tool_response>12 °C, pluie</tool_response>",
    "A: Il pleut : 12 °C.",
]
"""A small a is an answer that is context alone."""
EXPECTED: dict[str, list[list[str]]] = {
    "trl-prompt-completion.jsonl": [
        ["U: Quelle est la couleur du ciel ?", "A: Bleue."],
        ["U: Combien de mois a une année ?", "A: 12"],
    ],
    "trl-conversational-prompt-completion.jsonl": [
        [ONE_WORD, "U: Deux et deux ?", "a: Quatre", "U: Et trois de plus ?", "A: Sept"],
        ["U: Quelle est la couleur de la neige ?", "A: Blanche"],
    ],
    "messages-as-json.csv": [
        ["U: Quel pays a pour capitale Oslo ?", "A: La Norvège"],
        ["U: Quel pays a pour capitale Rome ?", "A: L'Italie"],
    ],
    "trl-messages.jsonl": [["U: Bonjour !", "A: Bonjour."], ["U: Ça va ?", "A: Oui."]],
    "openai-chat.jsonl": [
        [ONE_WORD, "U: Où coule la Garonne ?", "a: En Espagne", "U: Et encore ?", "A: À Bordeaux"],
        ["U: Où coule le Rhône ?", "A: À Lyon"],
    ],
    "openai-completions.jsonl": [
        ["U: Capitale de l'Italie ?", "A: Rome"],
        ["U: Capitale de l'Espagne ?", "A: Madrid"],
    ],
    "openai-tools.jsonl": [WEATHER],
    "axolotl-input-output.jsonl": [
        ["U: Quel animal miaule ?", "A: Le chat"],
        ["U: Quel animal aboie ?", "A: Le chien"],
    ],
    "axolotl-alpaca.jsonl": [
        ["U: Traduis en anglais.\n\nchat", "A: cat"],
        ["U: Traduis en anglais.\n\nchien", "A: dog"],
    ],
    "axolotl-chat-template-from-value.jsonl": [
        ["U: Quel jour vient après lundi ?", "A: Mardi"],
        ["U: Et après mardi ?", "A: Mercredi"],
    ],
    "llama-factory-sharegpt.json": [
        [BRIEF, "U: Qui a écrit Candide ?", "A: Voltaire"],
        ["U: Qui a écrit Émile ?", "A: Rousseau"],
    ],
    "llama-factory-alpaca.json": [
        [ONE_WORD, "U: Deux et deux ?", "A: Quatre", "U: Et trois de plus ?", "A: Sept"],
        ["U: Cinq fois deux ?", "A: Dix"],
    ],
    "llama-factory-openai.json": [
        ["U: Quel fruit est jaune ?", "A: La banane"],
        ["U: Quel fruit est rouge ?", "A: La fraise"],
    ],
    "llama-factory-tools.json": [WEATHER],
    "unsloth-conversations-role-content.jsonl": [
        ["U: Combien font trois et trois ?", "A: Six"],
        ["U: Combien font un et un ?", "A: Deux"],
    ],
    "unsloth-instruction-response.csv": [
        ["U: Quelle mer borde Nice ?", "A: La Méditerranée"],
        ["U: Quel océan borde Brest ?", "A: L'Atlantique"],
    ],
    "dolly-instruction-context-response.jsonl": [
        ["U: Où vit Ada ?\n\nAda vit à Lille.", "A: À Lille"],
        ["U: Que chante le coq ?", "A: Cocorico"],
    ],
    "openorca-question-response.jsonl": [
        [ONE_WORD, "U: Le contraire de grand ?", "A: Petit"],
        ["U: Le contraire de chaud ?", "A: Froid"],
    ],
    "ms-swift-messages.jsonl": [
        [BRIEF, "U: Quelle heure suit midi ?", "A: Une heure"],
        ["U: Quel mois suit mars ?", "A: Avril"],
    ],
    "ms-swift-query-response.jsonl": [
        [ONE_WORD, "U: Deux et deux ?", "A: Quatre", "U: Et trois de plus ?", "A: Sept"],
        ["U: Six fois deux ?", "A: 12"],
    ],
    "ms-swift-prompt-response.jsonl": [
        ["U: Quelle saison suit l'été ?", "A: L'automne"],
        ["U: Il neige en été ?", "A: false"],
    ],
    "ms-swift-conversation-human-assistant.jsonl": [
        [BRIEF, "U: Qui est Astérix ?", "A: Un Gaulois", "U: Et son ami ?", "A: Obélix"],
        ["U: Qui est Tintin ?", "A: Un reporter"],
    ],
    "ms-swift-tools.jsonl": [WEATHER],
    "xtuner-conversation.json": [
        [BRIEF, "U: Capitale du Japon ?", "A: Tokyo", "U: Et de la Chine ?", "A: Pékin"],
        ["U: Capitale du Portugal ?", "A: Lisbonne"],
    ],
    "conversation-role-content.jsonl": [
        ["U: Un synonyme de content ?", "A: Heureux"],
        ["U: Un synonyme de rapide ?", "A: Vif"],
    ],
    "dialogue-role-content.jsonl": [["U: Tu dors ?", "A: Non."], ["U: Tu lis ?", "A: Oui."]],
    "dialog-from-value.jsonl": [["U: Tu viens ?", "A: Demain."], ["U: Tu pars ?", "A: Hier."]],
}


def told(conversation: Conversation) -> list[str]:
    """Write a conversation as the expected ones are."""
    return [
        f"{m.role[0].upper() if m.learnt else m.role[0]}: {m.content}"
        for m in conversation.messages
    ]


def test_every_golden_file_has_its_conversations() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in GOLDEN.iterdir())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_file_gives_its_conversations(name: str) -> None:
    config = DataConfig(tools="text" if name.rpartition(".")[0].endswith("tools") else "refuse")
    records = load_records([str(GOLDEN / name)], config)
    assert not records.rejected
    assert [told(one) for one in records.conversations] == EXPECTED[name]
    assert all(one.answers == (one.messages[-1].content,) for one in records.conversations)


@pytest.mark.parametrize("name", [name for name in EXPECTED if "tools." in name])
def test_calls_of_tools_are_refused_by_name_unless_asked_for(name: str) -> None:
    with pytest.raises(DataError, match=r"tool calls are not learnt.*data\.tools=text"):
        load_records([str(GOLDEN / name)], DataConfig())


def load(directory: Path, *rows: Any, **data: Any) -> Records:
    path = directory / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_records([str(path)], DataConfig(**data))


def only(directory: Path, row: Any, **data: Any) -> list[str]:
    [conversation] = load(directory, row, **data).conversations
    return told(conversation)


def reason(directory: Path, row: Any, **data: Any) -> str:
    good = {"messages": [{"role": "user", "content": "a ?"}, {"role": "assistant", "content": "b"}]}
    [rejection] = load(directory, good, row, max_bad_fraction=0.5, **data).rejected
    return str(rejection.reason)


TURNS = [{"role": "user", "content": "Un ?"}, {"role": "assistant", "content": "Deux"}]
PAIR = {"prompt": "Un ?", "completion": "Deux"}
SEVERAL = [
    ({"instruction": "Un ?", "prompt": "Un ?", "messages": TURNS},
     ["data.columns.messages=messages", "data.columns.question=instruction"]),
    ({**PAIR, "messages": TURNS},
     ["data.columns.messages=messages", "question=prompt data.columns.answer=completion"]),
    ({**PAIR, "input": "Trois ?", "output": "Quatre"},
     ["question=prompt data.columns.answer=completion", "data.columns.question=input"]),
    ({"messages": TURNS, "conversations": TURNS},
     ["data.columns.messages=messages", "data.columns.messages=conversations"]),
    ({"messages": TURNS, "dialogue": TURNS},
     ["data.columns.messages=messages", "data.columns.messages=dialogue"]),
    ({"question": "Un ?", "answer": "Deux", "response": "Trois"},
     ["data.columns.answer=answer", "data.columns.answer=response"]),
    ({"question": "Un ?", "instruction": "Bref.", "answer": "Deux"},
     ["data.columns.question=question", "data.columns.question=instruction"]),
    ({"instruction": "Un ?", "context": "a", "input": "b", "output": "Deux"},
     ["data.columns.context=context", "data.columns.context=input"]),
    ({"prompt": "Un ?", "query": "Deux ?", "response": "Trois"},
     ["data.columns.question=prompt", "data.columns.question=query"]),
    ({"question": "q ?", "context": "c", "answers": ["c"], "messages": TURNS},
     ["data.columns.messages=messages", "data.shape=squad"]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "choices"), SEVERAL, ids=lambda value: "+".join(value)[:40])
def test_several_readings_are_an_error_that_says_how_to_choose(
    tmp_path: Path, row: dict[str, Any], choices: list[str]
) -> None:
    with pytest.raises(DataError, match=r"the columns can be read in \d ways") as caught:
        load(tmp_path, row)
    assert caught.value.code == "Q322"
    for choice in choices:
        assert choice in str(caught.value)


@pytest.mark.parametrize(("row", "_"), SEVERAL, ids=lambda value: "+".join(value)[:40])
def test_each_choice_that_the_error_names_is_obeyed(
    tmp_path: Path, row: dict[str, Any], _: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, row)
    lines = str(caught.value).split("\n  ")[1:]
    assert len(lines) >= 2
    read = []
    for line in lines:
        asked = line.partition("(")[2].partition(")")[0].split()
        pairs = dict(one.removeprefix("data.").split("=") for one in asked)
        shape = pairs.pop("shape", "auto")
        columns = {name.removeprefix("columns."): column for name, column in pairs.items()}
        if "COLUMN" not in columns.values():
            read.append(only(tmp_path, row, shape=shape, columns=columns))
    assert all(read)


ONE_READING = [
    ({"instruction": "Un ?", "output": "Deux", "prompt": "Below is ... Un ?"}, "Un ?"),
    ({"messages": TURNS, "prompt": "Un ?", "prompt_id": "3"}, "Un ?"),
    ({"messages": TURNS, "text": "<|im_start|>..."}, "Un ?"),
    ({**PAIR, "messages": None, "input": "", "output": ""}, "Un ?"),
    ({**PAIR, "conversation": "abc-12"}, "Un ?"),
    ({"question": "Un ?", "answer": None, "response": "Deux"}, "Un ?"),
    ({"instruction": "Un ?", "input": "", "context": "", "output": "Deux"}, "Un ?"),
]


@pytest.mark.parametrize(("row", "question"), ONE_READING, ids=lambda value: "+".join(value)[:40])
def test_columns_that_hold_nothing_or_repeat_the_others_make_no_second_reading(
    tmp_path: Path, row: dict[str, Any], question: str
) -> None:
    assert only(tmp_path, row) == [f"U: {question}", "A: Deux"]


def test_a_dialogue_that_is_text_is_no_turns(tmp_path: Path) -> None:
    row = {"dialogue": "A : Oui ?\nB : Non.", "summary": "Ils parlent."}
    with pytest.raises(DataError, match="no known shape: dialogue, summary"):
        load(tmp_path, row)
    [_, answer] = only(tmp_path, row, columns={"question": "dialogue", "answer": "summary"})
    assert answer == "A: Ils parlent."


def test_reasons_name_the_column_of_the_file(tmp_path: Path) -> None:
    good = {"conversation": TURNS}
    bad = [{"conversation": []}, {"conversation": {"a": 1}}]
    found = [str(one.reason) for one in load(tmp_path, good, *bad, max_bad_fraction=0.9).rejected]
    assert found == [
        "conversation is an empty list", "conversation must be a list, this is an object"
    ]  # fmt: skip


def test_a_later_row_of_several_readings_is_a_bad_row(tmp_path: Path) -> None:
    records = load(tmp_path, PAIR, {**PAIR, "input": "a", "output": "b"}, max_bad_fraction=0.5)
    assert "the columns can be read in several ways: prompt + completion" in (
        records.rejected[0].reason
    )


PREFERENCES = [
    {"prompt": "Un ?", "chosen": "Deux", "rejected": "Trois"},
    {"chosen": TURNS, "rejected": TURNS},
    {"messages": TURNS, "rejected_response": "Trois"},
    {"messages": TURNS, "rejected_messages": TURNS},
    {"prompt": "Un ?", "completion": "Deux", "label": False},
    {"instruction": "Un ?", "output": "Deux", "kto_tag": True},
]


@pytest.mark.parametrize("row", PREFERENCES, ids="+".join)
def test_preferences_are_refused_by_name(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"(?s)learns answers, not preferences.*columns\.answer="):
        load(tmp_path, row)


def test_the_better_answers_of_preferences_can_be_asked_for(tmp_path: Path) -> None:
    assert only(tmp_path, PREFERENCES[0], columns={"answer": "chosen"}) == ["U: Un ?", "A: Deux"]
    assert only(tmp_path, PREFERENCES[1], columns={"messages": "chosen"}) == ["U: Un ?", "A: Deux"]
    labelled = {**PAIR, "label": "facile"}
    assert only(tmp_path, labelled) == ["U: Un ?", "A: Deux"]


@pytest.mark.parametrize(
    ("value", "written"),
    [(12, "12"), (2.5, "2.5"), (-3, "-3"), (True, "true"), (False, "false"), (1e22, "1e+22")],
)
def test_numbers_and_booleans_are_taken_as_json_writes_them(
    tmp_path: Path, value: Any, written: str
) -> None:
    turns = [{"role": "user", "content": "Un ?"}, {"role": "assistant", "content": value}]
    rows: list[dict[str, Any]] = [
        {"question": "Un ?", "answer": value}, {"prompt": "Un ?", "completion": value},
        {"messages": turns}, {"question": "Un ?", "answers": [value]},
        {"question": "Un ?", "answers": value},
        {"conversation": [{"human": "Un ?", "assistant": value}]},
        {"conversations": [{"from": "human", "value": "Un ?"}, {"from": "gpt", "value": value}]},
        {"question": "Un ?", "context": "c", "answers": {"text": [value]}},
    ]  # fmt: skip
    for row in rows:
        records = load(tmp_path, row, row)
        assert [told(c)[-1] for c in records.conversations] == [f"A: {written}"] * 2
        assert any("2 questions and answers are numbers, true" in note for note in records.notes)


def test_a_question_may_be_a_number_and_null_may_not(tmp_path: Path) -> None:
    assert only(tmp_path, {"question": 7, "answer": "Sept"}) == ["U: 7", "A: Sept"]
    good = {"question": "Un ?", "answer": "Deux"}
    for value in (None, {"a": 1}, [1], [None]):
        [bad] = load(tmp_path, good, {**good, "answer": value}, max_bad_fraction=0.5).rejected
        assert "answer (output) must be text" in bad.reason


def test_parts_of_another_type_than_text_are_refused_by_name(tmp_path: Path) -> None:
    for part, named in [
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "image_url"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "input_audio"),
        ({"type": "image"}, "image"),
        ({"type": "text", "text": "Vu ?", "image": "a.png"}, "image"),
        ({"text": "sans type"}, "None"),
    ]:
        turns = [{"role": "user", "content": [{"type": "text", "text": "Que vois-tu ?"}, part]}]
        row = {"messages": [*turns, TURNS[1]]}
        assert f"a part of type {named}, but only text is learnt" in reason(tmp_path, row)
    row = {"messages": [{"role": "user", "content": ["Que vois-tu ?"]}, TURNS[1]]}
    assert "a part of content must be an object, this is text" in reason(tmp_path, row)


@pytest.mark.parametrize("column", ["images", "image", "videos", "audios"])
def test_a_text_that_points_to_what_is_no_text_is_refused(tmp_path: Path, column: str) -> None:
    asked = [{"role": "user", "content": f"<{column.rstrip('s')}>Que vois-tu ?"}, TURNS[1]]
    row = {"messages": asked, column: ["a.png"]}
    assert f"a turn has {column}, but only text is learnt" in reason(tmp_path, row)
    assert only(tmp_path, {"messages": asked, column: []})[1] == "A: Deux"
    assert only(tmp_path, {"messages": TURNS, column: ["a.png"]})[1] == "A: Deux"


def test_lists_may_be_json_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "question;answers;history\n"
        'Un ?;"[""Deux"", 2]";"[[""Zéro ?"", ""Un""]]"\n'
        "Quand ?;[];\n"
        "Quoi ?;[ceci];\n",
        encoding="utf-8",
    )
    records = load_records([str(path)], DataConfig())
    assert [one.answers for one in records.conversations] == [("Deux", "2"), (), ("[ceci]",)]
    assert told(records.conversations[0])[:2] == ["U: Zéro ?", "A: Un"]


def test_a_templated_text_is_noted(tmp_path: Path) -> None:
    text = "<|im_start|>user\nUn ?<|im_end|>\n<|im_start|>assistant\nDeux<|im_end|>"
    for mark, row in [("<|im_end|>", {"text": text}), ("[INST]", {"text": "[INST] Un ? [/INST]"}),
                      ("<start_of_turn>", {"text": "<start_of_turn>user\nUn ?"}),
                      ("<s>", {"prompt": "<s>Un ?", "completion": "Deux"})]:  # fmt: skip
        [note] = [n for n in load(tmp_path, row, row).notes if "control tokens" in n]
        assert "2 records contain what looks like control tokens" in note
        assert mark in note


# --- tools as text -------------------------------------------------------------------------------

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def test_calls_and_what_tools_say_join_the_turns_of_their_speakers(tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": '{"a": 1}'}},
             {"type": "function", "function": {"name": "g", "arguments": {}}}]  # fmt: skip
    turns = [
        TURNS[0],
        {"role": "assistant", "content": "Voyons.", "tool_calls": calls},
        {"role": "tool", "content": "x"},
        {"role": "tool", "content": {"y": 2}},
        {"role": "user", "content": "Alors ?"},
        TURNS[1],
    ]
    assert only(tmp_path, {"messages": turns}, tools="text") == [
        "U: Un ?",
        f'A: Voyons.\n{CALL}\n<tool_call>{{"name": "g", "arguments": {{}}}}</tool_call>',
        'U: <tool_response>x</tool_response>\n<tool_response>{"y": 2}</tool_response>\nAlors ?',
        "A: Deux",
    ]


def test_a_call_may_be_the_answer(tmp_path: Path) -> None:
    turns = [TURNS[0], {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}}]
    assert only(tmp_path, {"messages": turns}, tools="text") == ["U: Un ?", f"A: {CALL}"]
    said = [
        TURNS[0],
        TURNS[1],
        {"role": "tool_call", "content": '{"name": "f", "parameters": {"a": 1}}'},
    ]
    assert only(tmp_path, {"messages": said}, tools="text")[-1] == f"A: Deux\n{CALL}"


def test_calls_of_another_form_are_refused(tmp_path: Path) -> None:
    for call in ("f(1)", {"arguments": {}}, [3]):
        turns = [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
        said = reason(tmp_path, {"messages": turns}, tools="text")
        assert "a call must be JSON with a name and arguments" in said
    apart = [TURNS[0], {**TURNS[1], "weight": 0}, {"role": "tool_call", "content": '{"name": "f"}'}]
    assert "only one of the two is learnt" in reason(tmp_path, {"messages": apart}, tools="text")


def test_two_turns_of_one_speaker_without_tools_stay_an_error(tmp_path: Path) -> None:
    row = {"messages": [TURNS[0], TURNS[0], TURNS[1]]}
    assert "assistant was expected" in reason(tmp_path, row, tools="text")


def test_a_turn_of_two_forms_is_refused(tmp_path: Path) -> None:
    turn = {"role": "user", "from": "human", "content": "Un ?"}
    assert "role and from; keep one" in reason(tmp_path, {"messages": [turn, TURNS[1]]})
    empty = {"role": "user", "from": None, "content": "Un ?", "value": None}
    assert only(tmp_path, {"messages": [empty, TURNS[1]]}) == ["U: Un ?", "A: Deux"]
