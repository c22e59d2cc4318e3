"""A time box becomes a number of steps: once, from what a few steps take on this machine."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from quatrain.config import Config, seconds
from quatrain.data.batches import Batches
from quatrain.errors import ConfigError
from quatrain.model.llama import LlamaModel
from quatrain.train.judge import Judge
from quatrain.train.loop import accumulate

_TRIALS, _MARGIN = 4, 0.92
_SHARE_FOR_EVALUATION = 0.25


def fit_budget(
    config: Config, model: LlamaModel, batches: Batches, judge: Judge, started: float
) -> Config:
    """Set max_steps and eval_interval so that the run ends, evaluated, inside train.budget.

    Gradients are computed and thrown away: no weight changes.

    Args:
        config: settled but for max_steps, unless that is a further limit.
        model: the model to time.
        batches: what it will learn.
        judge: what it will be judged by.
        started: when the run began, by time.monotonic; that time counts too.

    Raises:
        ConfigError: Q206 when the budget does not suffice for one step and its evaluation.
    """
    assert config.train.budget is not None
    step_time = _time_of_step(config, model, batches)
    check_time = _timed(lambda: judge.evaluate(0)) + _timed(lambda: _save(model))
    left = (seconds(config.train.budget) - (time.monotonic() - started)) * _MARGIN
    evaluations = max(1, min(10, int(_SHARE_FOR_EVALUATION * left / check_time)))
    steps = int((left - (evaluations + 1) * check_time) / step_time)
    if steps < 1:
        raise ConfigError(
            "Q206",
            f"train.budget={config.train.budget} is too short: a step takes {step_time:.1f} s, an "
            f"evaluation and a checkpoint {check_time:.1f} s, and {max(left, 0):.0f} s are left.",
            "Raise the budget, or lower evaluate.questions.",
        )
    steps = min(steps, config.train.max_steps or steps)
    every = config.train.eval_interval or math.ceil(steps / evaluations)
    return config.replace(train=config.train.replace(max_steps=steps, eval_interval=every))


def _time_of_step(config: Config, model: LlamaModel, batches: Batches) -> float:
    def step(number: int) -> None:
        accumulate(model, batches.batch(number), config.train)
        model.zero_grad(set_to_none=True)

    step(0)
    return statistics.median(_timed(lambda n=n: step(n)) for n in range(1, _TRIALS))  # type: ignore[misc]


def _save(model: LlamaModel) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for copy in ("weights", "first_moment", "second_moment"):
            model.save_pretrained(Path(directory) / copy)


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
