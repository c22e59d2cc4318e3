"""The steps of a timed run are settled again by what its first quarter took; time is a number."""

from __future__ import annotations

import pytest

from quatrain.config import Config
from quatrain.recipe import build
from quatrain.train import settling
from quatrain.train.budget import Costs, fit_steps
from quatrain.train.settle import settle_intervals
from quatrain.train.settling import Again, Tried

COSTS = Costs(row=1.0, update=1.0, loss_row=0.1, question=0.1, save=1.0)
EACH = 20.0
"""Seconds of an evaluation."""
LEFT = 400.0
BEGUN = 1_000.0
"""By the clock of the test."""


def timed_run(evaluations: int = 1, **train: object) -> tuple[Tried, Config]:
    """Settle a run of 400 s whose steps seem to take 9 s."""
    asked = {"batch_size": 8, "budget": "7m", **train}
    config = build({"model": {"init": "somewhere"}, "train": asked})
    tried = Tried(config, COSTS, evaluations + 1)
    settled = fit_steps(config, COSTS, evaluations, EACH, LEFT)
    return tried, settle_intervals(settled)


def steps_of(
    monkeypatch: pytest.MonkeyPatch, tried: Tried, settled: Config, seconds: float
) -> list[tuple[int, int]]:
    """Take steps of some seconds; give the numbers of steps that were settled again, and when."""
    now = BEGUN
    monkeypatch.setattr(settling.time, "monotonic", lambda: now)
    again, found = Again(tried, settled, EACH, BEGUN + LEFT), list[tuple[int, int]]()
    for step in range(1, (settled.train.max_steps or 0) + 1):
        now += seconds
        if (config := again(step)) is not None:
            found.append((step, config.train.max_steps or 0))
    return found


@pytest.mark.parametrize("seconds", [3.0, 6.0, 8.0, 10.0, 12.0])
def test_the_run_ends_within_a_step_of_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    tried, settled = timed_run()
    assert settled.train.max_steps == 42
    [(step, steps)] = steps_of(monkeypatch, tried, settled, seconds)
    assert step == 10
    assert 0 <= LEFT - EACH - steps * seconds < seconds


def test_steps_that_take_what_the_trial_said_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert steps_of(monkeypatch, *timed_run(), 9.0) == []


def test_a_run_much_slower_than_its_trial_ends_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert steps_of(monkeypatch, *timed_run(), 60.0) == [(10, 11)]


def test_several_evaluations_are_counted_and_spread_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, settled = timed_run(evaluations=3)
    monkeypatch.setattr(settling.time, "monotonic", lambda: BEGUN)
    assert settled.train.eval_interval == 13
    [(step, steps)] = steps_of(monkeypatch, tried, settled, 6.0)
    assert step < 13  # before the first evaluation, and so before the first checkpoint
    assert 0 <= LEFT - 3 * EACH - steps * 6.0 < 6.0


def test_the_recipe_s_own_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, settled = timed_run(max_steps=20)
    assert settled.train.max_steps == 20
    assert steps_of(monkeypatch, tried, settled, 1.0) == []
    [(_, steps)] = steps_of(monkeypatch, tried, settled, 40.0)
    assert steps < 20


@pytest.mark.parametrize("given", [{"save_interval": 3}, {"eval_interval": 2}])
def test_nothing_changes_once_a_checkpoint_may_be_there(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, int]
) -> None:
    assert steps_of(monkeypatch, *timed_run(**given), 4.0) == []
