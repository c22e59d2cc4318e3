"""Habits of newcomers: a file in a recipe's place, `~`, names with spaces, directories in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from dense_models import dense
from foreign import silently
from quatrain.errors import ConfigError
from quatrain.files import at_home
from quatrain.recipe import load_config
from quatrain.train.start import locked
from tiny_run import questions_file, recipe_in, tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quatrain.train.run import run

    directory = tmp_path_factory.mktemp("un dossier")
    return run(tiny_run(directory, "un modèle", max_steps=2), quiet=True).run_dir


def test_a_file_of_questions_is_no_recipe_and_the_error_says_where_it_goes(
    quatrain: Any, tmp_path: Path
) -> None:
    file = questions_file(tmp_path)
    for given in (file, tmp_path):
        said = quatrain("sft", given)
        assert said.code == 2
        assert f"{given} is no recipe" in said.err
        assert f"quatrain init {given}" in said.err
    said = quatrain("sft", "questions", file)
    assert said.code == 2
    assert f"data.train={file}" in said.err
    assert "Traceback" not in said.err


def test_a_name_that_is_not_there_is_still_looked_for_among_the_recipes(quatrain: Any) -> None:
    said = quatrain("sft", "question")
    assert "is neither a shipped recipe nor a YAML file" in said.err
    assert "'questions'" in said.err


@pytest.mark.parametrize("given", ["~/un dossier/x", "~/x"])
def test_a_tilde_is_the_home_wherever_a_path_is_given(
    given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    there = given.replace("~", str(tmp_path))
    config = load_config(None, [f"run_dir={given}", f"model.init={given}"])
    assert (str(config.run_dir), config.model.init) == (there, there)
    assert load_config(None, [f"tokenizer.path={given}"]).tokenizer.path == there


@pytest.mark.parametrize("given", ["~", "~nobody-of-this-name/x", "a~", "x/~/y", "~$quiz.xlsx"])
def test_a_tilde_that_is_no_home_stays(given: str) -> None:
    assert at_home(given) == given


def test_a_file_whose_name_begins_with_a_tilde_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quatrain: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    questions_file(tmp_path).rename(tmp_path / "~quiz.jsonl")
    said = quatrain("data", "inspect", "~quiz.jsonl")
    assert said.code == 0, said.err
    assert "24 conversations" in said.out


def test_every_verb_takes_a_quoted_tilde(
    trained: Path, monkeypatch: pytest.MonkeyPatch, quatrain: Any
) -> None:
    monkeypatch.setenv("HOME", str(trained.parent))
    run = f"~/{trained.name}"
    context = trained.parent / "texte.txt"
    context.write_text("Le toit est vert.", encoding="utf-8")
    commands = (
        ("ask", run, "Quoi ?", "--context=~/texte.txt", "--set", "max_new_tokens=1"),
        ("eval", run, "~/questions.jsonl", "--limit", "1"),
        ("report", run),
        ("convert", run, "~/neu", "--to=hf", "--no-check"),
        ("data", "inspect", "~/questions.jsonl", f"--tokenizer={run}"),
        ("init", "~/questions.jsonl", f"--base={run}", "--out=~/quiz.yaml"),
        ("sft", "~/quiz.yaml", "run_dir=~/encore", "train.max_steps=1"),
    )
    for words in commands:
        said = quatrain(*words)
        assert said.code == 0, (words, said.err)
    made = {"neu", "quiz.yaml", "encore"}
    assert made <= {path.name for path in trained.parent.iterdir()}
    assert not Path("~").exists()


def test_remedies_quote_names_with_spaces(trained: Path, quatrain: Any) -> None:
    recipe = recipe_in(trained.parent)
    said = quatrain("sft", recipe, f"run_dir={trained}", "train.max_steps=3")
    assert "[Q205]" in said.err
    assert f"'model.init={trained}'" in said.err


@pytest.mark.parametrize("name", ["quiz.csv", "data/train/quiz.csv", "config.json"])
def test_a_directory_with_other_files_is_no_run_directory_and_loses_none(
    name: str, tmp_path: Path, quatrain: Any
) -> None:
    project = tmp_path / "project"
    file = project / name
    file.parent.mkdir(parents=True)
    file.write_text("question,answer\nUn ?,1\n", encoding="utf-8")
    for verb in (("sft",), ("plan",), ("data", "prepare")):
        said = quatrain(*verb, recipe_in(tmp_path), f"run_dir={project}")
        assert said.code == 2
        assert "[Q211]" in said.err
        assert name.partition("/")[0] in said.err
    assert [path for path in project.rglob("*") if path.is_file()] == [file]


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    file = questions_file(tmp_path)
    for run_dir in (file, file / "run"):
        with pytest.raises(ConfigError, match=r"Q211.*is a file"), locked(run_dir):
            pass


def test_an_empty_directory_and_one_of_a_run_are_taken(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "leer").mkdir()
    (tmp_path / "leer" / ".gitkeep").touch()
    (tmp_path / "demo" / "pretrain").mkdir(parents=True)
    (tmp_path / "demo" / "exam-before.json").touch()
    os.symlink(trained, tmp_path / "link")
    for run_dir in (tmp_path / "leer", tmp_path / "demo", tmp_path / "link", tmp_path / "new"):
        with locked(run_dir):
            assert (run_dir / "run.lock").exists()


def test_a_source_that_is_given_twice_is_said(tmp_path: Path, quatrain: Any) -> None:
    file = questions_file(tmp_path)
    for given in (f"{file},{file}", f"{tmp_path},{file}", f"{file},{tmp_path}/"):
        said = quatrain("data", "inspect", given)
        assert "given more than once" in " ".join(said.out.split()), given
    assert "more than once" not in quatrain("data", "inspect", file).out


def test_inspect_says_what_comes_next(trained: Path, tmp_path: Path, quatrain: Any) -> None:
    file = questions_file(tmp_path)
    said = quatrain("data", "inspect", file, "data.limit=20", "--eval", file).out
    assert f"next: quatrain init {file} data.limit=20 --eval {file} --base MODEL" in said
    assert "quatrain plan --bases" in said
    said = quatrain("data", "inspect", file, "--tokenizer", trained).out
    assert f"--base '{trained}'" in said
    assert "MODEL" not in said
    (tmp_path / "bad.jsonl").write_text('{"question": 1}\n' * 5)
    assert "next:" not in quatrain("data", "inspect", tmp_path / "bad.jsonl").out


def test_inspect_says_how_a_column_beside_becomes_the_context(
    tmp_path: Path, quatrain: Any
) -> None:
    table = "Notice;question;answer\nMarie est née à Lyon.;Où ?;À Lyon\n"
    (tmp_path / "quiz.csv").write_text(table, encoding="utf-8")
    command = ("data", "inspect", tmp_path / "quiz.csv")
    assert "data.columns.context=COLUMN" in quatrain(*command).out
    assert (
        "data.columns.context=COLUMN" not in quatrain(*command, "data.columns.context=Notice").out
    )


def test_pretraining_says_how_the_model_is_fine_tuned(tmp_path: Path, quatrain: Any) -> None:
    (tmp_path / "texte.txt").write_text("Le toit est vert. " * 50, encoding="utf-8")
    said = quatrain("pretrain", recipe_in(tmp_path), f"data.train={tmp_path / 'texte.txt'}",
                    "data.holdout=0", "train.max_steps=1")  # fmt: skip
    assert said.code == 0, said.err
    assert f"quatrain sft questions data.train=FILE model.init={tmp_path / 'run'}" in said.err
    assert "to answer" not in said.err


def test_a_model_in_our_form_says_how_it_is_asked_and_trained(
    trained: Path, tmp_path: Path, quatrain: Any
) -> None:
    said = quatrain("convert", trained, tmp_path / "neu", "--to", "llama4", "--no-check")
    assert f'ask the model: quatrain ask {tmp_path / "neu"} "..."' in said.err
    assert "fine-tune it: quatrain sft questions data.train=FILE" in said.err


def test_a_converted_adapter_says_what_it_goes_with(tmp_path: Path, quatrain: Any) -> None:
    dense(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    shape = PeftConfig(r=3, target_modules=["v_proj"], init_lora_weights=False)
    adapter = silently(get_peft_model, model, shape)
    adapter.peft_config["default"].base_model_name_or_path = str(tmp_path / "dense")
    silently(adapter.save_pretrained, tmp_path / "lora")
    expected = {
        ("--to", "gguf"): (
            "llama-cli -m BASE.gguf --lora",
            "BASE.gguf is made by: quatrain convert",
        ),
        ("--to", "hf"): ("PeftModel.from_pretrained(BASE, ",),
        ("--to", "gguf", "--merge"): ("llama-cli -m", "ollama create NAME -f"),
        ("--to", "hf", "--merge"): ("AutoModelForCausalLM.from_pretrained(",),
    }
    for number, (words, parts) in enumerate(expected.items()):
        said = quatrain("convert", tmp_path / "lora", tmp_path / str(number), *words, "--no-check")
        assert said.code == 0, said.err
        assert all(part in said.err for part in parts), (words, said.err)
    base = tmp_path / "base" / "model-f32.gguf"
    quatrain("convert", tmp_path / "dense", base.parent, "--to", "gguf", "--dtype", "f32")
    words = ("--to", "gguf", "--base", base, "--no-check")
    said = quatrain("convert", tmp_path / "lora", tmp_path / "of-gguf", *words)
    assert f"llama-cli -m {base} --lora {tmp_path / 'of-gguf'}" in said.err
    assert "BASE.gguf" not in said.err
