"""Recipes: what overrides what, and how a wrong one is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.recipe import build, line, load_config, read_recipe, shipped, to_yaml


def written(directory: Path, text: str) -> str:
    path = directory / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_is_a_config_and_survives_yaml(name: str) -> None:
    config = load_config(name, [])
    assert build(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("name", shipped("presets"))
def test_every_preset_is_a_config_that_survives_yaml(name: str) -> None:
    config = load_config(None, [f"model.preset={name}"])
    assert config.model.d_model != Config().model.d_model or name == "small"
    assert build(yaml.safe_load(to_yaml(config))) == config


def test_no_recipe_is_the_defaults() -> None:
    assert load_config(None, []) == Config()


def test_preset_recipe_override_and_command_go_in_this_order(tmp_path: Path) -> None:
    recipe = written(
        tmp_path,
        "model: {preset: demo, n_layers: 2, vocab_size: 500}\n"
        "train: {seed: 1, max_steps: 5, task: sft}\n",
    )
    config = load_config(
        recipe, ["model.vocab_size=600", "train.max_steps=7"], train={"task": "pretrain"}
    )
    assert config.model.d_model == 192  # the preset
    assert (config.model.n_layers, config.train.seed) == (2, 1)  # the recipe
    assert (config.model.vocab_size, config.train.max_steps) == (600, 7)  # the overrides
    assert config.train.task == "pretrain"  # the command


def test_the_last_of_two_overrides_holds() -> None:
    assert load_config(None, ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_an_eval_of_the_command_line_takes_the_place_of_a_recipes_holdout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert load_config("openquizz", []).data.holdout == 0.1
    with caplog.at_level("INFO"):
        data = load_config("openquizz", ["data.eval=exam.jsonl"]).data
    assert (data.eval, data.holdout) == (("exam.jsonl",), 0)
    assert "data.eval=exam.jsonl replaces data.holdout=0.1 of the recipe" in caplog.text
    assert load_config("openquizz", ["data.eval="]).data.holdout == 0.1


def test_a_holdout_of_the_command_line_takes_the_place_of_a_recipes_eval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        data = load_config("demo", ["data.holdout=0.2"]).data
    assert (data.eval, data.holdout) == ((), 0.2)
    said = "data.holdout=0.2 replaces data.eval=demo:heldout of the recipe"
    assert [record.getMessage() for record in caplog.records] == [said]
    assert load_config("demo", ["data.holdout=0"]).data.eval == ("demo:heldout",)


def test_a_preset_of_the_command_line_takes_the_place_of_a_recipes_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = written(tmp_path, "model: {init: some/model}")
    with caplog.at_level("INFO"):
        model = load_config(recipe, ["model.preset=demo"]).model
    assert (model.init, model.d_model) == (None, 192)
    assert "replaces model.init=some/model of the recipe" in caplog.text


@pytest.mark.parametrize(
    ("recipe", "override", "said"),
    [
        ("train: {micro_batch_size: 4}", "train.batch_size=6",
         "train.batch_size=6 replaces train.micro_batch_size=4 of the recipe"),
        ("generate: {temperature: 1, candidates: 3}", "generate.temperature=0",
         "generate.temperature=0 replaces generate.candidates=3 of the recipe"),
        ("model: {d_model: 64}", "model.init=m",
         "model.init=m replaces model.d_model=64 of the recipe"),
        ("model: {init: m}\ntrain: {adapter: lora}\nlora: {rank: 4}", "train.adapter=null",
         "train.adapter=null replaces lora={'rank': 4} of the recipe"),
    ],
)  # fmt: skip
def test_other_contradictions_of_the_recipe_give_way_too(
    recipe: str, override: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        load_config(written(tmp_path, recipe), [override])
    assert said in caplog.text
    caplog.clear()
    load_config(written(tmp_path, recipe), ["train.seed=1"])
    assert not caplog.text


def test_what_does_not_contradict_the_recipe_leaves_it_alone(tmp_path: Path) -> None:
    text = "train: {micro_batch_size: 4}\ngenerate: {temperature: 1, candidates: 3}"
    recipe = written(tmp_path, text)
    config = load_config(recipe, ["train.batch_size=8", "generate.temperature=0.5"])
    assert (config.train.micro_batch_size, config.generate.candidates) == (4, 3)
    with pytest.raises(ConfigError, match="must divide batch_size"):
        load_config(recipe, ["train.batch_size=6", "train.micro_batch_size=4"])


def test_eval_and_holdout_given_in_one_place_are_refused(tmp_path: Path) -> None:
    recipe = written(tmp_path, "data: {eval: e.csv, holdout: 0.2}\n")
    both = r"Q202(?s:.*)data\.eval=e\.csv and data\.holdout=0\.2 both choose the held-out data"
    with pytest.raises(ConfigError, match=both):
        load_config("openquizz", ["data.eval=e.csv", "data.holdout=0.2"])
    with pytest.raises(ConfigError, match=both):
        load_config(recipe, ["data.block_size=64"])
    with pytest.raises(ConfigError, match=r"(?s)both choose the held-out data.*learning_rate"):
        load_config(recipe, ["train.learning_rate=2"])


def test_init_takes_the_place_of_a_preset() -> None:
    config = load_config("demo", ["model.init=some/model"])
    assert config.model.model_fields_set == {"preset", "init"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.learning_rate=1e-3", 1e-3),  # YAML 1.1 takes this for text
        ("train.learning_rate=2.0e-3", 2e-3),
        ("train.learning_rate=null", None),
        ("train.learning_rate = 0.5", 0.5),
    ],
)
def test_numbers_are_read_as_people_write_them(override: str, expected: float | None) -> None:
    assert load_config(None, [override]).train.learning_rate == expected


def test_overrides_may_hold_lists_mappings_and_equals_signs() -> None:
    config = load_config(
        None, ["data.train=[a.csv, b.csv]", "data.columns={question: Q}", "tokenizer.path=a=b"]
    )
    assert config.data.train == ("a.csv", "b.csv")
    assert config.data.columns == {"question": "Q"}
    assert config.tokenizer.path == "a=b"


@pytest.mark.parametrize("override", ["train.seed", "=3", "", " =3"])
def test_what_is_no_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"Q201.*does not set a field(?s:.*)section\.field=value"):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("override", "field"),
    [("lr=1", "train.learning_rate"), ("train.num_train_epochs=1", "train.epochs"),
     ("model_name_or_path=x", "model.init"), ("output_dir=x", "run_dir"),
     ("data.dataset=x", "data.train")],
)  # fmt: skip
def test_a_field_of_another_trainer_is_answered_with_ours(override: str, field: str) -> None:
    with pytest.raises(ConfigError, match=rf"Q202(?s:.*)Did you mean '{re.escape(field)}'\?"):
        load_config("demo", [override])


def test_every_borrowed_name_stands_for_a_field_that_exists() -> None:
    from quatrain.borrowed import _FIELD_OF

    for fields in _FIELD_OF.values():
        for field in fields:
            section, _, name = field.removesuffix(".text").rpartition(".")
            held = type(getattr(Config(), section)) if section else Config
            assert name in held.model_fields, field


def test_an_override_of_an_unknown_field_proposes_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Q202(?s:.*)Did you mean 'train\.learning_rate'\?"):
        load_config("demo", ["train.learning_ratte=0.1"])


@pytest.mark.parametrize("value", ["2024-13-45", "{a: 1, a: 2}", "[", "*x", "!!python/name:x"])
def test_a_value_that_is_odd_yaml_is_text_and_no_traceback(value: str) -> None:
    assert load_config(None, [f"tokenizer.path={value}"]).tokenizer.path == value


ODD = ["No", "yes", "on", "off", "true", "1", "007", "0x1F", "1_000", "12:30:00", "2024-11-05",
       "1e-4", ".5", "1.0", "null", "~", "a: b", "x # y", "#1", "[x]", "{x}", "*x", "&x", "!x",
       "%x", "@x", "- x", "a,b: c", "9" * 5000, "2024-13-45", "=", "<<", "Oui\u00a0:"]  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:12])
def test_a_field_of_text_takes_it_as_typed(text: str) -> None:
    given = [f"{field}={text}" for field in ("run_dir", "data.columns.question", "data.hub_split")]
    config = load_config(None, given)
    assert str(config.run_dir) == str(Path(text))
    assert (config.data.columns["question"], config.data.hub_split) == (text, text)
    assert build(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("text", [t for t in ODD if not set(t) & set("[{*&!%@#:-<")])
def test_a_recipes_field_of_text_takes_it_as_typed(text: str, tmp_path: Path) -> None:
    recipe = f"run_dir: {text}\ndata: {{train: [{text}], columns: {{question: {text}}}}}\n"
    config = load_config(written(tmp_path, recipe), [])
    assert (str(config.run_dir), config.data.train) == (text, (text,))
    assert config.data.columns == {"question": text}
    again = written(tmp_path, to_yaml(config))
    assert load_config(again, []) == config


def test_dates_and_times_in_a_recipe_are_text_where_text_is_wanted(tmp_path: Path) -> None:
    recipe = "run_dir: 2024-13-45\ndata: {columns: {question: 12:30:00, on: 2024-11-05}}"
    config = load_config(written(tmp_path, recipe), [])
    assert str(config.run_dir) == "2024-13-45"
    assert config.data.columns == {"question": "12:30:00", "on": "2024-11-05"}


@pytest.mark.parametrize("nothing", ["null", "~", "Null", "NULL"])
def test_null_unsets_a_field_that_may_be_unset_and_quotes_make_it_text(
    nothing: str, tmp_path: Path
) -> None:
    recipe = written(tmp_path, "model: {init: some/model}\ntokenizer: {path: 'null'}")
    config = load_config(recipe, [f"model.init={nothing}", "train.budget=null"])
    assert (config.model.init, config.train.budget) == (None, None)
    assert config.tokenizer.path == "null"
    assert load_config(None, [f"tokenizer.path='{nothing}'"]).tokenizer.path == nothing
    assert load_config(None, ["model.init=none"]).model.init == "none"


def test_quotes_around_a_whole_value_are_not_of_it() -> None:
    config = load_config(None, ['data.columns.question="No"', "data.hub_split='a \"b'",
                                'tokenizer.path="a" b'])  # fmt: skip
    assert config.data.columns == {"question": "No"}
    assert (config.data.hub_split, config.tokenizer.path) == ('a "b', '"a" b')


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("train.seed=1:30", "a whole number is expected, and this text"),
        ("train.seed=yes", "a whole number is expected, and this text"),
        ("train.learning_rate=on", "a number is expected, and this text"),
        ("train.seed=2024-11-05", "a whole number is expected, and this text"),
        ("train.seed=1.5", "a whole number is expected, and this one"),
        ("model.use_qk_norm=2", "true or false is expected"),
        ("lora.ranks.experts=x", "a whole number is expected, and this text"),
    ],
)
def test_what_yaml_would_take_for_a_number_is_refused(override: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"Q202(?s:.*){why}"):
        load_config(None, [override])


def test_numbers_and_switches_mean_what_they_say() -> None:
    config = load_config(None, [
        "train.seed=010", "train.max_steps=1_000", "model.use_qk_norm=off", "train.epochs=+2.5e1",
        "model.rope_layers=[1, 0, 1, 1]", "lora.ranks.experts=4", "model.extra.x=[1, no, ~, a]",
        "train.adapter=lora", "model.init=x",
    ])  # fmt: skip
    assert (config.train.seed, config.train.max_steps, config.train.epochs) == (10, 1000, 25.0)
    assert config.model.use_qk_norm is False
    assert config.model.rope_layers == (1, 0, 1, 1)
    assert config.model.extra == {"x": [1, False, None, "a"]}
    assert config.lora.ranks == {"experts": 4}


def test_a_name_with_a_comma_that_is_there_is_one_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a, b.jsonl", "x.jsonl", "u,v,w.csv"):
        (tmp_path / name).touch()
    for given, sources in [
        ("a, b.jsonl", ("a, b.jsonl",)),
        ("x.jsonl,a, b.jsonl , u,v,w.csv,y", ("x.jsonl", "a, b.jsonl", "u,v,w.csv", "y")),
        ("c, d.jsonl", ("c", "d.jsonl")),
        ('"c, d.jsonl"', ("c, d.jsonl",)),
        ("[c, 'd, e.csv', 007]", ("c", "d, e.csv", "007")),
        (" , ", ()),
    ]:
        assert load_config(None, [f"data.train={given}"]).data.train == sources
        assert load_config(None, [f"data.eval={given}"]).data.eval == sources


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Q201(?s:.*)Did you mean 'openquizz'\?"):
        load_config("openquiz", [])


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Q201(?s:.*)Did you mean 'scout'\?"):
        load_config(None, ["model.preset=scoot"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {seed: 1, seed: 2}", "these keys appear twice: seed"),
        ("train: {seed: 1}\ntrain: {seed: 2}", "these keys appear twice: train"),
        ("train: [", "is not valid YAML"),
        ("- train", "is of type list. A recipe must be"),
        ("a: " + "[" * 3000, "is not valid YAML"),
        ("x: !!python/object/apply:os.system [true]", "is not valid YAML"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"Q201(?s:.*){message}"):
        load_config(written(tmp_path, text), [])


def test_a_recipe_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("run_dir: été".encode("latin-1"))
    with pytest.raises(ConfigError, match="Q201"):
        load_config(str(path), [])


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "# nothing yet\n")) == {}


def test_sections_of_the_wrong_kind_are_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Q202"):
        load_config(written(tmp_path, "train: 5\n1: 2\n"), [])


def test_a_recipe_that_was_read_is_not_changed_by_an_override() -> None:
    load_config("demo", ["train.max_steps=3"])
    assert load_config("demo", []).train.max_steps != 3


COMMAND = """
import sys
from quatrain.cli.main import main
sys.argv = ["quatrain", *sys.argv[1:]]
try:
    main()
except SystemExit as leaving:
    print("torch" in sys.modules, leaving.code)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["sft", "--help"], 0),
        (["sft", "demo", "train.learning_ratte=1"], 2),
        (["pretrain", "no-such-recipe"], 2),
        (["sft", "demo", "model.d_model=250", "train.learning_rate=1e3"], 2),
        (["ask", "runs/none", "Où ?", "--set", "temprature=1"], 2),
    ],
)
def test_help_and_wrong_recipes_are_answered_before_torch_is_imported(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == f"False {code}", done.stderr
    assert "Traceback" not in done.stderr


@hypothesis.given(
    st.lists(st.text(max_size=12), min_size=1, max_size=3), st.text(min_size=1, max_size=12)
)
@hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_a_line_is_read_back_as_it_was_with_a_comment_behind(
    tmp_path: Path, names: list[str], column: str
) -> None:
    fields = {"train": names, "columns": {"question": column}}
    lines = [f"  {line(field, value)}  # note" for field, value in fields.items()]
    recipe = written(tmp_path, "\n".join(["data:", *lines]) + "\n")
    assert read_recipe(recipe)["data"] == fields
