"""A time box becomes a number of steps: once, from what a few steps take on this machine."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable

import torch

from quatrain.config import Config, seconds
from quatrain.data.batches import Batches
from quatrain.errors import ConfigError
from quatrain.model.llama import LlamaModel
from quatrain.train.checkpoint import Keeper, State
from quatrain.train.judge import Judge
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update

_TRIALS = 5
MARGIN = 0.92
"""The share of a budget that is planned for."""
_SHARE_FOR_EVALUATION, _MOST_EVALUATIONS = 0.25, 10


def fit_budget(
    config: Config,
    model: LlamaModel,
    batches: Batches,
    judge: Judge,
    keeper: Keeper,
    started: float,
) -> Config:
    """Set max_steps and eval_interval so that the run ends, evaluated, inside train.budget.

    A step, an evaluation and a checkpoint are timed; the rate is 0, so that no weight changes.

    Args:
        config: settled but for max_steps, unless that is a further limit.
        model: the model to time.
        batches: what it will learn.
        judge: what it will be judged by.
        keeper: writes a checkpoint to be timed, in a directory of its own, which is deleted.
        started: when the run began, by time.monotonic; that time counts too.

    Raises:
        ConfigError: Q206 when the budget does not suffice for one step and its evaluation.
    """
    train = config.train
    assert train.budget is not None
    step_time, save_time = _time_step_and_save(config, model, batches, keeper)
    evaluation_time = _timed(lambda: judge.evaluate(0))
    check_time = evaluation_time + save_time
    left = (seconds(train.budget) - (time.monotonic() - started)) * MARGIN - evaluation_time
    if train.save_interval:
        step_time += save_time / train.save_interval
    if train.eval_interval:
        steps = int((left - check_time) / (step_time + check_time / train.eval_interval))
        every = train.eval_interval
    else:
        affordable = int(_SHARE_FOR_EVALUATION * left / check_time)
        evaluations = max(1, min(_MOST_EVALUATIONS, affordable))
        steps = int((left - (evaluations + 1) * check_time) / step_time)
        every = max(1, math.ceil(steps / evaluations))
    if steps < 1:
        raise ConfigError(
            "Q206.short",
            budget=train.budget,
            step_time=step_time,
            check_time=check_time,
            left=max(left, 0),
        )
    steps = min(steps, train.max_steps or steps)
    return config.replace(train=train.replace(max_steps=steps, eval_interval=every))


def _time_step_and_save(
    config: Config, model: LlamaModel, batches: Batches, keeper: Keeper
) -> tuple[float, float]:
    """Time whole steps at rate 0, and a checkpoint with the moments they made."""
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, 0.0)

    def step(number: int) -> None:
        accumulate(model, batches.batch(number), config.train)
        update(optimizer, gradient_norm(model), config.train.max_grad_norm)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    step(0)  # the first allocates
    times = [_timed(lambda: step(number)) for number in range(1, _TRIALS)]  # noqa: B023
    save_time = _timed(lambda: keeper.save(model, optimizer, State()))
    shutil.rmtree(keeper.directory.parent)
    return statistics.median(times), save_time


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
