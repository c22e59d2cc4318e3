"""Checkpoints: a model directory that also holds what the next step needs.

    checkpoints/step-000120/  manifest.json          sizes and SHA-256 of everything below
                              config.json, model.safetensors, tokenizer.json, ...
                              (of adapters: adapter_config.json, adapter_model.safetensors)
                              optimizer.safetensors  AdamW's two moments of the trained weights
                              state.json             step, tokens, best, the run's length
    checkpoints/best          -> the step with the best answers

A checkpoint is written under a temporary name, hashed, then renamed. A run that was killed at any
moment resumes from the newest complete one. There is no loader or RNG state: batches are a function
of the step.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError

from quatrain.errors import CheckpointError, ConfigError, ResourceError
from quatrain.files import (
    MANIFEST,
    TEMPORARY_MARK,
    damage,
    new_directory,
    read_manifest,
    remove_directory,
    remove_leftovers,
    sha256,
    write_json,
)
from quatrain.model.adapter import Whole
from quatrain.model.hf_config import CONFIG
from quatrain.model.io import save_model
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import BEST, CHECKPOINTS
from quatrain.model.shards import LazyTensor, open_file, weight_files, write_file
from quatrain.run_dir import STATE
from quatrain.train.alone import ALONE, Alone
from quatrain.words import say

logger = logging.getLogger(__name__)

OPTIMIZER = "optimizer.safetensors"
_SCHEMA = 1


class State(BaseModel):
    """What a run knows besides weights and moments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = 0
    tokens: int = 0
    """Tokens read so far, padding left out."""
    best_step: int | None = None
    """The step of the checkpoint to keep: of the highest score, or a later one that is as good."""
    best_score: tuple[float, ...] = ()
    """The highest score; larger is better, compared in order."""
    best_each: tuple[float, ...] = ()
    """What each question scored at that evaluation; empty in older checkpoints."""
    evaluations_since_best: int = 0
    """Evaluations since the highest score."""
    finished: bool = False

    def after_evaluation(self, score: tuple[float, ...], each: tuple[float, ...] = ()) -> State:
        """Record an evaluation at this step.

        A few questions say little, and the highest score of many evaluations is partly luck. So the
        latest step is kept whose answers are as good as the highest score's within one standard
        error (Breiman et al., 1984): it has learnt more, and at a smaller rate.

        Args:
            score: larger is better, compared in order.
            each: what each question scored, in the same order every time.
        """
        if self.best_step is None or score > self.best_score:
            change: dict[str, Any] = {
                "best_step": self.step,
                "best_score": score,
                "best_each": each,
                "evaluations_since_best": 0,
            }
        else:
            change = {"evaluations_since_best": self.evaluations_since_best + 1}
            if len(each) == len(self.best_each) and within_one_error(each, self.best_each):
                change["best_step"] = self.step
        return self.model_copy(update=change)


def within_one_error(each: Sequence[float], best: Sequence[float]) -> bool:
    """Say whether scores are below others by one standard error of the difference at most.

        each 0 1 1 0, best 1 1 0 1  ->  differences 1 0 -1 1, mean 0.25, standard error 0.48: yes

    The same answers to all questions say nothing, and give False.
    """
    differences = [high - low for low, high in zip(each, best, strict=True)]
    if not any(differences):
        return False
    if len(differences) == 1:
        return True
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences) <= error


Extras = Callable[[Path, State], None]


class Keeper:
    """Writes, finds and deletes the checkpoints of one run."""

    def __init__(
        self,
        run_dir: Path,
        keep_last: int,
        extras: Extras,
        about: dict[str, Any],
        base: dict[str, str] | None = None,
        team: Alone = ALONE,
    ) -> None:
        """Prepare the run's checkpoint directory.

        Args:
            run_dir: the run.
            keep_last: how many of the newest are kept, besides the best.
            extras: writes what else belongs to a model directory (tokenizer, chat format, card).
            about: facts for the manifest that exact resumption depends on (threads, versions ...).
            base: SHA-256 of the files of an adapter's base; see `files_of_base`.
            team: the processes that train together; its leader writes.
        """
        self.directory = run_dir / CHECKPOINTS
        self.keep_last, self.extras, self.about = keep_last, extras, about
        self.base, self.team = base, team
        if team.leads:
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.directory)

    def save(self, model: LlamaModel, optimizer: torch.optim.Optimizer, state: State) -> Path:
        """Write the checkpoint of a step, then delete those that are no longer kept.

        Raises:
            ResourceError: Q602 when the disk is full; older checkpoints stay.
        """
        final, moments = self.path(state.step), _moments(model, optimizer)
        with self.team.whole({**model.state_dict(), **moments}) as whole:
            if whole is not None:
                self._write(final, model, moments, state, whole)
                self._thin(state)
        return final

    def _write(
        self,
        final: Path,
        model: LlamaModel,
        moments: dict[str, torch.Tensor],
        state: State,
        whole: Whole,
    ) -> None:
        manifest = {"schema": _SCHEMA, "step": state.step, **self.about}
        if self.base:
            manifest["base"] = self.base
        try:
            with new_directory(final, manifest) as directory:
                save_model(model, directory, whole)
                self.extras(directory, state)
                written = {name: whole(name, moment) for name, moment in moments.items()}
                write_file(directory / OPTIMIZER, written)
                write_json(directory / STATE, state.model_dump())
        except (OSError, SafetensorError) as error:
            free = shutil.disk_usage(self.directory).free >> 20
            raise ResourceError(
                "Q602.checkpoint", name=final.name, error=error, free=free, directory=self.directory
            ) from error

    def path(self, step: int) -> Path:
        """Name a step's checkpoint."""
        return self.directory / f"step-{step:06d}"

    def newest(self) -> Path | None:
        """Find the newest complete checkpoint, and report which ones were skipped and why."""
        found = self.team.told(self._newest() if self.team.leads else None)
        return None if found is None else self.directory / found

    def _newest(self) -> str | None:
        for directory in reversed(self._all()):
            found = damage(directory)
            if found is None:
                return directory.name
            logger.warning(say("train.damaged", name=directory.name, found=found))
        return None

    def refuse_another_base(self, directory: Path) -> None:
        """Compare the base with that of a checkpoint; raises Q203 naming a file that changed."""
        before = (read_manifest(directory) or {}).get("base") or {}
        now = self.base or {}
        changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        if before and changed:
            names = ", ".join(sorted(changed)[:5])
            raise ConfigError("Q203.another_base", checkpoint=directory, names=names)

    def load(self, directory: Path, model: LlamaModel, optimizer: torch.optim.Optimizer) -> State:
        """Load a checkpoint's moments into the optimizer; the model is loaded already."""
        moments = open_file(directory / OPTIMIZER)
        state = State.model_validate_json((directory / STATE).read_text(encoding="utf-8"))
        if state.step:
            _restore_moments(model, optimizer, moments, state.step, self.team)
        if self.team.leads:
            self._say_what_differs(directory)
            self.mark_best(state)
        return state

    def mark_best(self, state: State) -> None:
        """Point `best` to the best step, by a link, or by a copy where links are not allowed."""
        if state.best_step is None:
            return
        link, target = self.directory / BEST, self.path(state.best_step)
        if not target.is_dir() or _leads_to(link, target):
            return
        temporary = self.directory / f".{BEST}{TEMPORARY_MARK}{os.getpid()}"
        try:
            temporary.symlink_to(target.name, target_is_directory=True)
        except OSError:  # Windows without the right to make links
            shutil.copytree(target, temporary)
        if link.is_dir() and not link.is_symlink():
            remove_directory(link)
        os.replace(temporary, link)

    def _thin(self, state: State) -> None:
        self.mark_best(state)
        done = [path for path in self._all() if _step_of(path) <= state.step]
        kept = {path.name for path in done[-self.keep_last :]}
        if state.best_step is not None:
            kept.add(self.path(state.best_step).name)
        for directory in done:
            if directory.name not in kept:
                remove_directory(directory)

    def _all(self) -> list[Path]:
        found = (path for path in self.directory.glob("step-*") if path.is_dir())
        return sorted((path for path in found if _step_of(path) >= 0), key=_step_of)

    def _say_what_differs(self, directory: Path) -> None:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        for name, now in self.about.items():
            if manifest.get(name, now) != now:  # what older versions did not write
                logger.warning(
                    say("train.other_bits", name=name, before=str(manifest.get(name)), now=str(now))
                )


def files_of_base(base: Path) -> dict[str, str]:
    """Hash the files of a base by their names; a manifest is believed, since it was just checked.

    Args:
        base: a directory that `locate` found, or a GGUF file.
    """
    if base.is_file():
        return {base.name: sha256(base)}
    named = [*weight_files(base), base / CONFIG]
    sealed = (read_manifest(base) or {"files": {}})["files"]
    return {
        path.name: sealed[path.name]["sha256"] if path.name in sealed else sha256(path)
        for path in named
    }


def _leads_to(link: Path, target: Path) -> bool:
    """Say whether `best` is the target already, as a link or a copy."""
    if link.is_symlink():
        return os.readlink(link) == target.name
    return link.is_dir() and sha256(link / MANIFEST) == sha256(target / MANIFEST)


def _step_of(checkpoint: Path) -> int:
    """Read the step in a checkpoint's name; -1 for a directory that somebody put there."""
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isascii() and number.isdigit() else -1


def _moments(model: LlamaModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state.get(parameter, {}):
                value = optimizer.state[parameter][moment]
                found[f"{moment}.{name}"] = value
    return found


def _restore_moments(
    model: LlamaModel,
    optimizer: torch.optim.Optimizer,
    moments: dict[str, LazyTensor],
    step: int,
    team: Alone,
) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        try:
            pair = {m: moments[f"{m}.{name}"] for m in ("exp_avg", "exp_avg_sq")}
        except KeyError as error:
            raise CheckpointError("Q404.moments", file=OPTIMIZER, error=error) from None
        count = torch.tensor(float(step), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = {
            "step": count,
            **{m: team.part(name, value.load(), parameter) for m, value in pair.items()},
        }  # fmt: skip
