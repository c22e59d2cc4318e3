"""Read a run directory into one value: what was asked, what was settled, and what happened.

Only files are read, so that a run that goes on, was killed or came from elsewhere can be told of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from quatrain.config import Config
from quatrain.errors import CheckpointError
from quatrain.model.locate import CHECKPOINTS
from quatrain.recipe import build, load_config, read_recipe
from quatrain.report.series import Series, read_series
from quatrain.run_dir import (
    DATA_REPORT,
    ENVIRONMENT,
    METRICS,
    PREPARED,
    REJECTED,
    REQUESTED,
    SAMPLES,
    SETTLED,
    STATE,
    rows_of,
)

_LISTED, _MOST_SAMPLES = 10, 20_000
_OF_THE_TOKENIZER = {"bos_token_id", "eos_token_ids", "pad_token_id"}


@dataclass(frozen=True)
class Setting:
    """A field of the recipe, what it is and what it would have been."""

    name: str
    value: Any
    default: Any
    asked: bool
    """Whether the recipe said so; else it was settled when the run began."""


@dataclass(frozen=True)
class Run:
    """A run as its directory tells it."""

    directory: Path
    config: Config
    settings: tuple[Setting, ...]
    environment: dict[str, Any]
    series: Series
    samples: tuple[dict[str, Any], ...]
    """Those of the first evaluation and of the best one."""
    data: dict[str, Any]
    """report.json of the prepared data; empty where it cannot be read."""
    rejected: tuple[dict[str, Any], ...]
    """The first few."""
    best_step: int | None
    finished: bool
    num_parameters: int | None
    """None where no checkpoint holds whole weights."""


def read_run(directory: Path) -> Run:
    """Read a run, finished or not.

    Raises:
        CheckpointError: Q440 when the directory holds no run that has begun.
    """
    if not (directory / SETTLED).is_file():
        raise CheckpointError("Q440.no_run", directory=directory, settled=SETTLED)
    config = build(read_recipe(str(directory / SETTLED)))
    state = _state(directory)
    series = read_series(rows_of(directory / METRICS), config.train.max_steps or 0)
    best = state.get("best_step")
    prepared = directory / PREPARED
    return Run(
        directory=directory,
        config=config,
        settings=tuple(_settings(directory, config)),
        environment=_json(directory / ENVIRONMENT),
        series=series,
        samples=_samples(directory, {0 if best is None else best, _first(series)}),
        data=_json(prepared / DATA_REPORT),
        rejected=tuple(islice(_objects(prepared / REJECTED), _LISTED)),
        best_step=best,
        finished=bool(state.get("finished")),
        num_parameters=_parameters(directory),
    )


def _first(series: Series) -> int:
    return int(series.evaluations[0]["step"]) if series.evaluations else 0


def _objects(path: Path) -> Any:
    return (row for row in rows_of(path) if isinstance(row, dict))


def _samples(directory: Path, steps: set[int]) -> tuple[dict[str, Any], ...]:
    wanted = (row for row in _objects(directory / SAMPLES) if row.get("step") in steps)
    return tuple(islice(wanted, _MOST_SAMPLES))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _newest(directory: Path) -> Path | None:
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in (directory / CHECKPOINTS).glob("step-*")
        if path.name.removeprefix("step-").isdecimal() and (path / STATE).is_file()
    ]
    return max(found)[1] if found else None


def _state(directory: Path) -> dict[str, Any]:
    newest = _newest(directory)
    return _json(newest / STATE) if newest else {}


def _parameters(directory: Path) -> int | None:
    """Count the weights of the newest checkpoint, by the headers of its files alone."""
    newest = _newest(directory)
    count = 0
    for path in newest.glob("model*.safetensors") if newest else ():
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        for tensor in header.values():
            size = 1
            for length in tensor["shape"]:
                size *= length
            count += size
    return count or None


def _settings(directory: Path, config: Config) -> list[Setting]:
    """List what differs from the defaults (of the preset, where there is one)."""
    asked = read_recipe(str(directory / REQUESTED)) if (directory / REQUESTED).is_file() else {}
    preset = config.model.preset
    defaults = load_config(None, [f"model.preset={preset}"] if preset else [])
    plain, found = defaults.model_dump(mode="json"), list[Setting]()
    for section, values in config.model_dump(mode="json").items():
        if not isinstance(values, dict) or (section == "model" and config.model.init):
            continue
        for name, value in values.items():
            before = plain[section][name]
            if name in _OF_THE_TOKENIZER:
                continue
            if value != before and not _follows(config, section, name):
                requested = (asked.get(section) or {}).get(name) == value
                found.append(Setting(f"{section}.{name}", value, before, requested))
    # Both are what the other fields of the model were measured against, so neither is among them.
    for name in ("init", "preset"):
        if value := getattr(config.model, name):
            found.insert(0, Setting(f"model.{name}", value, None, True))
            break  # trained weights have a shape; a preset beside them was not used
    return found


def _follows(config: Config, section: str, name: str) -> bool:
    """Say whether a field follows from the others of its section."""
    whole = getattr(config, section)
    rest = {key: value for key, value in whole.model_dump().items() if key != name}
    try:
        return bool(getattr(type(whole).model_validate(rest), name) == getattr(whole, name))
    except ValueError:
        return False
