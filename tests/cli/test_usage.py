"""Mistakes in the command line: a code, what came, and a remedy, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from outcome import Outcome

MISTAKES = [
    (["sfy"], "quatrain has no verb sfy.", "quatrain n'a pas de verbe sfy.", "sft"),
    (["data", "look"], "quatrain data has no verb look.", "quatrain data n'a pas de verbe look.",
     "inspect, prepare"),
    (["--verbose", "sft"], "quatrain has no option --verbose.",
     "quatrain n'a pas d'option --verbose.", "quatrain --help"),
    (["eval", "--limt", "3"], "quatrain eval has no option --limt.",
     "quatrain eval n'a pas d'option --limt.", "--limit"),
    (["sft"], "quatrain sft needs recipe, which is missing.",
     "quatrain sft demande recipe, qui manque.", "quatrain sft --help"),
    (["convert", "a", "b"], "quatrain convert needs --to, which is missing.",
     "quatrain convert demande --to, qui manque.", "quatrain convert --help"),
    (["eval", "a", "b", "--limit", "many"], "--limit takes a whole number",
     "--limit demande un nombre entier", "--limit 10"),
    (["report", "a", "b"], "quatrain report cannot be called so: ",
     "quatrain report ne s'appelle pas ainsi : ", "quatrain report --help"),
    (["ask", "a", "--context"], "--context: an option that takes a value needs one",
     "--context : une option à valeur en demande une", "--help"),
    (["plan", "--bases=3"], "--bases: an option that takes a value needs one",
     "--bases : une option à valeur en demande une", "--help"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "english", "french", "remedy"), MISTAKES)
def test_a_mistake_in_the_command_line_is_told_as_any_error(
    quatrain: Any, words: list[str], english: str, french: str, remedy: str
) -> None:
    for lang, said in (("en", english), ("fr", french)):
        found = quatrain(*words, "--lang", lang)
        assert isinstance(found, Outcome)
        assert found.code == 2
        assert found.out == ""
        err = found.err.replace("\u202f", " ").replace("\u00a0", " ")
        assert f"[Q209] {said}" in err
        assert remedy in err.split("\n", 1)[1]


def test_a_verb_alone_that_has_verbs_of_its_own_prints_its_help(quatrain: Any) -> None:
    found = quatrain("data", "--lang", "fr")
    assert "inspect" in found.out + found.err
    assert "Q209" not in found.err
