"""Config: its rules, all broken ones at once, and what is derived."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quatrain.config import Config, GenerateConfig, ModelConfig, RopeScaling, TrainConfig
from quatrain.errors import ConfigError
from quatrain.recipe import build, load_config, to_yaml
from quatrain.sections import Section, seconds


def problems(**sections: Any) -> list[str]:
    """The lines that `build` lists."""
    with pytest.raises(ConfigError) as caught:
        build(sections)
    assert caught.value.code == "Q202"
    assert caught.value.exit_code == 2
    first, *lines = caught.value.message.splitlines()
    assert first.startswith(f"the configuration has {len(lines)} problem")
    return [line.removeprefix("  - ") for line in lines]


def problem(**sections: Any) -> str:
    (line,) = problems(**sections)
    return line


def test_the_defaults_are_allowed_and_are_their_own_yaml() -> None:
    assert build({}) == Config()


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        model={"d_model": 250, "n_heads": 4, "num_local_experts": 2, "num_experts_per_tok": 3},
        train={"learning_ratte": 0.1, "learning_rate": 1e3, "max_steps": "many",
               "batch_size": 8, "micro_batch_size": 3},
    )  # fmt: skip
    assert len(found) == 6
    assert any("n_heads=4: 2 left over." in line and "Use d_model=252" in line for line in found)
    assert "num_experts_per_tok=3 exceeds num_local_experts=2." in found


def test_a_misspelt_field_is_answered_with_the_nearest() -> None:
    assert problem(train={"learning_ratte": 0.1}) == (
        "train.learning_ratte is not a field. Did you mean 'train.learning_rate'?"
    )


def test_a_field_of_another_section_is_answered_with_its_place() -> None:
    assert "Did you mean 'train.learning_rate'?" in problem(model={"learning_rate": 0.1})
    assert "Did you mean 'train.learning_rate'?" in problem(model={"learning_ratte": 0.1})
    assert "Did you mean 'train.seed'?" in problem(seed=1)


def test_a_misspelt_section_is_answered_with_the_nearest() -> None:
    assert "Did you mean 'train'?" in problem(trian={"seed": 1})


def test_a_field_like_no_other_gets_no_proposal() -> None:
    assert problem(train={"zzz": 1}) == "train.zzz is not a field."


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "max_steps", "many", "train.max_steps='many': a whole number"),
        ("train", "max_steps", 1.5, "train.max_steps=1.5: a whole number"),
        ("train", "learning_rate", 1e3, "learning_rate=1000.0: .* at most 1"),
        ("train", "learning_rate", 0, "train.learning_rate=0: .* greater than 0"),
        (
            "train",
            "schedule",
            "linear",
            "train.schedule='linear': .*'cosine' or 'wsd'",
        ),
        ("train", "keep_last", 1, "at least 2"),
        ("train", "seed", -1, "at least 0"),
        ("train", "epochs", math.inf, "finite"),
        ("train", "epochs", math.nan, "finite"),
        ("train", "budget", "soon", "train.budget: 'soon' is not a length of time"),
        ("model", "attn_scale", math.nan, "finite"),
        ("model", "n_layers", 10**12, "model.n_layers=1000000000000: .* at most "),
        ("data", "holdout", 1, "data.holdout=1: .* less than 1"),
        ("data", "packing", "tight", "'best_fit' or 'padded'"),
    ],
)
def test_a_bad_value_is_shown_with_its_rule(
    section: str, field: str, value: Any, message: str
) -> None:
    assert re.search(message, problem(**{section: {field: value}}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 250, "n_heads": 4}, "d_model=250 cannot be divided into n_heads=4"),
        ({"d_model": 4, "n_heads": 8}, "n_heads must divide d_model"),
        ({"d_k": 15}, "d_k=15 is odd"),
        (
            {"n_heads": 8, "n_kv_heads": 3},
            "n_heads=8 cannot be divided by n_kv_heads=3",
        ),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok=9 exceeds num_local_experts=8"),
        ({"intermediate_size_shared": 7}, "intermediate_size_shared=7 differs from"),
        ({"rope_layers": [1, 1]}, "It needs a 0 or a 1 for each of the 4 layers"),
        ({"rope_layers": [1, 1, 2, 0]}, "It needs a 0 or a 1"),
        ({"moe_layers": [4]}, "moe_layers is [4]"),
        ({"max_position_embeddings": 100}, "data.block_size=512 exceeds"),
    ],
)
def test_a_rule_between_fields_is_said_with_its_numbers(
    fields: dict[str, Any], message: str
) -> None:
    assert message in problem(model=fields)


def test_a_micro_batch_divides_the_batch() -> None:
    message = problem(train={"batch_size": 8, "micro_batch_size": 3})
    assert "batch_size=8 cannot be divided by micro_batch_size=3: 2 left over" in message


def test_what_is_left_out_is_derived() -> None:
    model = ModelConfig(d_model=96, n_heads=6, n_layers=5, interleave_moe_layer_step=2)
    assert (model.d_k, model.n_kv_heads) == (16, 6)
    assert (model.intermediate_size_expert, model.intermediate_size_shared) == (192, 192)
    assert model.intermediate_size_mlp == 384
    assert model.rope_layers == (1, 1, 1, 0, 1)
    assert model.moe_layers == (1, 3)


def test_replace_derives_again_what_was_derived_and_keeps_what_was_said() -> None:
    derived = ModelConfig(d_model=96, n_heads=6).replace(d_model=192, n_layers=2)
    assert (derived.d_k, derived.rope_layers) == (32, (1, 1))
    said = ModelConfig(d_model=96, n_heads=6, d_k=8).replace(d_model=192)
    assert said.d_k == 8


def test_replace_keeps_the_rules() -> None:
    with pytest.raises(ValidationError, match="n_heads must divide d_model"):
        ModelConfig(d_model=96, n_heads=6).replace(d_model=97)
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainConfig().replace(sed=1)


def test_a_config_cannot_be_written_to() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.seed = 3  # type: ignore[misc]


def test_no_experts_anywhere_is_a_step_of_0() -> None:
    assert ModelConfig(interleave_moe_layer_step=0).moe_layers == ()


def test_lists_of_files_may_be_written_with_commas() -> None:
    assert build({"data": {"train": "a.jsonl, b.csv,"}}).data.train == ("a.jsonl", "b.csv")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("0.5h", 1800), (" 2M ", 120), ("1h1m1s", 3661)],
)
def test_a_budget_is_a_length_of_time(budget: str, expected: float) -> None:
    assert seconds(budget) == expected


@pytest.mark.parametrize(
    "budget",
    [
        "",
        "20",
        "m",
        "0s",
        "-5m",
        "1h30",
        "5 m",
        ".m",
        "1..5h",
        "²h",
        "٣m",
        "1e3s",
        "nan",
        "9" * 400 + "h",
    ],
)
def test_anything_else_is_no_budget(budget: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        seconds(budget)


@pytest.mark.parametrize(
    ("size", "expected"), [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("3k", 3000), ("70", 70)]
)
def test_a_size_is_read_in_decimal_units(size: str, expected: int) -> None:
    assert GenerateConfig(kv_memory=size).kv_bytes == expected


@pytest.mark.parametrize("size", ["", "0", "-1GB", "1.5GB", "GB", "2TB", "1e9", "²GB"])
def test_anything_else_is_no_size(size: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a size. Write it like 2GB or 500MB"):
        build({"generate": {"kv_memory": size}})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["char", "wsd", "bf16", "padded", "alpaca", "20m", "demo", "a,b", "1e-3"]),
    st.lists(st.integers(-1, 5), max_size=5),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def fields_of(section: type[Section]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from([*section.model_fields, "unknown", "learning_rate"])
    return st.dictionaries(names, VALUES, max_size=5)


SECTIONS = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.one_of(VALUES, *[fields_of(s)] * 8) for name, s in SECTIONS.items()},
        "run_dir": VALUES,
        "unknown": VALUES,
    },
)


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029"])
def test_what_yaml_takes_for_the_end_of_a_line_is_read_back(end: str) -> None:
    config = build({"run_dir": f"{end}é {end}b"})
    assert build(yaml.safe_load(to_yaml(config))).run_dir == config.run_dir


@settings(max_examples=2000, deadline=None, database=None,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(RECIPES)
def test_a_recipe_becomes_a_config_or_a_config_error(recipe: dict[str, Any]) -> None:
    try:
        config = build(recipe)
    except ConfigError:
        return
    text = to_yaml(config)
    assert to_yaml(build(yaml.safe_load(text))) == text


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["q_prj"]}, "lora.targets has 'q_prj'. It must be one of attention, shared"),
        ({"targets": "attention,experts.up_proj"}, "lora.targets has 'experts.up_proj'"),
        ({"targets": []}, "lora.targets is empty"),
        ({"ranks": {"expert": 4}}, "lora.ranks has 'expert'. The groups are attention"),
        ({"dropouts": {"head": 0.1}}, "lora.dropouts has 'head'"),
        ({"rank": 0}, "lora.rank=0: .* at least 1"),
        ({"ranks": {"experts": 0}}, "lora.ranks.experts=0: .* at least 1"),
        ({"dropout": 1}, "lora.dropout=1: .* less than 1"),
        ({"rnk": 4}, "lora.rnk is not a field. Did you mean 'lora.rank'"),
    ],
)
def test_a_rule_of_adapters_is_said(lora: dict[str, Any], message: str) -> None:
    given = {"model": {"init": "base"}, "train": {"adapter": "lora"}, "lora": lora}
    assert re.search(message, problem(**given))


def test_adapters_need_a_model_to_adapt_and_their_fields_need_adapters() -> None:
    assert "model.init is not set" in problem(train={"adapter": "lora"})
    assert "train.adapter is not lora" in problem(lora={"rank": 4})


def test_alpha_is_twice_the_rank_and_groups_may_have_another() -> None:
    overrides = ["model.init=base", "train.adapter=lora", "lora.targets=attention, experts",
                 "lora.rank=8", "lora.ranks.experts=4"]  # fmt: skip
    lora = load_config(None, overrides).lora
    assert (lora.rank, lora.alpha, lora.ranks) == (8, 16, {"experts": 4})
    assert lora.targets == ("attention", "experts")


def test_scouts_rope_scaling_is_the_default_one() -> None:
    assert RopeScaling().model_dump() == {
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }
