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


BORROWED = [
    ("--base", "model.init=VALUE"), ("--model", "model.init=VALUE"),
    ("--model-name", "model.init=VALUE"), ("--model_name_or_path", "model.init=VALUE"),
    ("--data", "data.train=VALUE"), ("--dataset", "data.train=VALUE"),
    ("--output_dir", "run_dir=VALUE"), ("--output-dir", "run_dir=VALUE"),
    ("--run-dir", "run_dir=VALUE"), ("--lr", "train.learning_rate=VALUE"),
    ("--learning_rate", "train.learning_rate=VALUE"), ("--epochs", "train.epochs=VALUE"),
    ("--num_train_epochs", "train.epochs=VALUE"), ("--batch-size", "train.batch_size=VALUE"),
    ("--per_device_train_batch_size", "train.micro_batch_size=VALUE"),
    ("--gradient_accumulation_steps",
     "train.batch_size=VALUE and train.micro_batch_size=VALUE"),
    ("--max_seq_length", "data.block_size=VALUE"), ("--cutoff_len", "data.block_size=VALUE"),
    ("--lora-r", "lora.rank=VALUE"), ("--seed", "train.seed=VALUE"),
    ("--train.epochs", "train.epochs=VALUE"), ("--budget", "train.budget=VALUE"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "field"), BORROWED)
def test_an_option_of_another_trainer_is_answered_with_the_field(
    quatrain: Any, option: str, field: str
) -> None:
    for verb in ("sft", "plan"):
        found = quatrain(verb, "questions", option, "X", "--lang", "en")
        assert found.code == 2
        assert f"[Q209] quatrain {verb} has no option {option}. It is a field" in found.err
        assert f"Write {field} instead." in found.err
    french = quatrain("sft", "questions", f"{option}=X", "--lang", "fr").err
    assert f"Écrivez plutôt {field.replace(' and ', ' et ')}." in french


def test_a_command_that_answers_names_only_fields_that_it_reads(quatrain: Any) -> None:
    ask = quatrain("ask", "m", "Où ?", "--temperature", "1", "--lang", "en").err
    assert "Write --set generate.temperature=VALUE instead." in ask
    assert "generate.seed=VALUE" in quatrain("eval", "m", "f", "--seed", "1", "--lang", "en").err
    for words in (("ask", "m", "--lr", "1"), ("eval", "m", "f", "--lr", "1"),
                  ("report", "r", "--lr", "1")):  # fmt: skip
        said = quatrain(*words, "--lang", "en").err
        assert "has no option --lr." in said
        assert "learning_rate" not in said


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
