"""README.fr.md agrees with README.md: the same commands, figures, headings and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from typography import typographic_faults

ROOT = Path(__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
FRENCH = (ROOT / "README.fr.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->", re.DOTALL)


def test_both_have_the_same_commands() -> None:
    def commands(page: str) -> list[tuple[str, str]]:
        return [(name, _without_comments(name, text)) for name, text in BLOCK.findall(page)]

    assert len(commands(ENGLISH)) > 8
    assert commands(FRENCH) == commands(ENGLISH)


def test_both_have_the_same_figures_section_by_section() -> None:
    english = [_figures(part, ",", ".") for part in _sections(ENGLISH)]
    french = [_figures(part, "\u00a0", ",") for part in _sections(FRENCH)]
    assert sum(map(len, english)) > 30
    assert french == english


def test_both_have_the_same_headings_and_points() -> None:
    def outline(page: str) -> list[str]:
        return re.findall(r"^(#+|-|\d\.) ", CODE.sub("", page), re.MULTILINE)

    assert outline(FRENCH) == outline(ENGLISH)


def test_both_name_the_same_files_and_fields() -> None:
    def names(page: str) -> Counter[str]:
        return Counter(re.findall(r"`([^`\n]+)`", BLOCK.sub("", page)))

    assert names(FRENCH) == names(ENGLISH)


def test_both_lead_to_the_same_pages_and_to_each_other() -> None:
    def links(page: str) -> Counter[str]:
        return Counter(re.findall(r"\]\(([^)]+)\)", page))

    assert links(FRENCH) - links(ENGLISH) == Counter(["README.md"])
    assert links(ENGLISH) - links(FRENCH) == Counter(["README.fr.md"])


def test_french_signs_have_their_unbreakable_space() -> None:
    assert not typographic_faults(CODE.sub("", FRENCH))


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
