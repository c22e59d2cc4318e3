"""Errors: the same codes in both languages, and every sentence is in the catalogue."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

import pydantic
import pytest

import quatrain
from quatrain import errors, rules
from quatrain.config import Config
from quatrain.errors import CheckpointError, ConfigError, DataError, QuatrainError
from quatrain.recipe import build
from quatrain.words import LANGUAGES, Sentence, catalogue, speak, tell
from typography import typographic_faults

SOURCE = Path(quatrain.__path__[0])
CLASSES = {name for name in dir(errors) if name.endswith("Error")}
AREAS = ["errors", "rules", "reasons", "findings", "notes"]
KEY = re.compile(r"Q\d{3}\.\w+")
COMMAND = re.compile(
    r"--[a-z][\w-]+|\b[a-z_]+\.[a-z_]+=(?:\{[^}]*\}|(?!the |le )[\w/]*)"
    r"|quatrain [a-z]+|pip install [^\s,]+"
)
BAD = ["x", "", -1, 10**30, 1e400, float("nan"), 1.5, True, None, [], [1], [None], {}, {1: 2},
       {"experts": "x"}, "9" * 5000, b"x", object()]  # fmt: skip


def nodes(*kinds: type[ast.AST]) -> Iterator[ast.AST]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield node


def calls() -> Iterator[ast.Call]:
    for node in nodes(ast.Call):
        assert isinstance(node, ast.Call)
        if ast.unparse(node.func) in CLASSES | {"Sentence.of"}:
            yield node


def places(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_error_that_is_raised_has_its_sentences_and_no_sentence_is_unused() -> None:
    raised = {
        node.value
        for node in nodes(ast.Constant)
        if isinstance(node, ast.Constant) and KEY.fullmatch(str(node.value))
    }
    known = {re.sub(r"\.(remedy|one|other)$", "", key) for key in catalogue("errors", "en")}
    assert {key for key in known if key.startswith("Q")} == raised
    assert len(raised) > 150


def test_no_raise_site_writes_a_sentence() -> None:
    assert sum(1 for _ in calls()) > 250
    for call in calls():
        assert len(call.args) == 1, ast.unparse(call)
        for keyword in call.keywords:
            for node in ast.walk(keyword.value):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not re.search(r"[a-z]{2,} [a-z]{2,}", node.value), ast.unparse(call)


def test_a_raise_site_fills_every_place_of_its_sentences() -> None:
    for call in calls():
        given = {keyword.arg for keyword in call.keywords}
        for node in ast.walk(call.args[0]):
            if isinstance(node, ast.Constant) and None not in given:
                key = str(node.value)
                area, name = ("errors", key) if KEY.fullmatch(key) else key.split(".", 1)
                forms = [name + end for end in ("", ".remedy", ".one", ".other")]
                texts = [text for form in forms if (text := catalogue(area, "fr").get(form))]
                assert places("".join(texts)) <= given, ast.unparse(call)


@pytest.mark.parametrize("area", AREAS)
def test_both_languages_name_the_same_commands_and_fields(area: str) -> None:
    french = catalogue(area, "fr")
    for key, text in catalogue(area, "en").items():
        assert sorted(COMMAND.findall(french[key])) == sorted(COMMAND.findall(text)), key


@pytest.mark.parametrize("area", AREAS)
def test_french_signs_have_their_unbreakable_space(area: str) -> None:
    for key, text in catalogue(area, "fr").items():
        prose = re.sub(r"\{[^{}]*\}|`[^`]*`|'", "x", text)
        assert not typographic_faults(prose), key


@pytest.mark.parametrize("area", AREAS)
def test_both_languages_say_something_of_their_own(area: str) -> None:
    french = catalogue(area, "fr")
    same = {key for key, text in catalogue(area, "en").items() if french[key] == text}
    assert same <= {"part", "Q415.field.remedy", "Q414.gguf.remedy"}


def test_an_error_speaks_the_language_that_is_spoken_and_is_english_to_a_program() -> None:
    error = ConfigError("Q240.language", given="de", known=LANGUAGES)
    english = "--lang de is not available: Quatrain does not speak that language."
    for language, said in [
        ("en", f"[Q240] {english}\nhelp: Use en or fr."),
        ("fr", "[Q240] --lang de n'est pas disponible\u00a0: Quatrain ne parle pas cette langue.\n"
               "aide\u00a0: Écrivez en ou fr."),
    ]:  # fmt: skip
        speak(language)
        assert str(error) == said
        assert (error.code, error.message, error.remedy) == ("Q240", english, "Use en or fr.")


def test_what_an_error_holds_is_said_in_the_same_language() -> None:
    inner = CheckpointError("Q401.nothing", model="m", near="")
    error = CheckpointError("Q401.base", adapter="a", name="m", why=inner.message)
    assert "which cannot be used: m does not exist." in str(error)
    speak("fr")
    assert "qui est inutilisable\u00a0: m n'existe pas." in str(error)


def test_an_error_without_a_remedy_has_no_line_of_help() -> None:
    error = DataError("Q340.empty", number=3)
    assert error.remedy == ""
    assert str(error) == "[Q340] prompt 3 is empty. It needs at least one token."


def test_an_error_survives_a_copy_and_a_pickle() -> None:
    error = DataError("Q323.rejected", number=1, total=2, share=0.5, allowed=0.01, listed="",
                      shown=(Sentence.of("errors.at", location="a:1", reason="x"),))  # fmt: skip
    for again in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), str(again)) == (DataError, str(error))
        assert "1 of 2 records cannot be used, 50.00%" in str(again)


def test_numbers_in_prose_are_french_and_those_in_commands_are_not() -> None:
    speak("fr")
    error = ConfigError("Q206.short", budget="1s", step_time=1234.56, check_time=0.25, left=0.0)
    assert "Un pas prend 1234,6 s" in str(error)
    cut = DataError("Q324.cut", number=1, conversations=2000, block_size=1024, first="a:1",
                    tokens=1500, max_cut_fraction=0.05, enough=1536)  # fmt: skip
    assert "data.max_cut_fraction=0.05 au plus" in str(cut)
    assert "Écrivez data.block_size=1536," in str(cut)


SERVED = {"why.string_too_long", "why.string_too_short", "why.too_short", "why.too_long"}
"""What only fields of a server's requests refuse."""


def test_whatever_a_field_refuses_is_said_in_french() -> None:
    speak("fr")
    whys = {key for key in catalogue("rules", "fr") if key.startswith("why.")}
    seen, english = set[str](), re.compile(r"should|input|valid\b", re.IGNORECASE)
    for name, field in Config.model_fields.items():
        kinds = getattr(field.annotation, "model_fields", {})
        for value in BAD:
            for given in [{name: value}, *({name: {kind: value}} for kind in kinds)]:
                try:
                    build(given)
                except QuatrainError as error:
                    text = str(error)
                    seen |= {key for key in whys if key not in seen and _says(key, text)}
                    assert not english.search(text), text
    assert seen == whys - SERVED


@pytest.mark.parametrize("kind", sorted(SERVED))
def test_what_a_server_refuses_is_said_in_french(kind: str) -> None:
    speak("fr")
    field = of_two(str if "string" in kind else list[int])
    given: Any = "a" if "string" in kind else [1]
    try:
        pydantic.TypeAdapter(field).validate_python(given * (3 if kind.endswith("long") else 1))
    except pydantic.ValidationError as error:
        [found] = error.errors()
        assert f"why.{found['type']}" == kind
        assert _says(kind, tell(rules.why(found)))
    else:
        pytest.fail("it was accepted")


def of_two(kind: Any) -> Any:
    return Annotated[kind, pydantic.Field(min_length=2, max_length=2)]


def _says(key: str, text: str) -> bool:
    """Look for a sentence, whatever its placeholders contain."""
    pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(catalogue("rules", "fr")[key]))
    return re.search(pattern, text) is not None
