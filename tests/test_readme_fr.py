"""The French pages say what the English ones say: commands, figures, headings and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from typography import typographic_faults

ROOT = Path(__file__).parents[1]
PAIRS = {
    name: ((ROOT / f"{name}.md").read_text("utf-8"), (ROOT / f"{name}.fr.md").read_text("utf-8"))
    for name in ("README", "docs/guide", "examples/faq/README", "examples/lecture/README")
}
both = pytest.mark.parametrize(("english", "french"), PAIRS.values(), ids=PAIRS)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->", re.DOTALL)


@both
def test_both_have_the_same_commands(english: str, french: str) -> None:
    def commands(page: str) -> list[tuple[str, str]]:
        return [(name, _without_comments(name, text)) for name, text in BLOCK.findall(page)]

    assert commands(english)
    assert commands(french) == commands(english)


@both
def test_both_have_the_same_figures_section_by_section(english: str, french: str) -> None:
    figures = [_figures(part, ",", ".") for part in _sections(english)]
    assert sum(map(len, figures)) > 5
    assert [_figures(part, "\u00a0", ",") for part in _sections(french)] == figures


@both
def test_both_have_the_same_headings_and_points(english: str, french: str) -> None:
    def outline(page: str) -> list[str]:
        return re.findall(r"^(#+|-|\d\.) ", CODE.sub("", page), re.MULTILINE)

    assert outline(french) == outline(english)


@both
def test_both_name_the_same_files_and_fields(english: str, french: str) -> None:
    def names(page: str) -> Counter[str]:
        return Counter(re.findall(r"`([^`\n]+)`", BLOCK.sub("", page)))

    assert names(french) == names(english)


@both
def test_both_lead_to_the_same_pages_in_their_language(english: str, french: str) -> None:
    def links(page: str) -> Counter[str]:
        return Counter(re.findall(r"\]\(([^)]+)\)", page))

    def in_english(link: str) -> str:
        return link.replace(".fr.md", ".md")

    of_french = Counter(map(in_english, links(french).elements()))
    assert of_french == Counter(map(in_english, links(english).elements()))
    assert sum(link.endswith(".fr.md") for link in links(english)) == 1


@both
def test_french_signs_have_their_unbreakable_space(english: str, french: str) -> None:
    assert not typographic_faults(CODE.sub("", french))


@pytest.mark.parametrize("text", ["Pourquoi ?", "« oui»", "l'eau", "2 748 questions", "5 %"])
def test_a_fault_of_typography_is_found(text: str) -> None:
    assert typographic_faults(text)


def _without_comments(language: str, text: str) -> str:
    """Leave out what is written for a reader: comments, and the second column of the tree."""
    if language == "":
        return "\n".join(line.split()[0] for line in text.splitlines())
    return re.sub(r" *# .*", "", text) if language == "bash" else text


def _sections(page: str) -> list[str]:
    return re.split(r"^#{2,} .*$", BLOCK.sub("", page), flags=re.MULTILINE)


def _figures(text: str, thousands: str, decimal: str) -> Counter[str]:
    joined = re.sub(rf"(?<=\d){thousands}(?=\d{{3}}\b)", "", text)
    return Counter(
        number.replace(decimal, ".") for number in re.findall(rf"\d+(?:[.{decimal}]\d+)*", joined)
    )
