"""Mistakes in the command line: a code, what came, and a remedy, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from outcome import Outcome

MISTAKES = [
    (["sfy"], "quatrain has no command sfy.", "quatrain n'a pas de commande sfy.", "sft"),
    (["data", "look"], "quatrain data has no command look.",
     "quatrain data n'a pas de commande look.", "inspect, prepare"),
    (["--verbose", "sft"], "quatrain has no option --verbose.",
     "quatrain n'a pas d'option --verbose.", "quatrain --help"),
    (["eval", "--limt", "3"], "quatrain eval has no option --limt.",
     "quatrain eval n'a pas d'option --limt.", "--limit"),
    (["sft"], "quatrain sft needs recipe, and it is missing.",
     "quatrain sft demande recipe, et il manque.", "quatrain sft --help"),
    (["convert", "a", "b"], "quatrain convert needs --to, and it is missing.",
     "quatrain convert demande --to, et il manque.", "quatrain convert --help"),
    (["eval", "a", "b", "--limit", "many"], "--limit was given something other than a whole number",
     "--limit a reçu autre chose qu'un nombre entier", "--limit 10"),
    (["report", "a", "b"], "quatrain report cannot run with these arguments: ",
     "quatrain report n'accepte pas ces arguments : ", "quatrain report --help"),
    (["ask", "a", "--context"], "--context is missing its value",
     "--context attend une valeur", "--help"),
    (["plan", "--bases=3"], "--bases is missing its value, or was given one",
     "--bases attend une valeur qui manque, ou en a reçu une", "--help"),
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
