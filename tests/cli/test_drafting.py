"""quatrain init: the recipe that it writes for a file runs, and explains its values."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from foreign import text_tools
from quatrain.recipe import SCHEMA, load_config, schema, shipped
from tiny import tiny_config, tiny_model
from tiny_run import questions_file

FAST = ["train.max_steps=2", "train.batch_size=2", "evaluate.questions=2", "train.threads=1"]
SMALL = ["model.d_model=32", "model.n_layers=2", "model.n_heads=2", "model.n_kv_heads=2",
         "model.d_k=16", "model.num_local_experts=2", "model.intermediate_size_expert=32",
         "model.intermediate_size_mlp=64"]  # fmt: skip


@pytest.fixture(autouse=True)
def at_a_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str) -> Any:
    return yaml.safe_load(Path(name).read_text(encoding="utf-8"))


def test_what_is_written_trains_at_once(quatrain: Callable[..., Any], tmp_path: Path) -> None:
    questions_file(tmp_path)
    done = quatrain("init", "questions.jsonl")
    assert done.code == 0, done.err
    assert "quatrain sft questions.yaml" in done.out
    recipe = read("questions.yaml")
    assert recipe["data"] == {"train": ["questions.jsonl"], "holdout": 0.1}
    assert recipe["model"] == {"preset": "small"}
    assert recipe["run_dir"] == "runs/questions"
    trained = quatrain("sft", "questions.yaml", *FAST, *SMALL, "--json")
    assert trained.code == 0, trained.err
    assert trained.json["finished"]


def test_a_base_gives_its_tokenizer_and_context(
    quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    tiny_model(tiny_config(vocab_size=512)).save_pretrained(tmp_path / "my base")
    text_tools(tmp_path / "my base")
    questions_file(tmp_path)
    done = quatrain("init", "questions.jsonl", "--base", "my base", "--out", "mine.yaml")
    assert done.code == 0, done.err
    assert read("mine.yaml")["model"] == {"init": "my base"}
    trained = quatrain("sft", "mine.yaml", *FAST, "--json")
    assert trained.code == 0, trained.err


def test_an_exam_takes_the_place_of_the_holdout(
    quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    questions_file(tmp_path)
    rows = [{"question": "Qui ?", "answer": "Marie, de Lyon, qui est née là"}]
    Path("exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert quatrain("init", "questions.jsonl", "--eval", "exam.jsonl").code == 0
    recipe = read("questions.yaml")
    assert recipe["data"] == {"train": ["questions.jsonl"], "eval": ["exam.jsonl"]}
    longest = recipe["generate"]["max_new_tokens"]
    assert longest >= 8  # the exam's answer, which is the longer one
    assert quatrain("sft", "questions.yaml", *FAST, *SMALL).code == 0


def test_columns_that_were_needed_stand_in_the_recipe(quatrain: Callable[..., Any]) -> None:
    with Path("quiz, deux.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["007", "Antwort: kurz"])
        table.writerows([f"Combien font {n} et 1 ?", f"{n + 1}"] for n in range(20))
    bare = quatrain("init", "quiz, deux.csv")
    assert bare.code == 3
    assert "[Q322]" in bare.err
    assert not list(Path().glob("*.yaml"))
    columns = ["data.columns.question=007", "--set", "data.columns.answer=Antwort: kurz"]
    done = quatrain("init", "quiz, deux.csv", *columns, "--out", "f.yaml")
    assert done.code == 0, done.err
    config = load_config("f.yaml", [])
    assert config.data.columns == {"question": "007", "answer": "Antwort: kurz"}
    assert config.data.train == ("quiz, deux.csv",)
    assert quatrain("sft", "f.yaml", *FAST, *SMALL).code == 0


def test_overrides_stand_in_the_recipe_too(quatrain: Callable[..., Any], tmp_path: Path) -> None:
    questions_file(tmp_path)
    more = ["train.budget=20m", "data.holdout=0.5", "model.preset=demo", "run_dir=runs/x y",
            "data.limit=8", "generate.max_new_tokens=3"]  # fmt: skip
    assert quatrain("init", "questions.jsonl", *more).code == 0
    recipe = read("questions.yaml")
    assert recipe == {
        "run_dir": "runs/x y",
        "model": {"preset": "demo"},
        "data": {"train": ["questions.jsonl"], "holdout": 0.5, "limit": 8},
        "train": {"budget": "20m"},
        "generate": {"max_new_tokens": 3},
    }
    assert "# budget" not in Path("questions.yaml").read_text(encoding="utf-8")


def test_what_stops_training_is_said_and_nothing_is_written(quatrain: Callable[..., Any]) -> None:
    rows = [{"instruction": f"Combien font {n} et 1 ?", "output": ""} for n in range(9)]
    Path("empty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = quatrain("init", "empty.jsonl")
    assert done.code == 3
    assert "[Q323]" in done.out
    assert "empty.jsonl:1" in done.out
    told = quatrain("init", "empty.jsonl", "--json")
    assert told.code == 3
    assert told.json["recipe"] is None
    assert told.json["inspection"]["stops"]
    assert sorted(path.name for path in Path().iterdir()) == ["empty.jsonl"]


def test_nothing_is_overwritten_unless_asked(quatrain: Callable[..., Any], tmp_path: Path) -> None:
    questions_file(tmp_path)
    Path("questions.yaml").write_text("mine: 1\n")
    done = quatrain("init", "questions.jsonl")
    assert done.code == 2
    assert "[Q210]" in done.err
    assert "--force" in done.err
    assert Path("questions.yaml").read_text() == "mine: 1\n"
    assert not Path(SCHEMA).exists()
    assert quatrain("init", "questions.jsonl", "--force").code == 0
    Path(SCHEMA).write_text('{"title": "another"}')
    assert quatrain("init", "questions.jsonl", "--out", "b.yaml").code == 2
    assert not Path("b.yaml").exists()
    Path("c.yaml").mkdir()
    assert quatrain("init", "questions.jsonl", "--out", "c.yaml", "--force").code == 2


@pytest.mark.parametrize("name", ["mine", "mine.json", "questions.jsonl"])
def test_a_recipe_has_a_recipes_name(
    name: str, quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    questions_file(tmp_path)
    done = quatrain("init", "questions.jsonl", "--out", name, "--force")
    assert done.code == 2
    assert ".yaml" in done.err


@pytest.mark.parametrize(
    ("lang", "comment"),
    [("en", "# fraction of the data held out"), ("fr", "# fraction des données mise de côté")],
)
def test_comments_are_in_the_language_that_is_spoken(
    lang: str, comment: str, quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    questions_file(tmp_path)
    assert quatrain("init", "questions.jsonl", "--lang", lang).code == 0
    text = Path("questions.yaml").read_text(encoding="utf-8")
    assert comment in text
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA}"
    assert "# train: {budget: 20m}" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_long_records_get_rows_that_hold_them(quatrain: Callable[..., Any]) -> None:
    long = " ".join(f"mot{n}" for n in range(400))
    rows = [{"instruction": f"{n} ?", "output": long if n % 2 else "court"} for n in range(20)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert quatrain("init", "long.jsonl").code == 0
    recipe = read("long.yaml")
    assert 512 < recipe["data"]["block_size"] <= 2048
    assert recipe["generate"]["max_new_tokens"] > 256
    assert quatrain("data", "prepare", "long.yaml").code == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_few_records_are_enough(number: int, quatrain: Callable[..., Any]) -> None:
    rows = [{"question": f"Combien font {n} et 1 ?", "answer": f"{n + 1}"} for n in range(number)]
    Path("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert quatrain("init", "few.jsonl").code == 0
    assert read("few.yaml")["data"]["holdout"] == (0 if number == 1 else 0.1)
    assert quatrain("sft", "few.yaml", *FAST, *SMALL).code == 0


def test_plain_text_is_for_pretraining(quatrain: Callable[..., Any]) -> None:
    Path("texte.txt").write_text("Le toit est rouge. Le mur est bleu.\n" * 200, encoding="utf-8")
    done = quatrain("init", "texte.txt")
    assert done.code == 0, done.err
    assert "quatrain pretrain texte.yaml" in done.out
    recipe = read("texte.yaml")
    assert recipe["train"] == {"task": "pretrain"}
    assert recipe["data"]["holdout"] == 0  # one document
    assert "generate" not in recipe
    assert quatrain("pretrain", "texte.yaml", *FAST, *SMALL).code == 0


def test_a_run_that_is_there_is_not_taken(quatrain: Callable[..., Any], tmp_path: Path) -> None:
    questions_file(tmp_path)
    Path("runs/questions").mkdir(parents=True)
    told = quatrain("init", "questions.jsonl", "--json").json
    assert read("questions.yaml")["run_dir"] == "runs/questions-2"
    assert told["recipe"] == "questions.yaml"
    assert told["command"] == ["quatrain", "sft", "questions.yaml"]


def test_the_schema_takes_every_shipped_recipe_and_refuses_strangers() -> None:
    checker = jsonschema.Draft202012Validator(schema())
    checker.check_schema(schema())
    folder = Path(__file__).parents[2] / "src" / "quatrain" / "recipes"
    for name in shipped():
        checker.validate(yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")))
    checker.validate({"data": {"train": "a.jsonl,b.jsonl"}, "model": {"preset": "small"}})
    for wrong in ({"modelx": {}}, {"train": {"epochs": "many"}}, {"model": {"preset": "smalll"}}):
        assert not checker.is_valid(wrong)
    described = schema()["$defs"]["TrainConfig"]["properties"]["budget"]["description"]
    assert "time limit" in described


def test_a_written_recipe_obeys_the_schema_beside_it(
    quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    questions_file(tmp_path)
    assert quatrain("init", "questions.jsonl").code == 0
    jsonschema.validate(read("questions.yaml"), json.loads(Path(SCHEMA).read_text("utf-8")))


def test_the_look_that_it_proposes_has_the_columns_that_it_was_given(
    quatrain: Callable[..., Any],
) -> None:
    rows = [["Frage", "Antwort"], *([f"Was ist {n}?", "Zahl"] for n in (1, 1, 2, 3, 4, 5))]
    with Path("fragen.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    columns = ["data.columns.question=Frage", "data.columns.answer=Antwort"]
    done = quatrain("init", "fragen.csv", *columns)
    assert done.code == 0, done.err
    assert f"quatrain data inspect fragen.csv {' '.join(columns)}" in done.out
