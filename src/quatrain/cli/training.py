"""`quatrain sft` and `quatrain pretrain`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from quatrain.cli.telling import telling
from quatrain.progress import working
from quatrain.recipe import load_config
from quatrain.words import say


def run_training(
    recipe: str,
    overrides: list[str],
    task: str,
    as_json: bool,
    processes: int = 1,
    dry_run: bool = False,
) -> None:
    """Build the Config, train, in one process or several, and report the result.

    A dry run meets the other processes, shows the plan of each, and trains nothing.
    """
    started, words = time.monotonic(), [task, recipe, *overrides]
    several = processes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1
    if dry_run:
        _run_dry(words, as_json, processes, several)
        return
    if several:
        from quatrain.cli.together import train_together

        _tell(*train_together(words, as_json, processes, started), as_json)
        return
    config = load_config(recipe, overrides, train={"task": task})
    with telling():
        with working("progress.starting", task=task, run_dir=config.run_dir):
            from quatrain.train.start import resolve

            resolve(config)  # errors in a recipe are reported before torch is imported
            from quatrain.train.run import run

        result = run(config, started=started)
    _tell(result, words, as_json)


def _run_dry(words: list[str], as_json: bool, processes: int, several: bool) -> None:
    from quatrain.cli.planning import run_planning

    if several:
        from quatrain.cli.together import meet_others

        processes = meet_others(processes)
    task, recipe, *overrides = words
    run_planning(recipe, overrides, False, as_json, processes, task)


def _tell(result: Any, words: list[str], as_json: bool) -> None:
    task = words[0]
    if as_json:
        print(json.dumps(summary(result), ensure_ascii=False))
    leave_if_stopped(result, ["quatrain", *words])
    if not as_json:
        print(say("cli.train.best", step=result.state.best_step), file=sys.stderr)
        print((tuning if task == "pretrain" else asking)(result.run_dir), file=sys.stderr)


def leave_if_stopped(result: Any, command: list[str]) -> None:
    """After a signal, print how to resume, and exit with the code that shells expect."""
    if result.stopped_by is not None:
        print(say("cli.train.stopped", command=shlex.join(command)), file=sys.stderr)
        sys.exit(128 + result.stopped_by)


def summary(result: Any) -> dict[str, Any]:
    """Describe a finished run as plain values."""
    state = result.state
    return {
        "run_dir": str(result.run_dir),
        "finished": state.finished,
        "step": state.step,
        "tokens": state.tokens,
        "best_step": state.best_step,
        "evaluation": result.last_evaluation,
    }


def asking(model: Path) -> str:
    """Say how a model is asked."""
    return say("cli.train.ask", command=f'quatrain ask {shlex.quote(str(model))} "..."')


def tuning(model: Path) -> str:
    """Say how a model is fine-tuned."""
    words = ["quatrain", "sft", "questions", "data.train=FILE", f"model.init={model}"]
    return say("cli.train.tune", command=shlex.join([*words, "run_dir=NEW"]))
