"""Questions: one key decides which are the same, and all code uses it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.config import Config, DataConfig
from quatrain.data.inspect import inspect
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.question import group_key, marks, taught
from quatrain.data.records import holdout, load_records
from quatrain.text.conversation import Conversation, Message

PLAIN = "Qui a dit \"l'eau de l'Œuvre\" en 1939-1945 : qui ?"
WRITTEN = [
    PLAIN.replace("'", "’"),
    PLAIN.replace("'", "ʼ"),
    PLAIN.upper(),
    unicodedata.normalize("NFD", PLAIN),
    PLAIN.replace("Œ", "Oe"),
    PLAIN.replace('"', ""),
    PLAIN.replace(' "', " «\u00a0").replace('" ', "\u202f» "),
    PLAIN.replace('"', "“"),
    PLAIN.replace("-", "–"),
    PLAIN.replace("-", "\u00a0—\u00a0"),
    PLAIN.replace("-", "\u2011"),
    PLAIN.replace(" ", "\u00a0"),
    PLAIN.replace(" ", "\u202f\u2009"),
    PLAIN.replace(" :", ":").replace(" ?", "?"),
    PLAIN.removesuffix(" ?"),
    PLAIN.replace(" ?", "\u202f?!…"),
    PLAIN.replace("Qui", "Q\u00adui\u200b"),
    f" \n{PLAIN}\t",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_differs_in_typography_has_one_key(text: str) -> None:
    assert group_key(text) == group_key(PLAIN)


@pytest.mark.parametrize(
    ("one", "other"),
    [("ou", "où"), ("Combien font 3,5 ?", "Combien font 35 ?"), ("-5", "5"), ("C", "C++"),
     ("Que vaut 5 % ?", "Que vaut 5 ?"), ("l'eau", "leau"), ("Un. Deux", "Un deux"), ("?", "-")],
)  # fmt: skip
def test_other_questions_have_other_keys(one: str, other: str) -> None:
    assert group_key(one) != group_key(other)


@given(st.text("aéE'’«» \u00a0\u202f-–?!.\"œ\u0301‘", max_size=12))
def test_composed_and_decomposed_text_have_one_key_which_is_never_empty(text: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert group_key(composed) == group_key(decomposed) == group_key(text)
    assert bool(group_key(text)) == bool("".join(text.split()))


def dialogue(*texts: str) -> Conversation:
    roles: Any = ["user", "assistant"] * (len(texts) // 2)
    turns = tuple(Message(role, text) for role, text in zip(roles, texts, strict=True))
    return Conversation(turns, (texts[-1],), group_key(texts[0]), "f:1")


def test_a_prompt_is_all_that_precedes_the_answer() -> None:
    first, second = dialogue("a", "b", "Et ?", "c"), dialogue("x", "y", "Et ?", "c")
    assert marks(first).asked != marks(second).asked
    assert marks(first).asked == marks(dialogue("A", "B.", "et", "d")).asked
    assert taught(first) == [marks(dialogue("a", "b")).asked, marks(first).asked]


def test_the_system_and_unlearnt_answers_teach_no_prompt() -> None:
    system = Message("system", "Sois bref.")
    plain = dialogue("a", "b", "c", "d")
    silent = (system, plain.messages[0], Message("assistant", "b", False), *plain.messages[2:])
    other = Conversation(silent, ("d",), "a", "f:2")
    assert taught(other) == [marks(plain).asked]
    assert marks(other) == marks(plain)


def test_the_holdout_keeps_one_question_on_one_side_however_it_is_written(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        asked = f"Qu'est-ce que l'objet « {number} » ?"
        rows += [asked, asked.replace("'", "’"), asked.replace(" ", "\u202f").upper(),
                 asked.replace("-", "\u2011").removesuffix(" ?")]  # fmt: skip
    write(tmp_path / "q.jsonl", *({"question": row, "answer": "x"} for row in rows))
    records = load_records([str(tmp_path / "q.jsonl")], DataConfig())
    train, held = holdout(records, 0.5, 0)
    assert (len(train), len(held)) == (16, 16)
    assert not {item.group for item in train} & {item.group for item in held}


def write(path: Path, *rows: dict[str, Any]) -> str:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def turns(*texts: str) -> dict[str, Any]:
    names = ["user", "assistant"] * (len(texts) // 2)
    return {"messages": [{"role": role, "content": text}
                         for role, text in zip(names, texts, strict=True)]}  # fmt: skip


TRAIN = [turns("Où est l'eau ?", "Là.", "Et après ?", "Ici."), turns("Qui ?", "Moi.")]


@pytest.mark.parametrize(
    ("held", "leaks"),
    [
        (turns("Autre chose ?", "Oui.", "Et après ?", "Ici."), 0),  # the last turn alone is shared
        (turns("Où est l’eau\u202f?", "Là", "ET APRÈS ?", "Non."), 1),
        (turns("Où est l’eau ?", "Partout."), 1),  # the dialogue teaches its first answer too
        (turns("Où est l'eau ?", "Ailleurs.", "Et après ?", "Ici."), 0),
        (turns("« Qui »", "Vous."), 1),
    ],
)
def test_training_and_inspecting_find_the_same_leaks(
    held: dict[str, Any], leaks: int, tmp_path: Path
) -> None:
    sources = {"train": [write(tmp_path / "q.jsonl", *TRAIN)],
               "eval": [write(tmp_path / "e.jsonl", held)]}  # fmt: skip
    config = Config.model_validate({
        "run_dir": tmp_path / "run", "tokenizer": {"kind": "char"},
        "data": {**sources, "block_size": 128},
    })  # fmt: skip
    _, data = load_and_prepare_french_data(config)
    assert data.report["leaks"] == leaks
    found = inspect(config).sides["train"].survey
    assert (found.asked.count, len(found.leaked)) == (leaks, leaks)


def test_training_and_inspecting_count_the_same_duplicates(tmp_path: Path) -> None:
    rows = [{"question": "Qui est « Ada » ?", "answer": "L'aînée."},
            {"question": 'QUI EST "ADA"?', "answer": "l’aînée"},
            {"question": "Qui est Ada ?", "answer": "La cadette."}]  # fmt: skip
    config = Config.model_validate({
        "run_dir": tmp_path / "run", "tokenizer": {"kind": "char"},
        "data": {"train": [write(tmp_path / "q.jsonl", *rows)]},
    })  # fmt: skip
    _, data = load_and_prepare_french_data(config)
    [finding] = [one for one in inspect(config).findings if one.what == "duplicates"]
    assert data.report["duplicates"] == finding.count == 1
