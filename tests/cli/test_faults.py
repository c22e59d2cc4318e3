"""Errors that users meet: the same code and facts in French and in English."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quatrain.errors import ConfigError
from quatrain.recipe import load_config, to_yaml
from quatrain.run_dir import HOLDER, REQUESTED, SETTLED
from quatrain.text.tokenizer import SimpleCharTokenizer
from quatrain.train.signals import StopSignal
from quatrain.train.start import locked, refuse_another_recipe, resolve
from quatrain.words import speak
from tiny_run import recipe_in, tiny_run

HOLD = """
import sys
from pathlib import Path
from quatrain.train.start import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
LANGUAGES = pytest.mark.parametrize("language", ["en", "fr"])


def said(text: str) -> str:
    """Put plain spaces in the place of those of typography."""
    return " ".join(text.replace("\u202f", " ").replace("\u00a0", " ").split())


def rows_in(directory: Path, name: str, pairs: list[tuple[str, str]]) -> Path:
    path = directory / name
    rows = [{"instruction": question, "output": answer} for question, answer in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@LANGUAGES
def test_a_signal_is_answered_and_a_second_one_leaves_at_once(
    language: str, caplog: pytest.LogCaptureFixture
) -> None:
    speak(language)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    first = {"en": "stopping after this step", "fr": "arrêt après ce pas"}
    assert first[language] in said(caplog.text)


@LANGUAGES
def test_data_without_a_token_to_learn_is_refused(
    quatrain: Any, tmp_path: Path, language: str
) -> None:
    few = ["data.block_size=8", "data.max_cut_fraction=1", "data.holdout=0"]
    code, _, err = quatrain("data", "prepare", recipe_in(tmp_path), *few, "--lang", language)
    what, remedy = {
        "en": ("no answer token fits in data.block_size=8. Of 24 conversations, 24 are too long",
               "help: Use a larger data.block_size, or data with answers."),
        "fr": ("aucun token de réponse ne tient dans data.block_size=8. Sur 24 conversations, 24 "
               "sont trop longues",
               "aide : Prenez un data.block_size plus grand, ou des données avec des réponses."),
    }[language]  # fmt: skip
    assert code == 3
    assert f"[Q303] {what}" in said(err)
    assert said(err).endswith(remedy)


@LANGUAGES
def test_all_mistakes_of_a_configuration_are_told_at_once(quatrain: Any, language: str) -> None:
    mistakes = ["train.learning_rat=1", "train.max_steps=many", "train.learning_rate=1e3",
                "model.num_experts_per_tok=99", "train.schedule=linear"]  # fmt: skip
    code, _, err = quatrain("sft", "demo", *mistakes, "--lang", language)
    expected = {
        "en": ["error[Q202] the configuration has 5 problems:",
               "train.learning_rat is not a field. Did you mean 'train.learning_rate'?",
               "train.max_steps='many': a whole number is expected, and this text is",
               "train.learning_rate='1e3': it must be at most 1.",
               "train.schedule='linear': it must be 'cosine' or 'wsd'.",
               "num_experts_per_tok=99 exceeds num_local_experts="],
        "fr": ["erreur[Q202] la configuration présente 5 problèmes :",
               "train.learning_rat n'est pas un champ. Vouliez-vous dire 'train.learning_rate' ?",
               "train.max_steps='many' : un entier est attendu, et ce texte n'en",
               "train.learning_rate='1e3' : la valeur doit être d'au plus 1.",
               "train.schedule='linear' : la valeur doit être 'cosine' ou 'wsd'.",
               "num_experts_per_tok=99 dépasse num_local_experts="],
    }[language]  # fmt: skip
    assert code == 2
    assert [sentence for sentence in expected if sentence not in said(err)] == []


@LANGUAGES
def test_a_vocabulary_below_the_tokenizers_is_refused(tmp_path: Path, language: str) -> None:
    speak(language)
    tokenizer = SimpleCharTokenizer(["abc"])
    tokenizer.save(tmp_path)
    config = load_config(None, [f"tokenizer.path={tmp_path}", "model.vocab_size=2"])
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    known = tokenizer.vocab_size
    what = {
        "en": f"model.vocab_size=2 is smaller than the vocabulary of the tokenizer, {known}",
        "fr": f"model.vocab_size=2 est plus petit que le vocabulaire du tokenizer, {known}",
    }
    assert f"[Q203] {what[language]}" in said(str(caught.value))  # fmt: skip
    assert f"model.vocab_size={known}." in str(caught.value)


@LANGUAGES
def test_another_recipe_is_refused_with_what_differs_and_what_may_change_is_said(
    tmp_path: Path, language: str, caplog: pytest.LogCaptureFixture
) -> None:
    speak(language)
    config = tiny_run(tmp_path)
    config.run_dir.mkdir()
    for name in (REQUESTED, SETTLED):
        (config.run_dir / name).write_text(to_yaml(config), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        refuse_another_recipe(tiny_run(tmp_path, learning_rate=0.1, seed=7))
    text = said(str(caught.value))
    begins = {
        "en": "holds a run of a different recipe:",
        "fr": "un entraînement d'une autre recette :",
    }
    assert text.startswith("[Q205]")
    assert begins[language] in text
    assert "- train.learning_rate: 0.003 -> 0.1 - train.seed: 0 -> 7" in text
    assert f"model.init={config.run_dir} run_dir=NEW" in text
    with caplog.at_level(logging.INFO):
        refuse_another_recipe(tiny_run(tmp_path, keep_last=5))
    taken = {"en": "changed by the new recipe:", "fr": "changé par la nouvelle recette :"}
    assert f"{taken[language]} train.keep_last: 2 -> 5" in said(caplog.text)


@LANGUAGES
def test_leaks_are_counted_and_stop_where_it_is_asked(
    quatrain: Any, tmp_path: Path, language: str
) -> None:
    pairs = [(f"Combien font {number} et un ?", str(number + 1)) for number in range(30)]
    train, held = rows_in(tmp_path, "q.jsonl", pairs), rows_in(tmp_path, "e.jsonl", pairs[:3])
    words = ["data", "inspect", train, "--eval", held, "--lang", language]
    stopped = quatrain(*words, "--fail-on-leak")
    counted = {"en": "records that ask a held-out question: 3",
               "fr": "exemples qui posent une question de validation : 3"}  # fmt: skip
    verdict = {
        "en": "Training would stop: 1 reason",
        "fr": "L'entraînement s'arrêterait : 1 raison",
    }
    assert (quatrain(*words).code, stopped.code) == (0, 3)
    assert counted[language] in said(stopped.out)
    assert verdict[language] in said(stopped.out)


@LANGUAGES
def test_text_that_is_not_french_or_was_decoded_wrongly_is_a_warning(
    quatrain: Any, tmp_path: Path, language: str
) -> None:
    pytest.importorskip("py3langid")
    pairs = [(f"What is the colour of the large house number {n} over there?", "It is green, I "
              f"think, like house {n}.") for n in range(30)]  # fmt: skip
    path = rows_in(tmp_path, "q.jsonl", [*pairs, ("Un Ã©tÃ© ?", "x")])
    out = said(quatrain("data", "inspect", path, "--lang", language).out)
    expected = {
        "en": ["of 30 sampled records are French; most are English",
               "records with wrongly decoded characters: 1", "ftfy.fix_encoding(text)"],
        "fr": ["des 30 exemples échantillonnés sont en français ; la plupart : anglais",
               "exemples aux caractères mal décodés : 1", "ftfy.fix_encoding(text)"],
    }[language]  # fmt: skip
    assert [sentence for sentence in expected if sentence not in out] == []


@LANGUAGES
def test_who_holds_a_run_is_named_and_a_killed_holder_holds_nothing(
    quatrain: Any, tmp_path: Path, language: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, run_dir, host = recipe_in(tmp_path), tmp_path / "run", socket.gethostname()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, _, err = quatrain("data", "prepare", recipe, "--lang", language)
    finally:
        holder.kill()
        holder.communicate()
    pid = holder.pid
    what = {"en": f"another process is training in {run_dir}: process {pid} on {host}, since",
            "fr": f"un autre entraînement est en cours dans {run_dir} : "
                  f"processus {pid} sur {host}, depuis"}  # fmt: skip
    remedy = {
        "en": "Do not delete any file: the lock disappears when the process ends.",
        "fr": "Ne supprimez aucun fichier : le verrou disparaît avec le processus.",
    }
    assert code == 2
    assert f"[Q204] {what[language]}" in said(err)
    assert remedy[language] in said(err)  # fmt: skip
    with caplog.at_level(logging.INFO), locked(run_dir):
        assert (run_dir / HOLDER).exists()
    left = {"en": "ended without unlocking it", "fr": "s'est terminé sans le libérer"}
    assert left[language] in said(caplog.text)
    assert not (run_dir / HOLDER).exists()
