"""The files of the page: the same words in both languages, and nothing from elsewhere."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from page_server import PAGE
from typography import typographic_faults

ROOT = Path(__file__).parents[3]
WORDS = json.loads((PAGE / "words.json").read_text(encoding="utf-8"))
SCRIPTS = sorted(PAGE.glob("*.js"))
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
STYLE = (PAGE / "page.css").read_text(encoding="utf-8")
CODE = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}


def without_form(key: str) -> str:
    return re.sub(r"\.(one|other)$", "", key)


def test_languages_agree_in_keys_and_places() -> None:
    assert list(WORDS) == ["en", "fr"]
    assert list(WORDS["fr"]) == list(WORDS["en"])
    for key, english in WORDS["en"].items():
        french = WORDS["fr"][key]
        assert set(re.findall(r"\{.*?\}", french)) == set(re.findall(r"\{.*?\}", english)), key


def test_every_plural_has_both_forms() -> None:
    ones = {key for key in WORDS["en"] if key.endswith(".one")}
    others = {key for key in WORDS["en"] if key.endswith(".other")}
    assert ones
    assert {without_form(key) for key in ones} == {without_form(key) for key in others}


def test_every_sentence_is_said_and_every_sentence_that_is_said_exists() -> None:
    known = {without_form(key) for key in WORDS["en"]}
    code = "".join(CODE.values())
    in_page = set(re.findall(r'data-(?:say|label)="(.*?)"', HTML))
    texts = set(re.findall(r'"([\w.]+)"', code))
    begun = tuple(re.findall(r"`([\w.]+\.)\$\{", code))
    assert in_page <= known
    said = set(re.findall(r'(?:say|label): \[?"([\w.]+)"', code))
    said |= set(re.findall(r'(?:put\(.+?, |tell\(|plain\()"([\w.]+)"', code))
    assert said <= known
    assert not {key for key in known - in_page - texts if not key.startswith(begun)}


def test_french_is_set_as_french_is() -> None:
    faults = {
        key: found for key, text in WORDS["fr"].items() if (found := typographic_faults(text))
    }
    assert not faults


def test_nothing_comes_from_elsewhere_and_nothing_runs_inline() -> None:
    for text in (HTML, STYLE, *CODE.values()):
        assert not re.findall(r"https?:(?!//www\.w3\.org/2000/svg)|//\w+\.\w+/|@import|url\(", text)
    assert not re.findall(
        r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=\"static/)", HTML
    )


def test_no_script_reads_html_or_code_from_text() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setHTML"
    assert not [name for name, text in CODE.items() if re.search(ways, text)]


def test_the_key_is_not_stored() -> None:
    stored = {
        name: re.findall(r"\w+Storage\.setItem\((.*?)\);", text) for name, text in CODE.items()
    }
    assert {name: calls for name, calls in stored.items() if calls} == {
        "talk.js": ["KEPT, JSON.stringify({ ...state, turns })"],
        "words.js": ["STORED, name"],
    }
    assert "key" not in re.findall(r"const state = \{(.*?)\}", CODE["main.js"])[0]


def test_the_page_has_the_colours_of_the_report() -> None:
    def colours(style: str) -> list[dict[str, str]]:
        blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
        return [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]

    report = (PAGE.parents[1] / "report" / "page.css").read_text(encoding="utf-8")
    for ours, theirs in zip(colours(STYLE), colours(report), strict=True):
        shared = ours.keys() & theirs.keys()
        assert len(shared) > 10
        assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("path", [*SCRIPTS, PAGE / "index.html", PAGE / "page.css"], ids=str)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_the_page_is_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "serve/page/*" in settings["tool"]["setuptools"]["package-data"]["quatrain"]
