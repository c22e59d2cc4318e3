"""The language of the command line: chosen by --lang or the locale, in helps, runs and findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from quatrain.cli.main import app
from quatrain.cli.speech import take_language
from quatrain.words import catalogue
from tiny_run import recipe_in

VERBS = [["--help"], *([verb, "--help"] for verb in get_command(app).commands),
         ["data", "inspect", "--help"], ["data", "prepare", "--help"]]  # fmt: skip


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_a_french_help_has_no_english_sentence(quatrain: Any, words: list[str]) -> None:
    code, out, _ = quatrain(*words, "--lang", "fr")
    said = " ".join(out.split())
    assert code == 0
    assert catalogue("help", "fr")["help"] in said.replace("\u202f", " ") or "Afficher" in said
    french = set(catalogue("help", "fr").values())
    for sentence in set(catalogue("help", "en").values()) - french:
        assert " ".join(sentence.split()) not in said
    assert "help." not in said


@pytest.mark.parametrize("variable", ["LANG", "LC_ALL"])
def test_the_locale_chooses_the_language(
    quatrain: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv(variable, "fr_FR.UTF-8")
    assert "Affine un Llama 4" in quatrain("--help").out
    assert "Fine-tune a Llama 4" in quatrain("--help", "--lang=en").out


def test_lang_stands_anywhere_and_the_last_one_counts() -> None:
    assert take_language(["--lang", "en", "sft", "x", "--lang=fr"]) == ("fr", ["sft", "x"])
    assert take_language(["ask", "m", "--", "--lang", "fr"])[0] is None
    assert take_language(["sft", "--lang"]) == (None, ["sft", "--lang"])


def test_an_unknown_language_is_refused(quatrain: Any) -> None:
    code, _, err = quatrain("plan", "--bases", "--lang", "de")
    assert code == 2
    assert "[Q240]" in err


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["records that ask a held-out question: 3", "Ready to train: ",
                "records with wrongly decoded characters: 1", "ftfy.fix_encoding"]),
        ("fr", ["exemples qui posent une question de validation\u00a0: 3",
                "Prêt pour l'entraînement\u00a0: ", "exemples aux caractères mal décodés\u00a0: 1",
                "ftfy.fix_encoding"]),
    ],
)  # fmt: skip
def test_leaks_and_mojibake_are_told_in_the_language_and_in_english_to_a_program(
    quatrain: Any, tmp_path: Path, language: str, said: list[str]
) -> None:
    rows = [{"instruction": f"Combien font {i} et un ?", "output": str(i + 1)} for i in range(30)]
    rows.append({"instruction": "Un Ã©tÃ© ?", "output": "x"})
    train, held = tmp_path / "q.jsonl", tmp_path / "e.jsonl"
    for path, part in ((train, rows), (held, rows[:3])):
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    words = ["data", "inspect", train, "--eval", held, "--lang", language]
    out = quatrain(*words).out
    assert [sentence for sentence in said if sentence not in out] == []
    messages = [one["message"] for one in quatrain(*words, "--json").json["findings"]]
    assert "records that ask a held-out question: 3" in messages


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "stopped and saved; to resume: quatrain sft"),
     ("fr", "arrêté et enregistré\u202f; pour reprendre\u00a0: quatrain sft")],
)  # fmt: skip
def test_a_stopped_run_says_how_to_go_on(
    quatrain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    from quatrain.train.signals import StopSignal

    monkeypatch.setattr(StopSignal, "asked", property(lambda stop: True))
    monkeypatch.setattr(StopSignal, "__enter__", lambda stop: setattr(stop, "signal", 15) or stop)
    code, _, err = quatrain("sft", recipe_in(tmp_path), "--lang", language)
    assert code == 143, err
    assert said in err
