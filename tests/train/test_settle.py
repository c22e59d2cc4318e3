"""Open settings of a recipe are settled from the size of the data."""

from __future__ import annotations

from typing import Any

import pytest

from quatrain.config import Config, TrainConfig
from quatrain.recipe import build
from quatrain.train.settle import default_batch_size, settle, settle_intervals


def settled(num_rows: int, model: dict[str, Any] | None = None, **train: Any) -> TrainConfig:
    config = build({"train": train, "model": model or {}})
    return settle(config, num_rows).train


@pytest.mark.parametrize(
    ("rows", "batch"),
    [(1, 1), (31, 1), (64, 2), (300, 8), (1000, 16), (1024, 32), (300_000, 32)],
)
def test_a_batch_is_a_32nd_of_the_rows_as_a_power_of_two(rows: int, batch: int) -> None:
    assert default_batch_size(rows) == batch


def test_300_rows_get_ten_passes_of_small_batches() -> None:
    train = settled(300)
    assert (train.batch_size, train.epochs, train.max_steps) == (8, 10.0, 375)


def test_300_000_rows_get_two_passes_of_large_batches() -> None:
    train = settled(300_000)
    assert (train.batch_size, train.epochs, train.max_steps) == (32, 2.0, 18750)


def test_some_thousand_steps_are_wanted_in_between() -> None:
    train = settled(8000)  # 250 steps a pass
    assert (train.epochs, train.max_steps) == (4.0, 1000)


@pytest.mark.parametrize("rows", [1, 2, 7, 300, 4096, 300_000, 10_000_000])
@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_everything_open_is_settled_and_fits_together(rows: int, task: str) -> None:
    train = settle_intervals(settle(build({"train": {"task": task}}), rows)).train
    assert train.batch_size is not None
    assert train.batch_size % (train.micro_batch_size or 0) == 0
    assert 1 <= (train.eval_interval or 0) <= (train.max_steps or 0)
    assert train.save_interval == train.eval_interval
    assert 0 < (train.learning_rate or 0) < 0.01
    assert train.balance_loss_coef is not None


def test_pretraining_makes_one_pass_with_a_balance_loss() -> None:
    train = settled(320, task="pretrain")
    assert (train.epochs, train.max_steps, train.balance_loss_coef) == (1.0, 40, 0.01)
    assert settled(320).balance_loss_coef == 0


def test_the_rate_falls_with_the_width_and_is_higher_for_trained_weights() -> None:
    assert settled(300, {"d_model": 256}).learning_rate == pytest.approx(1e-3)
    assert settled(300, {"d_model": 512}).learning_rate == pytest.approx(5e-4)
    assert settled(300, {"d_model": 256, "init": "x"}).learning_rate == pytest.approx(2e-3)
    on_text = settled(300, {"d_model": 256, "init": "x"}, task="pretrain")
    assert on_text.learning_rate == pytest.approx(7e-4)


def test_some_8192_tokens_are_in_flight() -> None:
    config = build({"data": {"block_size": 1024}, "train": {"batch_size": 32}})
    assert settle(config, 1000).train.micro_batch_size == 8
    config = build({"data": {"block_size": 1024}, "train": {"batch_size": 21}})
    assert settle(config, 1000).train.micro_batch_size == 7  # it divides the batch


@pytest.mark.parametrize(
    "said",
    [
        {"batch_size": 6, "micro_batch_size": 2},
        {"max_steps": 17},
        {"epochs": 3.0},
        {"learning_rate": 0.5},
        {"balance_loss_coef": 0.25},
        {"balance_loss_coef": 0.0, "task": "pretrain"},
    ],
)
def test_what_was_said_is_kept(said: dict[str, Any]) -> None:
    train = settled(300, **said)
    assert {name: getattr(train, name) for name in said} == said


def test_said_intervals_are_kept() -> None:
    config = build({"train": {"max_steps": 100, "eval_interval": 7, "save_interval": 3}})
    train = settle_intervals(config).train
    assert (train.eval_interval, train.save_interval) == (7, 3)


def test_ten_evaluations_are_the_default() -> None:
    config = build({"train": {"max_steps": 95}})
    assert settle_intervals(config).train.eval_interval == 10


def test_the_shorter_of_epochs_and_steps_holds() -> None:
    assert settled(80, batch_size=8, epochs=2, max_steps=1000).max_steps == 20
    assert settled(80, batch_size=8, epochs=2, max_steps=5).max_steps == 5


def test_a_part_of_a_pass_is_rounded_up_to_a_step() -> None:
    assert settled(81, batch_size=8, epochs=1).max_steps == 11
    assert settled(80, batch_size=8, epochs=0.01).max_steps == 1


def test_a_budget_leaves_the_number_of_steps_open() -> None:
    assert settled(300, budget="20m").max_steps is None
    assert settled(300, budget="20m", max_steps=9).max_steps == 9


def test_a_said_micro_batch_shapes_a_batch_that_was_not() -> None:
    train = settled(300, micro_batch_size=3)  # 8 by default
    assert (train.batch_size, train.micro_batch_size) == (9, 3)


def test_settling_twice_changes_nothing() -> None:
    once = settle_intervals(settle(Config(), 300))
    assert settle_intervals(settle(once, 300)) == once


def test_adapters_learn_faster_than_the_weights_that_they_are_added_to() -> None:
    model = {"init": "runs/base", "d_model": 512}
    whole, adapters = settled(300, model), settled(300, model, adapter="lora")
    assert adapters.learning_rate == pytest.approx(4 * 0.256 / 512)
    assert adapters.learning_rate == pytest.approx(4 / 2 * (whole.learning_rate or 0))


def test_a_large_base_is_trained_in_bf16_where_the_processor_multiplies_it() -> None:
    small = build({"model": {"init": "x"}})
    large = build({"model": {"init": "x", "d_model": 1024, "n_layers": 8}})
    fresh = build({"model": {"d_model": 1024, "n_layers": 8}})
    said = build({"model": {"init": "x", "d_model": 1024, "n_layers": 8},
                  "train": {"precision": "fp32"}})  # fmt: skip
    found = [settle(c, 300, halves=True).train.precision for c in (small, large, fresh, said)]
    assert found == ["fp32", "bf16", "fp32", "fp32"]
    assert settle(large, 300, halves=False).train.precision == "fp32"


@pytest.mark.parametrize(("per_row", "rows"), [(1, 8), (3, 4), (8, 1), (40, 1), (None, 1)])
def test_a_base_learns_from_eight_conversations_a_step_even_of_a_small_file(
    per_row: float | None, rows: int
) -> None:
    small = Config.model_validate({"model": {"init": "runs/base"}})
    assert settle(small, 40, per_row=per_row).train.batch_size == rows


def test_a_new_model_learns_small_files_in_small_batches_as_before() -> None:
    assert settle(Config(), 40, per_row=1).train.batch_size == 1
