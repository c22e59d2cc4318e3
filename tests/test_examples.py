"""The files of the worked examples match their pages."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.question import group_key
from quatrain.data.records import load_records

EXAMPLES = Path(__file__).parents[1] / "examples"


def rows(name: str) -> list[dict[str, str]]:
    text = (EXAMPLES / "faq" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter=";"))


def test_the_town_hall_has_sixty_answers_with_four_wordings_and_two_held_out() -> None:
    learnt, asked = rows("questions.csv"), rows("exam.csv")
    answers = [Counter(row["Réponse"] for row in part) for part in (learnt, asked)]
    assert [set(counts.values()) for counts in answers] == [{4}, {2}]
    assert answers[0].keys() == answers[1].keys()
    assert len(answers[0]) == 60


def test_no_question_of_the_town_hall_is_asked_twice() -> None:
    questions = [group_key(row["Question"]) for row in rows("questions.csv") + rows("exam.csv")]
    assert len(set(questions)) == 360


@pytest.mark.parametrize(("name", "number"), [("questions.csv", 240), ("exam.csv", 120)])
def test_a_secretarys_sheet_is_read_without_a_word(name: str, number: int) -> None:
    records = load_records([str(EXAMPLES / "faq" / name)], DataConfig())
    assert (len(records.conversations), records.rejected) == (number, [])


def paragraphs(name: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / "lecture" / name).read_text(encoding="utf-8")
    return [p for article in json.loads(text)["data"] for p in article["paragraphs"]]


@pytest.mark.parametrize(
    ("name", "passages", "answerable", "not_answerable"),
    [("train.json", 48, 240, 144), ("exam.json", 15, 75, 45)],
)
def test_answers_of_the_passages_stand_where_the_file_says(
    name: str, passages: int, answerable: int, not_answerable: int
) -> None:
    found = Counter[bool]()
    for paragraph in paragraphs(name):
        for question in paragraph["qas"]:
            found[question["is_impossible"]] += 1
            for answer in question["answers"]:
                begin = answer["answer_start"]
                text = paragraph["context"][begin : begin + len(answer["text"])]
                assert text == answer["text"]
            assert bool(question["answers"]) != question["is_impossible"]
    assert len(paragraphs(name)) == passages
    assert (found[False], found[True]) == (answerable, not_answerable)


def test_make_demo_installs_what_examples_need() -> None:
    root = EXAMPLES.parent
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    rule = r"^\$\(FOR_USE\):.*\n\t\$\(PIP_INSTALL\) -e '\.\[(.*)\]'$"
    (extras,) = re.findall(rule, makefile, re.MULTILINE)
    known = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    needed = known["project"]["optional-dependencies"]
    installed = {re.split(r"\W", one)[0] for extra in extras.split(",") for one in needed[extra]}
    assert {"openpyxl", "gguf", "transformers"} <= installed  # base.py converts a GGUF file


def test_transformers_can_judge_a_gguf_file_with_the_extra_for_conversions() -> None:
    known = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extra = known["project"]["optional-dependencies"]["convert"]
    assert {"accelerate", "gguf", "transformers"} <= {re.split(r"\W", one)[0] for one in extra}
