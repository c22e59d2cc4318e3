"""A run from recipe to evaluated model: data, model, steps, resumption. One for both tasks."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quatrain import __version__
from quatrain.config import Config, TrainConfig
from quatrain.data.batches import Batches
from quatrain.data.fingerprint import fingerprint
from quatrain.data.prepare import PreparedData, load_and_prepare_french_data
from quatrain.errors import ConfigError
from quatrain.files import write_json
from quatrain.hub.card import write_run_card
from quatrain.hub.opened import open_model
from quatrain.model.io import Form, emulates_bfloat16
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import learning
from quatrain.progress import working
from quatrain.recipe import to_yaml
from quatrain.run_dir import ENVIRONMENT, SETTLED
from quatrain.text.abstention import Abstention
from quatrain.train.adapted import add_adapters_of, settle_adapters
from quatrain.train.alone import ALONE, Alone
from quatrain.train.budget import passes_of
from quatrain.train.checkpoint import Keeper, State, files_of_base
from quatrain.train.judge import Judge
from quatrain.train.log import Display, Journal, NoJournal
from quatrain.train.loop import Around, Evaluation, train
from quatrain.train.placing import site_here
from quatrain.train.products import set_for_training
from quatrain.train.report import Reporter
from quatrain.train.rounded import keep_in_bfloat16
from quatrain.train.settling import Again, settle_run, settle_together
from quatrain.train.signals import StopSignal
from quatrain.train.start import (
    MAY_CHANGE,
    Start,
    read_settled,
    refuse_another_recipe,
    refuse_other_data,
    resolve,
    write_settled,
)
from quatrain.words import say, spoken


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run_dir: Path
    state: State
    stopped_by: int | None
    """The signal that asked it to stop, or None when it finished."""
    last_evaluation: dict[str, Any] | None
    """The row of the last evaluation of this call; None when nothing was left to do."""


def run(
    config: Config, quiet: bool = False, started: float | None = None, team: Alone = ALONE
) -> Result:
    """Train as the Config says, or resume the run in the run directory.

    Args:
        config: as in the recipe.
        quiet: whether to print nothing.
        started: when the budget began, by time.monotonic(); None means now.
        team: the processes that train together; each of them calls this.

    Raises:
        QuatrainError: with a code, for anything that the user can fix.
    """
    started = time.monotonic() if started is None else started
    with team.locked(config.run_dir), StopSignal() as stop, set_for_training():
        request = config
        refuse_another_recipe(request)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        start = settle_adapters(resolve(config))
        key = fingerprint(start.config, start.tokenizer, start.chat)
        team.agree(recipe=to_yaml(request), data=key, quatrain=__version__, torch=torch.__version__)
        refuse_other_data(start.config, key)
        with team.after_leader():
            config, data = load_and_prepare_french_data(start.config, start.tokenizer, start.chat)
        evaluations: list[Evaluation] = []
        again: Again | None = None
        base = _base(config, start) if team.leads else None
        keeper = _keeper(config, config.run_dir, data, evaluations, base, team)
        newest = keeper.newest()
        if newest is not None and team.leads:
            keeper.refuse_another_base(newest)
        site = site_here(config, device_of(config), start.weights)
        with working("progress.loading"):
            model = build_model(config, start, newest, team)
        settled = read_settled(config.run_dir) if team.told(_has_begun(config)) else None
        if settled is not None:
            config = _as_settled(config, settled)
        elif team.world > 1:
            config = settle_together(config, data, site, team)
        else:
            trial = _keeper(config, config.run_dir / ".trial", data)
            config, first, again = settle_run(config, data, model, trial, started, site)
            evaluations += [first] if first is not None else []
        if settled is None and team.leads:
            write_json(config.run_dir / ENVIRONMENT, _environment())
            write_settled(request, config, key)
        judge = Judge(config, data, model, team)

        def settle_again(step: int) -> TrainConfig | None:
            found = again(step) if again is not None else None
            if found is None:
                return None
            write_settled(request, found, key)
            return found.train

        return _train(
            config, data, model, judge, keeper, newest, stop, quiet, evaluations, settle_again, team
        )


def build_model(
    config: Config, start: Start, newest: Path | None, team: Alone = ALONE
) -> LlamaModel:
    """Load weights, or draw them from the seed, on the device that the Config names.

    What learns is float32, or bfloat16 by `train.weights`, whose states between layers are float32;
    the base of adapters is held as its file has it.

    Args:
        config: with the model's architecture.
        start: what the run begins with.
        newest: the checkpoint to resume from; for an adapted model it holds the adapters.
        team: the processes that train together.
    """
    weights = start.weights if config.train.adapter else newest or start.weights
    dtype = torch.bfloat16 if config.train.weights == "bf16" else torch.float32
    if weights is not None:
        form = Form(torch.float32, config.model.quantize) if config.train.adapter else None
        model = open_model(weights, dtype, form=form)
        model.config = config.model
    else:
        model = LlamaModel(config.model)
        model.initialise(torch.Generator().manual_seed(config.train.seed))
    if dtype == torch.bfloat16:
        keep_in_bfloat16(model)
    model.model.activation_checkpointing = config.train.activation_checkpointing
    if config.train.adapter:
        add_adapters_of(model, config, start, newest)
    return team.placed(model, config, device_of(config)).train()


def device_of(config: Config) -> torch.device:
    """Take the device asked for; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: Q207 when a GPU is asked for and there is none.
    """
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.train.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Q207.cuda")
    return torch.device(config.train.device)


def _has_begun(config: Config) -> bool:
    return (config.run_dir / SETTLED).exists()


def _as_settled(config: Config, settled: Config) -> Config:
    """Take what the run settled when it began, except for what may change."""
    kept = {name: value for name, value in settled.train if name not in MAY_CHANGE}
    if config.train.micro_batch_size is None:
        kept["micro_batch_size"] = settled.train.micro_batch_size
    return config.replace(train=config.train.replace(**kept), evaluate=settled.evaluate)


def _keeper(
    config: Config,
    directory: Path,
    data: PreparedData,
    evaluations: Sequence[Evaluation] = (),
    base: dict[str, str] | None = None,
    team: Alone = ALONE,
) -> Keeper:
    """Make the keeper; the `evaluations` known at a save go into the model card."""

    def extras(checkpoint: Path, state: State) -> None:
        data.tokenizer.save(checkpoint)
        data.chat.save(checkpoint)
        row = evaluations[-1].row if evaluations else None
        row = row if row is not None and row["step"] == state.step else None
        if abstention := _abstention(config, data, row):
            abstention.save(checkpoint)
        write_run_card(checkpoint, config, state.step, state.tokens, row)

    return Keeper(
        directory, config.train.keep_last, extras, _bears_on_bits(config, team), base, team
    )


def _base(config: Config, start: Start) -> dict[str, str] | None:
    """Hash the base of adapters; None where all weights learn."""
    if not config.train.adapter or start.weights is None:
        return None
    with working("progress.hashing"):
        return files_of_base(start.weights)


def _abstention(
    config: Config, data: PreparedData, row: dict[str, Any] | None
) -> Abstention | None:
    """Say how the model abstains: by the threshold of this step's evaluation, if there is one."""
    parts = (data.report.get("train"), data.report.get("eval"))
    if not config.data.no_answer.strip() or not any(part and part["unanswered"] for part in parts):
        return None
    found = (row or {}).get("abstention") or {}
    if "best_f1" not in found:
        return Abstention(no_answer=config.data.no_answer)
    return Abstention(
        no_answer=config.data.no_answer,
        threshold=found["best_threshold"],
        f1=found["best_f1"],
        questions=found["has_answer"]["count"] + found["no_answer"]["count"],
    )


def _train(
    config: Config,
    data: PreparedData,
    model: LlamaModel,
    judge: Judge,
    keeper: Keeper,
    newest: Path | None,
    stop: StopSignal,
    quiet: bool,
    evaluations: list[Evaluation],
    settle_again: Callable[[int], TrainConfig | None],
    team: Alone,
) -> Result:
    optimizer = team.optimizer(model, config.train)
    state = State() if newest is None else keeper.load(newest, model, optimizer)
    resumed = -1 if newest is None else state.step
    journal: Journal = NoJournal(config.run_dir)
    if team.leads:
        journal = Journal(config.run_dir, resumed, config.train.sinks)
    reporter = Reporter(config.run_dir, spoken().language, muted=not team.leads)

    def evaluate(step: int) -> Evaluation:
        evaluations.append(judge.evaluate(step))
        return evaluations[-1]

    display = Display(config.train.max_steps or 0, state.step, quiet)
    try:
        _introduce(config, data, model, state, display, team)
        around = Around(
            evaluate, keeper, journal, display, lambda: stop.asked, settle_again, reporter.refresh
        )
        if newest is None:
            around.tell(evaluations[-1] if evaluations else evaluate(0))
            reporter.refresh()
        batches = Batches(data.train, config.train.batch_size or 1, config.train.seed)
        state = train(model, optimizer, batches, config.train, state, around, team)
    finally:
        journal.sinks.close()
        display.close()
    reporter.refresh(last=True)
    stopped_by = None if state.finished else stop.signal or signal.SIGTERM  # another's
    last = evaluations[-1].row if evaluations else None
    return Result(config.run_dir, state, stopped_by, last)


def _introduce(
    config: Config,
    data: PreparedData,
    model: LlamaModel,
    state: State,
    display: Display,
    team: Alone,
) -> None:
    """Print what is about to happen, in a few lines."""
    count = team.num_weights(model)
    device = next(model.parameters()).device
    display.say(
        say(
            "train.begin",
            task=config.train.task,
            run_dir=config.run_dir,
            count=count,
            device=device,
        )
    )
    if config.train.weights == "bf16":
        key = "train.narrowed" if config.model.init and not state.step else "train.in_bf16"
        display.say(say(key, init=str(config.model.init)))
    if model.adapters:
        groups = learning(model)
        listed = [say("train.group", group=group, number=count) for group, count in groups.items()]
        learning_now = sum(groups.values())
        display.say(say("train.adapters", count=learning_now, groups=", ".join(listed)))
    display.say(
        say(
            "train.data",
            rows=len(data.train),
            size=config.row_length,
            targets=int(data.train.num_targets),
            questions=len(data.questions),
        )
    )
    train = config.train
    display.say(
        say(
            "train.steps",
            steps=train.max_steps,
            rows=train.batch_size,
            rate=train.learning_rate,
            at_once=train.micro_batch_size,
            precision=train.precision,
            passes=passes_of(config, len(data.train)),
        )
    )
    _introduce_evaluations(config, data, display)
    if train.precision == "bf16" and device.type == "cpu" and emulates_bfloat16():
        display.say(say("train.emulated"))
    if state.step:
        display.say(say("train.resuming", step=state.step))


def _introduce_evaluations(config: Config, data: PreparedData, display: Display) -> None:
    train = config.train
    if data.questions or data.eval is not None:
        evaluate = config.evaluate
        rows = len(data.eval) if data.eval is not None else 0
        display.say(
            say(
                "train.evaluations",
                interval=train.eval_interval,
                questions=min(evaluate.questions or 0, len(data.questions)),
                rows=min(evaluate.rows or rows, rows),
            )
        )


def _bears_on_bits(config: Config, team: Alone) -> dict[str, Any]:
    """Name what must be equal for a resumed run to be bit-identical."""
    return {
        "quatrain": __version__,
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "device": device_of(config).type,
        "micro_batch_size": config.train.micro_batch_size,
        "activation_checkpointing": config.train.activation_checkpointing,
        "loss_chunk_size": config.train.loss_chunk_size,
        "processes": team.world,
        "expert_parallel": config.parallel.expert_parallel if team.world > 1 else 1,
    }


def _environment() -> dict[str, Any]:
    return {
        "quatrain": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
