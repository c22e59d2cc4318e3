"""Settle a run: first by the size of the data, then by time and memory.

    settle            batch, passes, rate, precision          from the number of rows
    time_parts        the seconds of a row, an answer, a checkpoint, where the run is timed
    fit_batch         fewer rows a step, so that there are some hundred steps
    rows_at_once      a micro-batch that leaves most of the memory free
    fit_evaluations   how often, and how many questions
    fit_steps         after the first evaluation, which shows how long the others will take; and
                      once more after a quarter of the run, by what its steps took

`quatrain plan` does the same from the trial alone (`expect`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from quatrain.config import Config
from quatrain.data.batches import Batches
from quatrain.data.prepare import PreparedData
from quatrain.errors import ConfigError
from quatrain.model.llama import LlamaModel
from quatrain.recipe import build
from quatrain.train.alone import Alone
from quatrain.train.budget import (
    FEW_QUESTIONS,
    MARGIN,
    Costs,
    about_passes,
    fit_batch,
    fit_evaluations,
    fit_steps,
    is_timed,
    time_of,
    time_parts,
    time_rows,
)
from quatrain.train.checkpoint import Keeper
from quatrain.train.judge import Judge
from quatrain.train.loop import Evaluation
from quatrain.train.plan import make_plan, rows_at_once
from quatrain.train.settle import settle, settle_intervals
from quatrain.train.shrink import refusal
from quatrain.train.site import Site
from quatrain.words import say, tell

logger = logging.getLogger(__name__)

MUCH = 1 << 62
"""Bytes of disk, in place of a check: a run checks the disk only when it saves."""
_OF_THE_FIRST = 0.7
"""The time of a later evaluation relative to the first: a trained model answers more briefly."""
_FEWEST_TIMED = 3
"""Steps, the first of which does not count, before they say more than the trial did."""
_TRIED = 1024
"""Tokens of the rows in a trial step."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial settled."""

    config: Config
    """Settled but for max_steps and the intervals."""
    costs: Costs
    evaluations: int
    """Including the one before the first step."""


class Again:
    """Settles the steps of a timed run once more, after its first quarter.

    A trial takes seconds, and the speed of a machine wanders.
    """

    def __init__(self, tried: Tried, settled: Config, each: float, end: float) -> None:
        """Begin.

        Args:
            tried: what the trial settled.
            settled: the run's.
            each: seconds of an evaluation with its checkpoint.
            end: when the run has to end, by time.monotonic().
        """
        self._tried, self._settled, self._each, self._end = tried, settled, each, end
        train = settled.train
        due = min(train.eval_interval or 1, train.save_interval or 1)
        self._at = min((train.max_steps or 0) // 4, due - 1)  # before anything of the run is kept
        self._begun = 0.0

    def __call__(self, step: int) -> Config | None:
        """Take note that a step has ended; give the Config, once, if its steps change."""
        now = time.monotonic()
        if step == 1:
            self._begun = now  # the first step allocates
        if step != self._at or step < _FEWEST_TIMED:
            return None
        config, costs = self._tried.config, self._tried.costs
        row = (now - self._begun) / (step - 1) / (config.train.batch_size or 1)
        costs = replace(costs, row=row, update=0.0)
        evaluations = self._tried.evaluations - 1
        fitted = fit_steps(config, costs, evaluations, self._each, self._end - now, step)
        found = settle_intervals(_spread(fitted, self._tried))
        return found if found.train.max_steps != self._settled.train.max_steps else None


def settle_run(
    config: Config,
    data: PreparedData,
    model: LlamaModel,
    trial: Keeper,
    started: float,
    site: Site,
) -> tuple[Config, Evaluation | None, Again | None]:
    """Settle everything that a recipe leaves open.

    Args:
        config: completed from the data and the tokenizer.
        data: the run's.
        model: the run's, on its device; no weight changes.
        trial: writes a checkpoint to be timed, which is deleted.
        started: when the run began, by time.monotonic().
        site: as it was before the model was loaded.

    Returns:
        The settled Config, the evaluation before the first step if it was made already, and what
        settles the steps again if the clock ends the run.

    Raises:
        ResourceError: Q603 for a base that would not fit; it names the smallest change that does.
        ConfigError: Q206 for a budget without time for a step.
    """
    if config.model.init is not None:
        plan = make_plan(by_size(config, config, data, site), data, site, MUCH)
        if (error := refusal(plan)) is not None:
            raise error
    if not is_timed(config):
        return settle_intervals(by_size(config, config, data, site)), None, None
    request, longest = config, time_of(config)
    tried = try_out(request, data, model, trial, site)
    config = tried.config
    judge, begun = Judge(config, data, model), time.monotonic()
    first = judge.evaluate(0)
    each = _OF_THE_FIRST * (time.monotonic() - begun) + tried.costs.save
    if longest is None:
        return settle_intervals(_spread(config, tried)), first, None
    end = started + MARGIN * longest
    config = fit_steps(config, tried.costs, tried.evaluations - 1, each, end - time.monotonic())
    _warn_of_passes(request, config, data, longest)
    config = settle_intervals(_spread(config, tried))
    return config, first, Again(tried, config, each, end)


def settle_together(config: Config, data: PreparedData, site: Site, team: Alone) -> Config:
    """Settle what a recipe leaves open for several processes: by sizes, never by the clock.

    Raises:
        ConfigError: Q216 for a run that only the clock would end.
    """
    if time_of(config) is not None:
        raise ConfigError("Q216.timed")
    if config.model.init is not None and config.evaluate.questions is None:
        config = config.replace(evaluate=config.evaluate.replace(questions=FEW_QUESTIONS))
    found = settle_intervals(by_size(config, config, data, site))
    return build(team.told(found.model_dump(mode="json", exclude_unset=True)))


def try_out(
    config: Config,
    data: PreparedData,
    model: LlamaModel,
    trial: Keeper | None,
    site: Site,
) -> Tried:
    """Settle by the size of the data and a trial; without a Keeper nothing is written."""
    longest = time_of(config)
    settled = by_size(config, config, data, site)
    at_once = min(settled.train.micro_batch_size or 1, max(1, _TRIED // settled.row_length))
    batches = Batches(data.train, at_once, settled.train.seed)
    judge = Judge(settled, data, model)
    costs = time_parts(settled, model, batches, judge, trial, longest)
    batch = fit_batch(config, settled.train.batch_size or 1, costs, longest, _per_row(data))
    chosen = config.replace(train=config.train.replace(batch_size=batch))
    settled = by_size(chosen, config, data, site)
    micro = settled.train.micro_batch_size or 1
    if micro != at_once:
        batches = Batches(data.train, micro, settled.train.seed)
        costs = replace(costs, row=time_rows(settled.train, model, batches))
    held_out = len(data.questions), len(data.eval) if data.eval is not None else 0
    number, questions, rows = fit_evaluations(settled, costs, held_out, longest)
    key = "train.tried" if data.questions else "train.tried_text"
    logger.info(say(key, row=costs.row, question=costs.question, save=costs.save))
    asked = settled.evaluate.replace(questions=questions, rows=max(1, rows))
    return Tried(settled.replace(evaluate=asked), costs, number)


def expect(
    config: Config, data: PreparedData, model: LlamaModel, site: Site
) -> tuple[Config, float, float]:
    """Settle as a run would, but without an evaluation and from a trial that writes nothing.

    Returns:
        The settled Config, and the seconds of a step and of an evaluation with its checkpoint.
    """
    request, longest = config, time_of(config)
    tried = try_out(request, data, model, None, site)
    config, asked = tried.config, tried.config.evaluate
    check = tried.costs.evaluation(asked.questions or 0, asked.rows or 0)
    if longest is not None:
        left = MARGIN * longest - check
        config = fit_steps(config, tried.costs, tried.evaluations - 1, check, left)
    _warn_of_passes(request, config, data, longest)
    step = tried.costs.step(config.train.batch_size or 1)
    return settle_intervals(_spread(config, tried)), step, check


def _warn_of_passes(
    request: Config, config: Config, data: PreparedData, longest: float | None
) -> None:
    if (said := about_passes(request, config, len(data.train), longest)) is not None:
        logger.warning(tell(said))


def _spread(config: Config, tried: Tried) -> Config:
    """Space the evaluations evenly, where the recipe does not place them."""
    if config.train.eval_interval is not None:
        return config
    every = -(-(config.train.max_steps or 1) // (tried.evaluations - 1))
    return config.replace(train=config.train.replace(eval_interval=every))


def by_size(config: Config, request: Config, data: PreparedData, site: Site) -> Config:
    """Settle by sizes: of the data, of the model, and of the memory.

    Args:
        config: the request, perhaps with a chosen batch.
        request: as in the recipe; its micro-batch is kept.
        data: the run's.
        site: where it trains.
    """
    settled = settle(config, len(data.train), site.halves, _per_row(data))
    if request.train.micro_batch_size or request.model.init is None:
        return settled
    rows = rows_at_once(settled, data, site)
    return settled.replace(train=settled.train.replace(micro_batch_size=rows))


def _per_row(data: PreparedData) -> float | None:
    """Say how many conversations a row holds, on average; None where rows hold text."""
    conversations = int(data.report["train"]["conversations"])
    return conversations / len(data.train) if conversations else None
