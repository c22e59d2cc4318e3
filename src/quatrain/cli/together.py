"""Training in several processes, started by torchrun or by --processes; the first one speaks."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Any

from quatrain.cli.telling import telling
from quatrain.config import Config
from quatrain.errors import QuatrainError
from quatrain.parallel.launch import launch
from quatrain.parallel.seat import Seat
from quatrain.parallel.watch import FOLDER, TOLD
from quatrain.recipe import load_config
from quatrain.words import spoken


def train_together(
    words: list[str], as_json: bool, processes: int, started: float
) -> tuple[Any, list[str]]:
    """Train as one of several processes, or start them and exit with them.

    Args:
        words: of the command: the task, the recipe, overrides.
        as_json: whether it prints JSON.
        processes: to start on this machine.
        started: see `train.run.run`.

    Returns:
        How the run ended, in the process that speaks, and the words that resume it.
    """
    seat = Seat.of(os.environ)
    config = _config(words, seat)
    if seat is None:
        given = ["--lang", spoken().language, *words, *(["--json"] if as_json else [])]
        sys.exit(launch(given, processes, config.run_dir / FOLDER / TOLD))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with nullcontext() if seat.rank else telling():
        from quatrain.parallel.run import run_together

        result = run_together(config, seat, started)
    if seat.rank:
        sys.exit(0)
    ours = "QUATRAIN_MEET" in os.environ
    return result, [*words, *(["--processes", str(seat.world)] if ours else [])]


def meet_others(processes: int) -> int:
    """Meet the processes that torchrun starts, if it does; give their number.

    All but the first one end here.
    """
    if (seat := Seat.of(os.environ)) is None:
        return processes
    from quatrain.parallel.run import meet_only

    meet_only(seat)
    if seat.rank:
        sys.exit(0)
    return seat.world


def _config(words: list[str], seat: Seat | None) -> Config:
    task, recipe, *overrides = words
    try:
        return load_config(recipe, overrides, train={"task": task})
    except QuatrainError as error:
        if seat is not None and seat.rank:
            sys.exit(error.exit_code)  # the first process tells
        raise
