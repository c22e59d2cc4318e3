"""A run from recipe to evaluated model: data, model, steps, resumption. One for both tasks."""

from __future__ import annotations

import logging
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quatrain import __version__
from quatrain.config import Config
from quatrain.data.batches import Batches
from quatrain.data.prepare import PreparedData, load_and_prepare_french_data
from quatrain.files import write_json
from quatrain.model.llama import LlamaModel
from quatrain.train.budget import fit_budget
from quatrain.train.checkpoint import Keeper, State
from quatrain.train.judge import Judge
from quatrain.train.log import Display, Journal
from quatrain.train.loop import Around, Evaluation, train
from quatrain.train.optim import make_optimizer
from quatrain.train.settle import settle, settle_intervals
from quatrain.train.signals import StopSignal
from quatrain.train.start import (
    locked,
    read_settled,
    remember_request,
    resolve,
    write_settled,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    run_dir: Path
    state: State
    stopped_by: int | None
    """The signal that asked it to stop, or None when it finished."""
    last_evaluation: dict[str, Any] | None
    """The row of the last evaluation made now; None when there was nothing left to do."""


def run(config: Config, quiet: bool = False) -> Result:
    """Train as the Config says, or go on where the run directory stands.

    Raises:
        QuatrainError: with a code, for anything the user can mend.
    """
    started = time.monotonic()
    with locked(config.run_dir), StopSignal() as stop:
        remember_request(config)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        start = resolve(config)
        config, data = load_and_prepare_french_data(start.config, start.tokenizer, start.chat)
        model = build_model(config, start.weights)
        judge = Judge(config, data, model)
        config = _settled(config, data, model, judge, started)
        return _train(config, data, model, judge, stop, quiet)


def build_model(config: Config, weights: Path | None) -> LlamaModel:
    """Load float32 weights, or draw them from the seed, on the device that the Config names."""
    if weights is not None:
        model = LlamaModel.from_pretrained(weights, dtype=torch.float32)
        model.config = config.model
    else:
        model = LlamaModel(config.model)
        model.initialise(torch.Generator().manual_seed(config.train.seed))
    model.model.activation_checkpointing = config.train.activation_checkpointing
    return model.to(device_of(config)).train()


def device_of(config: Config) -> torch.device:
    """Take the device asked for; `auto` takes a GPU where there is one."""
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.train.device)


def _settled(
    config: Config, data: PreparedData, model: LlamaModel, judge: Judge, started: float
) -> Config:
    """Settle what the recipe left open, or take what this run settled when it began."""
    before = read_settled(config.run_dir)
    if before is not None:
        kept = before.train.model_dump()
        kept.update(
            {name: getattr(config.train, name)
             for name in ("threads", "device", "keep_last", "log_interval")}
        )  # fmt: skip
        return config.replace(train=config.train.replace(**kept))
    config = settle(config, len(data.train))
    if config.train.budget:
        batches = Batches(data.train, config.train.batch_size or 1, config.train.seed)
        config = fit_budget(config, model, batches, judge, started)
    config = settle_intervals(config)
    write_settled(config)
    write_json(config.run_dir / "env.json", _environment())
    return config


def _train(
    config: Config,
    data: PreparedData,
    model: LlamaModel,
    judge: Judge,
    stop: StopSignal,
    quiet: bool,
) -> Result:
    def extras(directory: Path) -> None:
        data.tokenizer.save(directory)
        data.chat.save(directory)

    optimizer = make_optimizer(model, config.train)
    keeper = Keeper(config.run_dir, config.train.keep_last, extras, _bears_on_bits(data, model))
    newest = keeper.newest()
    state = State() if newest is None else keeper.load(newest, model, optimizer)
    journal = Journal(config.run_dir, -1 if newest is None else state.step)
    last: list[Evaluation] = []

    def evaluate(step: int) -> Evaluation:
        last.append(judge.evaluate(step, journal))
        return last[-1]

    display = Display(config.train.max_steps or 0, state.step, quiet)
    try:
        _introduce(config, data, model, state, display)
        if newest is None:
            first = evaluate(0).row
            if first is not None:
                journal.metrics(first)
                display.evaluated(first)
        batches = Batches(data.train, config.train.batch_size or 1, config.train.seed)
        around = Around(evaluate, keeper, journal, display, lambda: stop.asked)
        state = train(model, optimizer, batches, config.train, state, around)
    finally:
        display.close()
    stopped_by = None if state.finished else stop.signal
    return Result(config.run_dir, state, stopped_by, last[-1].row if last else None)


def _introduce(
    config: Config, data: PreparedData, model: LlamaModel, state: State, display: Display
) -> None:
    """Say what is about to happen, in three lines."""
    count = sum(p.numel() for p in model.parameters())
    device = next(model.parameters()).device
    display.say(f"{config.train.task} in {config.run_dir}: {count:,} parameters on {device}")
    display.say(
        f"data: {len(data.train):,} rows of {config.data.block_size}, "
        f"{data.train.num_targets:,} target tokens; {len(data.questions):,} held-out questions"
    )
    train = config.train
    display.say(
        f"{train.max_steps:,} steps of {train.batch_size} rows, peak rate "
        f"{train.learning_rate:.2g}, an evaluation every {train.eval_interval}"
    )
    if state.step:
        display.say(f"resuming after step {state.step}")


def _bears_on_bits(data: PreparedData, model: LlamaModel) -> dict[str, Any]:
    """Name what must be equal for a resumed run to be bit-identical."""
    return {
        "quatrain": __version__,
        "torch": torch.__version__,
        "num_threads": torch.get_num_threads(),
        "device": next(model.parameters()).device.type,
        "data": data.train.manifest.get("key"),
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
