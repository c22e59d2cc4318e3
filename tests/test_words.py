"""The catalogue: both languages say the same things, and write numbers in their own way."""

from __future__ import annotations

import ast
import copy
import json
import re
from datetime import datetime
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

import quatrain
from quatrain.errors import ConfigError
from quatrain.locale import choose_language
from quatrain.words import LANGUAGES, Sentence, Words, catalogue, recorded, say, speak, tell

SOURCE = Path(quatrain.__path__[0])
AREAS = sorted({path.name.split(".")[0] for path in (SOURCE / "catalogue").glob("*.json")})


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def keys_without_forms(area: str) -> set[str]:
    return {re.sub(r"\.(one|other)$", "", key) for key in catalogue(area, "en")}


@pytest.mark.parametrize("area", AREAS)
def test_languages_agree_in_keys_and_places(area: str) -> None:
    english, *others = (catalogue(area, language) for language in LANGUAGES)
    for other in others:
        assert list(other) == list(english)
        for key, text in english.items():
            assert places(other[key]) == places(text), key


@pytest.mark.parametrize("area", AREAS)
def test_no_key_is_there_twice_and_every_plural_has_both_forms(area: str) -> None:
    for language in LANGUAGES:
        text = (SOURCE / "catalogue" / f"{area}.{language}.json").read_text(encoding="utf-8")
        pairs = json.loads(text, object_pairs_hook=list)
        assert len({key for key, _ in pairs}) == len(pairs)
        ones = {key.removesuffix(".one") for key, _ in pairs if key.endswith(".one")}
        assert ones == {key.removesuffix(".other") for key, _ in pairs if key.endswith(".other")}


def test_every_key_of_the_report_is_used_and_every_used_key_exists() -> None:
    files = [*(SOURCE / "report").glob("*.py"), *(SOURCE / "report").glob("*.html")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    whole = set(re.findall(r"[\"']report\.([\w.]+\w)[\"']", text))
    stems = set(re.findall(r"[\"']report\.([\w.]*)(?:\{[^}]*\}|[\"'] ~)(\.\w+)?", text))
    known = keys_without_forms("report")
    assert whole <= known
    begun = [key for key in known - whole if not any(
        key.startswith(start) and key.endswith(end) for start, end in stems)]  # fmt: skip
    assert not begun


def test_plurals_follow_each_language() -> None:
    english, french = Words("en"), Words("fr")
    assert [english("report.records", count=n) for n in (0, 1, 1200)] == [
        "0 records", "1 record", "1,200 records",
    ]  # fmt: skip
    assert [french("report.records", count=n) for n in (0, 1, 1200)] == [
        "0 exemple", "1 exemple", "1\u202f200 exemples",
    ]  # fmt: skip


def test_numbers_percentages_times_and_dates_follow_each_language() -> None:
    english, french = Words("en"), Words("fr")
    assert english.number(-1234567.891, 2) == "\u22121,234,567.89"
    assert french.number(-1234567.891, 2) == "\u22121\u202f234\u202f567,89"
    assert (english.percent(97.13), french.percent(97.13)) == ("97.1%", "97,1\u202f%")
    assert [english.duration(s) for s in (0.74, 59.4, 59.6, 238, 3600, 5400, 7300)] == [
        "0.7\u00a0s", "59\u00a0s", "1\u00a0min", "3\u00a0min 58\u00a0s", "1\u00a0h",
        "1\u00a0h 30\u00a0min", "2\u00a0h 1\u00a0min",
    ]  # fmt: skip
    moment = datetime(2026, 8, 1, 7, 5)
    assert (english.date(moment), french.date(moment)) == (
        "1 August 2026, 07:05", "1er août 2026 à 07:05",
    )  # fmt: skip


def test_french_spaces_do_not_break() -> None:
    assert Words("fr")("report.answers.fixed", count=2) == "Corrigées\u00a0: 2"
    assert "\u202f; celui" in Words("fr")("report.experts.what", count=1, experts=8)


@pytest.mark.parametrize(
    ("asked", "environment", "language"),
    [
        (None, {}, "en"),
        (None, {"LANG": "fr_FR.UTF-8"}, "fr"),
        (None, {"LC_ALL": "C", "LANG": "fr_FR.UTF-8"}, "en"),
        (None, {"LC_ALL": "", "LANG": "fr_CA"}, "fr"),
        (None, {"LANG": "de_DE.UTF-8"}, "en"),
        ("fr", {"LC_ALL": "en_GB.UTF-8"}, "fr"),
    ],
)
def test_the_language_is_the_one_asked_for_or_the_systems(
    asked: str | None, environment: dict[str, str], language: str
) -> None:
    assert choose_language(asked, environment) == language


def test_a_language_without_a_catalogue_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not speak that language") as caught:
        choose_language("de", {})
    assert caught.value.remedy == "Use en or fr."


def test_what_is_said_follows_the_language_that_is_spoken() -> None:
    said = {}
    for language in LANGUAGES:
        speak(language)
        said[language] = say("formats.month.11")
    assert said == {"en": "November", "fr": "novembre"}


def test_a_place_says_how_its_number_is_written() -> None:
    english, french = Words("en"), Words("fr")
    assert [english.written(0.97126, spec) for spec in (".1%", ".3f", ".1e")] == [
        "97.1%", "0.971", "9.7e-01",
    ]  # fmt: skip
    assert [french.written(0.97126, spec) for spec in (".1%", ".3f", ".1e")] == [
        "97,1\u202f%", "0,971", "9,7e-01",
    ]  # fmt: skip
    assert french.written(12345.6, ",.1f") == "12\u202f345,6"


def test_a_sentence_is_english_to_a_program_and_itself_to_a_person() -> None:
    month = Sentence.of("formats.month.2")
    outer = Sentence.of("formats.percent", number=month)
    assert json.dumps([month, copy.deepcopy(outer)]) == '["February", "February%"]'
    speak("fr")
    assert (tell(month), tell("February")) == ("février", "February")
    assert tell(copy.deepcopy(outer)) == "février\u202f%"


def test_a_sentence_that_a_file_holds_is_said_in_either_language() -> None:
    kind = Sentence.of("reasons.kind.number")
    reason = Sentence.of("reasons.text", name="answer", kind=kind)
    row = json.loads(json.dumps({"reason": reason, **recorded(reason)}))
    assert Words("en").retold(row, "reason") == reason == row["reason"]
    assert Words("fr").retold(row, "reason") == Words("fr")("reasons.text", **reason.values)
    assert Words("fr").retold(row, "reason") != reason
    assert recorded("a text of nobody's") == {}


STRANGE = [
    {}, {"key": 3, "values": {}}, {"key": "reasons.empty"}, {"key": "reasons.empty", "values": []},
    {"key": "reasons.none_such", "values": {}}, {"key": "notes.limit", "values": {"limit": "ten"}},
    {"key": "../../secret.empty", "values": {}}, {"key": "errors.help", "values": {"remedy": "x"}},
    {"key": "notes.limit", "values": {"limit": {"key": "cli.error", "values": {"error": "x"}}}},
]  # fmt: skip


@pytest.mark.parametrize("row", STRANGE)
def test_a_file_that_was_changed_is_shown_as_it_is(row: dict[str, Any]) -> None:
    assert Words("fr").retold({**row, "reason": "as it is"}, "reason") == "as it is"
    assert Words("fr").retold([row], "reason") == str([row])


def test_every_key_that_is_said_exists_and_none_is_unused() -> None:
    texts, begun, said = set[str](), set[str](), set[str]()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
                begun.add(str(node.values[0].value))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("say", "Sentence.of"):
                said |= {n.value for n in node.args[:1] if isinstance(n, ast.Constant)}
    known = {f"{area}.{key}" for area in AREAS for key in keys_without_forms(area)}
    assert said <= known
    begun = {start for start in begun if "." in start and start.partition(".")[0] in AREAS}
    elsewhere = {"report.", "errors.Q", "rules.why."}  # test_errors.py looks after the last two
    starts = tuple(elsewhere | (begun - {"errors.", "rules."}))
    others = {key for key in known - texts if not key.startswith(starts)}
    assert not others


_NUMBERED = re.compile(r"\{(\w+)(:[d,]+)?\} (?:target |likeliest |greedy )?(\w+s)\b")
_PLAIN = ("count", "total", "rows", "rejected", "too_long", "prompts", "experts")
"""Numbers of places that do not say how a number is written."""
_INVARIABLE = set(
    "is was has exceeds implies names needs differs pas processus fois appris".split()
)
_NEVER_ONE = ("max_bytes", "num_bytes", "most", "words", "block", "world")
_NEVER_ONE_IN = ("errors.Q322.readings", "reasons.byte_tokens")


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_noun_is_always_plural_beside_a_number_that_may_be_one(language: str) -> None:
    always = []
    for area in AREAS:
        for key, text in catalogue(area, language).items():
            settled = ("count",) if key.endswith((".one", ".other")) else ()
            for name, spec, word in _NUMBERED.findall(text):
                sure = f"{area}.{key}" in _NEVER_ONE_IN or name in (*_NEVER_ONE, *settled)
                if sure or word in _INVARIABLE:
                    continue
                if spec or name in _PLAIN:
                    always.append(f"{area}.{key}: {name} {word}")
    assert not always


def test_a_sentence_with_several_numbers_has_a_plural_for_each() -> None:
    one = {"rows": 1, "size": 256, "targets": 1, "questions": 1}
    many = {"rows": 1200, "size": 1, "targets": 2, "questions": 0}
    assert [say("train.data", **each) for each in (one, many)] == [
        "data: 1 row of 256 tokens, 1 target token; 1 held-out question",
        "data: 1,200 rows of 1 token, 2 target tokens; 0 held-out questions",
    ]
    speak("fr")
    try:
        said = [
            say("train.data", **each).translate({0xA0: " ", 0x202F: " "}) for each in (one, many)
        ]
    finally:
        speak("en")
    assert said == [
        "données : 1 rangée de 256 tokens, 1 token à apprendre ; 1 question de validation",
        "données : 1 200 rangées de 1 token, 2 tokens à apprendre ; 0 question de validation",
    ]
