"""A time budget becomes batches, evaluations and steps that fit, by arithmetic, without a clock."""

from __future__ import annotations

from typing import Any

import pytest

from quatrain.config import Config, TrainConfig
from quatrain.errors import ConfigError
from quatrain.recipe import build
from quatrain.train.budget import (
    LONGEST,
    SHARE_FOR_EVALUATION,
    Costs,
    about_passes,
    fit_batch,
    fit_evaluations,
    fit_steps,
    is_timed,
    passes_of,
    time_of,
)

LAPTOP = Costs(row=1.2, update=0.4, loss_row=0.4, question=0.9, save=4.0)
GPU = Costs(row=0.02, update=0.05, loss_row=0.006, question=0.02, save=2.0)


def recipe(base: bool = True, evaluate: dict[str, Any] | None = None, **train: Any) -> Config:
    model = {"init": "somewhere"} if base else {}
    return build({"model": model, "train": train, "evaluate": evaluate or {}})


def test_a_base_without_a_limit_gets_two_hours_and_a_new_model_all_its_passes() -> None:
    assert time_of(recipe()) == LONGEST
    assert time_of(recipe(base=False)) is None
    assert time_of(recipe(budget="6m")) == 360
    assert time_of(recipe(epochs=3)) is None
    assert time_of(recipe(max_steps=3)) is None


def test_the_clock_decides_for_a_base_and_under_a_budget() -> None:
    assert is_timed(recipe())
    assert is_timed(recipe(base=False, budget="6m"))
    assert is_timed(recipe(epochs=2))
    assert not is_timed(recipe(base=False, epochs=2))
    assert not is_timed(recipe(epochs=2, evaluate={"questions": 5}))


def test_a_short_time_gets_small_batches_so_that_there_are_steps() -> None:
    config = recipe(budget="6m")
    assert fit_batch(config, 16, LAPTOP, 360, 8) == 2
    assert fit_batch(config, 16, LAPTOP, 7200, 8) == 16
    assert fit_batch(config, 16, GPU, 360, 8) == 16


def test_a_step_learns_from_eight_conversations_at_least() -> None:
    config = recipe(budget="6m")
    assert [fit_batch(config, 16, LAPTOP, 360, per_row) for per_row in (1, 1.7, 3, 8)] == [
        8,
        8,
        4,
        2,
    ]
    assert fit_batch(config, 2, LAPTOP, 360, 1) == 2


def test_a_batch_that_was_given_is_kept() -> None:
    assert fit_batch(recipe(budget="6m", batch_size=16), 16, LAPTOP, 360, 1) == 16
    assert fit_batch(recipe(base=False, budget="6m"), 16, LAPTOP, 360, 1) == 16


@pytest.mark.parametrize("costs", [LAPTOP, GPU])
@pytest.mark.parametrize("left", [60.0, 360.0, 1200.0, 7200.0])
def test_evaluations_take_a_fifth_of_the_time_at_most(costs: Costs, left: float) -> None:
    config = recipe(budget="6m", batch_size=2)
    number, questions, rows = fit_evaluations(config, costs, (150, 90), left)
    spent = number * costs.evaluation(questions, rows)
    least = 2 * costs.evaluation(8, 4)
    assert spent <= max(SHARE_FOR_EVALUATION * left, least)
    assert 2 <= number <= 11
    assert 8 <= questions <= 150
    assert 4 <= rows <= 90


def test_much_time_gets_many_evaluations_of_many_questions() -> None:
    config = recipe(budget="2h", batch_size=2)
    assert fit_evaluations(config, GPU, (500, 90), 7200) == (11, 200, 90)


def test_what_was_given_of_an_evaluation_is_kept() -> None:
    config = recipe(budget="6m", evaluate={"questions": 150, "rows": 70})
    number, questions, rows = fit_evaluations(config, LAPTOP, (150, 90), 360)
    assert (number, questions, rows) == (2, 150, 70)


def test_nothing_held_out_costs_nothing() -> None:
    config = recipe(budget="6m")
    assert fit_evaluations(config, LAPTOP, (0, 0), 360)[1:] == (0, 0)


def test_without_a_clock_the_steps_say_how_long_it_takes() -> None:
    config = recipe(max_steps=10, batch_size=2)
    number, questions, _ = fit_evaluations(config, LAPTOP, (150, 90), None)
    assert (number, questions) == (2, 8)


def test_steps_fill_the_time_that_evaluations_leave() -> None:
    config = recipe(budget="6m", batch_size=2)
    train = fit_steps(config, LAPTOP, evaluations=1, each=30.0, left=280.0).train
    assert train.max_steps == int((280 - 30) / (2 * 1.2 + 0.4))
    assert train.eval_interval == train.max_steps


def test_the_shorter_of_time_and_steps_holds() -> None:
    config = recipe(budget="6m", batch_size=2, max_steps=5)
    train = fit_steps(config, LAPTOP, evaluations=2, each=1.0, left=280.0).train
    assert (train.max_steps, train.eval_interval) == (5, 3)


def test_a_given_interval_is_kept_and_its_evaluations_are_counted() -> None:
    config = recipe(budget="6m", batch_size=2, eval_interval=10)
    train = fit_steps(config, LAPTOP, evaluations=1, each=28.0, left=308.0).train
    assert (train.max_steps, train.eval_interval) == (50, 10)


def test_steps_that_are_done_count_among_all() -> None:
    config = recipe(budget="6m", batch_size=2)
    train = fit_steps(config, LAPTOP, evaluations=2, each=30.0, left=200.0, done=25).train
    assert train.max_steps == 25 + int((200 - 60) / 2.8)
    assert train.eval_interval == -(-train.max_steps // 2)


def test_a_step_follows_even_where_no_time_is_left_for_it() -> None:
    config = recipe(budget="6m", batch_size=2)
    train = fit_steps(config, LAPTOP, evaluations=1, each=30.0, left=20.0, done=25).train
    assert train.max_steps == 26


def test_a_time_without_room_for_a_step_is_refused() -> None:
    config = recipe(budget="30s", batch_size=2)
    with pytest.raises(ConfigError, match=r"Q206.*30s is too short.*A step takes 2\.8 s"):
        fit_steps(config, LAPTOP, evaluations=1, each=30.0, left=20.0)


def said_of(steps: int, longest: float | None = 600.0, **train: Any) -> str:
    request = Config().replace(train=TrainConfig(**{"budget": "10m", **train}))
    config = request.replace(train=request.train.replace(max_steps=steps, batch_size=2))
    return str(about_passes(request, config, 20, longest) or "")


def test_a_time_too_short_for_three_passes_is_said_with_what_it_takes() -> None:
    assert passes_of(Config().replace(train=TrainConfig(max_steps=15, batch_size=2)), 20) == 1.5
    said = said_of(15)
    assert "allows 1.5 passes over the questions" in said
    assert "about 20 minutes: train.budget=20m" in said
    assert "about 20 minutes" in said_of(15, epochs=8)
    assert "about 240 minutes: train.budget=240m" in said_of(15, longest=7200.0)


def test_a_time_for_more_than_fifty_passes_is_said_with_what_bounds_it() -> None:
    said = said_of(5000)
    assert "allows 500 passes over the questions" in said
    assert "train.epochs=10" in said


def test_what_is_enough_or_was_asked_for_is_not_commented_on() -> None:
    assert not said_of(30)
    assert not said_of(500)
    assert not said_of(10, epochs=1.0)
    assert not said_of(10, max_steps=10)
    assert not said_of(5000, epochs=500.0)
    assert not said_of(10, longest=None)
    assert not said_of(10, task="pretrain")
