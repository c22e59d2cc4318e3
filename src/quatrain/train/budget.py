"""Turn a time budget into batches, steps, evaluations and questions, once, from a timed trial.

Evaluations and their checkpoints get at most a fifth of the time. A run from model.init without any
limit gets at most two hours, so that nobody starts twelve by accident. The trial has a learning
rate of 0, so no weight changes. Not for what the size of the data alone decides (settle.py).
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quatrain.config import Config, TrainConfig
from quatrain.data.batches import Batch, Batches
from quatrain.errors import ConfigError
from quatrain.model.llama import LlamaModel
from quatrain.progress import working
from quatrain.sections import seconds
from quatrain.train.checkpoint import Keeper, State
from quatrain.train.judge import Judge
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update
from quatrain.train.settle import MOST_QUESTIONS, fewest_rows, power_of_two
from quatrain.words import Sentence

LONGEST = 2 * 3600.0
"""Seconds for a run from model.init without a limit."""
SHARE_FOR_EVALUATION = 0.2
MARGIN = 0.98
"""The share of a budget that is planned; the end of the run takes the rest."""
_FEWEST_EVALUATIONS, _MOST_EVALUATIONS = 2, 11
"""Including the one before the first step and the last one."""
FEW_QUESTIONS, _FEWEST_QUESTIONS = 32, 8
"""Questions of an evaluation before there are more evaluations; questions asked in any case."""
_SHARE_FOR_LOSS, _FEWEST_ROWS = 0.25, 4
_WANTED_STEPS = 100
_FEWEST_PASSES, _MOST_PASSES = 3, 50
"""Passes of a fine-tuning below which a list of answers is hardly learnt, and above which nothing
more is (docs/LOG.md)."""
_BYTES_SAVED = 300 * 10**6
"""Bytes hashed and written per second on a laptop: trained weights and their two moments."""
_SHARE_FOR_TRIAL, _FEWEST_TRIALS, _MOST_TRIALS = 0.03, 2, 8


@dataclass(frozen=True, slots=True)
class Costs:
    """What the parts of a run take, in seconds."""

    row: float
    """Training on one row, in a micro-batch."""
    update: float
    """The rest of a step."""
    loss_row: float
    """The held-out loss of one row."""
    question: float
    """One answered question, in a batch with others; 0 where there is none."""
    save: float
    """A checkpoint."""

    def evaluation(self, questions: int, rows: int) -> float:
        """An evaluation and its checkpoint."""
        return questions * self.question + rows * self.loss_row + self.save

    def step(self, batch: int) -> float:
        """A step of so many rows."""
        return batch * self.row + self.update


def is_timed(config: Config) -> bool:
    """Say whether the clock decides anything in a run of this recipe.

    A base whose end and questions are given needs no trial: its run is a function of its recipe.
    """
    open_questions = config.model.init is not None and config.evaluate.questions is None
    return time_of(config) is not None or open_questions


def time_of(config: Config) -> float | None:
    """Give the seconds that a run may take; None where the recipe has another limit."""
    train = config.train
    if train.budget:
        return seconds(train.budget)
    return None if train.epochs or train.max_steps or config.model.init is None else LONGEST


def fit_batch(
    request: Config, batch: int, costs: Costs, left: float | None, per_row: float | None
) -> int:
    """Choose the rows of a step: as settled, or fewer, so that there are some hundred steps.

    A step has at least eight conversations: with fewer, the gradient is mostly noise.

    Args:
        request: the recipe; a batch that it gives is kept, and so is that of a new model.
        batch: as settled by the size of the data.
        costs: from a trial.
        left: seconds for the whole run; None where steps have another limit.
        per_row: average number of conversations in a row; None where rows hold text.
    """
    if request.train.batch_size or left is None or request.model.init is None:
        return batch
    rows = left * (1 - SHARE_FOR_EVALUATION) / costs.row
    fewest = fewest_rows(per_row) if per_row else 1
    return min(batch, max(fewest, power_of_two(rows / _WANTED_STEPS)))


def fit_evaluations(
    config: Config, costs: Costs, held_out: tuple[int, int], left: float | None
) -> tuple[int, int, int]:
    """Choose how many evaluations there are, and the questions and rows of each.

    Args:
        config: settled except for these; what the recipe gives is kept.
        costs: from a trial.
        held_out: how many questions and rows there are.
        left: seconds for the whole run; None where steps have another limit.

    Returns:
        Evaluations, including the one before the first step; questions and rows of each.
    """
    most = MOST_QUESTIONS if config.evaluate.questions is None else config.evaluate.questions
    questions, rows = min(most, held_out[0]), min(config.evaluate.rows or held_out[1], held_out[1])
    if left is None:
        left = (config.train.max_steps or 1) * costs.step(config.train.batch_size or 1)
        left /= 1 - SHARE_FOR_EVALUATION
    budget = SHARE_FOR_EVALUATION * left
    fewest = questions if config.evaluate.questions is not None else min(questions, FEW_QUESTIONS)
    fewest_rows = rows if config.evaluate.rows else min(rows, _FEWEST_ROWS)
    number = int(budget / max(1e-9, costs.evaluation(fewest, fewest_rows)))
    number = min(max(number, _FEWEST_EVALUATIONS), _MOST_EVALUATIONS)
    each = budget / number - costs.save
    if config.evaluate.rows is None and costs.loss_row:
        rows = min(rows, max(fewest_rows, int(_SHARE_FOR_LOSS * each / costs.loss_row)))
    if config.evaluate.questions is None and costs.question:
        affordable = int((each - rows * costs.loss_row) / costs.question)
        questions = min(questions, max(min(questions, _FEWEST_QUESTIONS), affordable))
    return number, questions, rows


def fit_steps(
    config: Config, costs: Costs, evaluations: int, each: float, left: float, done: int = 0
) -> Config:
    """Set max_steps and eval_interval, so that the remaining time is used but not exceeded.

    Args:
        config: settled except for these.
        costs: from the trial, or of the steps that are done.
        evaluations: those still to come.
        each: seconds of an evaluation with its checkpoint.
        left: remaining seconds.
        done: steps that are done, which count among max_steps.

    Raises:
        ConfigError: Q206 when there is no time for one step and its evaluation, and none is done.
    """
    train = config.train
    step = costs.step(train.batch_size or 1)
    if train.save_interval:
        step += costs.save / train.save_interval
    if train.eval_interval:
        steps = int((left - each) / (step + each / train.eval_interval))
        every = train.eval_interval
    else:
        steps = int((left - evaluations * each) / step)
        every = max(1, math.ceil((done + steps) / evaluations))
    steps = done + max(steps, 1 if done else 0)
    if steps < 1:
        raise ConfigError(
            "Q206.short", budget=train.budget or "2h", step_time=step, check_time=each,
            left=max(left, 0),
        )  # fmt: skip
    steps = min(steps, train.max_steps or steps)
    if not train.eval_interval:
        every = min(every, max(1, math.ceil(steps / evaluations)))
    return config.replace(train=train.replace(max_steps=steps, eval_interval=every))


def passes_of(config: Config, num_rows: int) -> float:
    """Say how often a run of settled length goes over its training data."""
    return (config.train.max_steps or 0) * (config.train.batch_size or 1) / max(1, num_rows)


def about_passes(
    request: Config, config: Config, num_rows: int, longest: float | None
) -> Sentence | None:
    """Say whether the clock gives a fine-tuning too few passes over its data, or far too many.

    Args:
        request: as in the recipe.
        config: settled.
        num_rows: of the training data.
        longest: seconds of the run; None where steps have another limit.
    """
    given, passes = request.train, passes_of(config, num_rows)
    if longest is None or given.task != "sft" or not passes:
        return None
    if given.max_steps and config.train.max_steps == given.max_steps:
        return None
    if passes < min(_FEWEST_PASSES, given.epochs or _FEWEST_PASSES):
        minutes = math.ceil(longest * _FEWEST_PASSES / passes / 60)
        return Sentence.of(
            "train.few_passes", passes=passes, fewest=_FEWEST_PASSES, minutes=minutes
        )
    if passes > _MOST_PASSES and not given.epochs:
        return Sentence.of("train.many_passes", passes=passes, most=_MOST_PASSES)
    return None


# --- the trial -----------------------------------------------------------------------------------


def time_parts(
    config: Config,
    model: LlamaModel,
    batches: Batches,
    judge: Judge,
    keeper: Keeper | None,
    left: float | None,
) -> Costs:
    """Time a few examples of everything that a run will do.

    Args:
        config: settled except for what the trial decides.
        model: the run's.
        batches: training data, one micro-batch at a time.
        judge: the run's evaluation.
        keeper: writes a checkpoint to be timed, in a directory of its own, which is deleted;
            without it, the time is estimated from the size.
        left: seconds of the run.
    """
    with working("progress.trial"):
        optimizer = make_optimizer(model, config.train)
        set_learning_rate(optimizer, 0.0)
        row, updating = _time_learning(config.train, model, batches, optimizer, left)
        save = _time_saving(model, optimizer, keeper)
        loss_row, question = judge.trial()
        return Costs(row, updating, loss_row, question, save)


def time_rows(train: TrainConfig, model: LlamaModel, batches: Batches) -> float:
    """Time micro-batches of the chosen size; give the seconds of a row."""
    with working("progress.trial"):
        optimizer = make_optimizer(model, train)
        set_learning_rate(optimizer, 0.0)
        row, _ = _time_learning(train, model, batches, optimizer, None)
        return row


def _time_learning(
    train: TrainConfig,
    model: LlamaModel,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    left: float | None,
) -> tuple[float, float]:
    """Time micro-batches, each as a step; give the seconds of a row and of an update."""
    learning, updating = list[float](), list[float]()
    whole = train.replace(batch_size=batches.batch_size, micro_batch_size=batches.batch_size)
    begun, most = time.perf_counter(), _SHARE_FOR_TRIAL * (left or 0.0)

    def step(batch: Batch) -> None:
        learning.append(_timed(lambda: accumulate(model, batch, whole)))
        norm = gradient_norm(model)
        updating.append(_timed(lambda: update(optimizer, norm, train.max_grad_norm)))

    for number in range(1 + _MOST_TRIALS):  # the first allocates
        step(batches.batch(number))
        if number >= _FEWEST_TRIALS and time.perf_counter() - begun > most:
            break
    row = statistics.median(learning[1:]) / batches.batch_size
    return row, statistics.median(updating[1:])


def _time_saving(
    model: LlamaModel, optimizer: torch.optim.Optimizer, keeper: Keeper | None
) -> float:
    if keeper is None:
        learning = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        return 3 * learning / _BYTES_SAVED
    with working("progress.saving"):
        save = _timed(lambda: keeper.save(model, optimizer, State()))
    shutil.rmtree(keeper.directory.parent)
    return save


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
