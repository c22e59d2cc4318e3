"""`quatrain init`: write a short recipe that is ready to train on a file.

    look at the file (data/inspect.py)  ->  settle what follows from it  ->  write, with comments

Not for fields that training chooses by itself: the run records those in config.yaml.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from quatrain.cli.inspecting import TROUBLE, as_dict, show
from quatrain.config import DEFAULT_ROW, Config
from quatrain.data.inspect import Inspection, Tokens, inspect
from quatrain.data.records import outcomes
from quatrain.data.row_length import SHORTEST, fitted
from quatrain.errors import ConfigError
from quatrain.files import write_json, write_text
from quatrain.recipe import SCHEMA, line, load_config, read_overrides, schema
from quatrain.train.start import Start, resolve
from quatrain.words import say

_HELD_OUT, _PRESET = 0.1, "small"
_ANSWER_STEP, _UNSEEN = 8, 1.25
"""Answer lengths are rounded up to a multiple of the first number of tokens. Answers that were not
encoded may be longer by the second factor."""


def run_drafting(
    files: str,
    overrides: list[str],
    held_out: str | None,
    base: str | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a recipe for FILES, or show what would stop training and exit with code 3."""
    values = _asked(files, overrides, held_out, base)
    config = load_config(None, [], **deepcopy(values))
    values["data"]["train"] = list(config.data.train)
    if config.data.eval:
        values["data"]["eval"] = list(config.data.eval)
    name = _slug(config.data.train[0])
    path = out or Path(f"{name}.yaml")
    _refuse_used(path, force)
    found, row = _look(resolve(config))
    if found.stops:
        _leave(found, as_json)
    notes = _complete(values, config, found, row, name)
    load_config(None, [], **deepcopy(values))  # what is written is a Config
    command = ["quatrain", found.task, str(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.parent / SCHEMA, schema())
    write_text(path, _text(values, notes, command))
    if as_json:
        described = {"recipe": str(path), "schema": str(path.parent / SCHEMA),
                     "command": command, "inspection": as_dict(found)}  # fmt: skip
        print(json.dumps(described, ensure_ascii=False))
        return
    print(say("cli.init.written", path=path, schema=path.parent / SCHEMA))
    if found.warns:
        number = sum(finding.level == "warning" for finding in found.findings)
        looking = shlex.join(["quatrain", "data", "inspect", files, *overrides])
        print(say("cli.init.warnings", count=number, command=looking))
    print(say("cli.init.next", command=shlex.join(command)))


def _asked(
    files: str, overrides: list[str], held_out: str | None, base: str | None
) -> dict[str, Any]:
    """Turn the command line into nested values of a recipe."""
    values = read_overrides(overrides)
    for section in ("model", "data"):
        values[section] = dict(values.get(section) or {})
    values["data"] = {"train": files, **values["data"]}
    if held_out is not None:
        values["data"]["eval"] = held_out
    if base is not None:
        values["model"]["init"] = base
    if not values["model"].get("init"):
        values["model"].setdefault("preset", _PRESET)
    return values


def _slug(source: str) -> str:
    """Make a file's name of a source: quiz/fragen.csv is fragen, demo:train is demo-train."""
    path = Path(source)
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "recipe"


def _refuse_used(path: Path, force: bool) -> None:
    """Keep what is there.

    Raises:
        ConfigError: Q208 for a name that no recipe has, Q210 for a file that is there.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError("Q208.recipe_name", path=path)
    if path.is_dir() or (path.exists() and not force):
        raise ConfigError("Q210.there", path=path)
    beside = path.parent / SCHEMA
    if beside.exists() and not force and not _is_ours(beside):
        raise ConfigError("Q210.there", path=beside)


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["title"] == schema()["title"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _look(start: Start) -> tuple[Inspection, int | None]:
    """Inspect the data with rows that hold it; return their length if it is not the default."""
    config = start.config
    found = inspect(config, start.tokenizer, start.chat)
    longest = max((_longest(one.tokens) for one in found.sides.values()), default=0)
    if config.data.block_size or found.task == "pretrain" or longest <= config.row_length:
        return found, None
    based = config.model.init is not None
    shortest = SHORTEST if based else DEFAULT_ROW
    row = fitted(longest, shortest, config.model.max_position_embeddings)
    config = config.replace(data=config.data.replace(block_size=row))
    return inspect(config, start.tokenizer, start.chat), None if based else row


def _longest(tokens: Tokens | None) -> int:
    if tokens is None:
        return 0
    return max([tokens.lengths.longest, *(item.tokens for item in tokens.too_long)])


def _leave(found: Inspection, as_json: bool) -> None:
    if as_json:
        nothing = {"recipe": None, "schema": None, "command": None}
        print(json.dumps({**nothing, "inspection": as_dict(found)}, ensure_ascii=False))
    else:
        show(found)
        print(say("cli.init.nothing"), file=sys.stderr)
    sys.exit(TROUBLE)


def _complete(
    values: dict[str, Any], config: Config, found: Inspection, row: int | None, name: str
) -> dict[str, str]:
    """Complete a recipe from the data; return the comments of its fields."""
    data, notes = values["data"], dict[str, str]()
    values.setdefault("run_dir", _free(name))
    if not config.data.eval and "holdout" not in data:
        data["holdout"] = _HELD_OUT if _can_be_divided(config) else 0
        notes["data.holdout"] = say(f"cli.init.holdout{'' if data['holdout'] else '_none'}")
    if row is not None:
        data["block_size"] = row
        longest = max(_longest(one.tokens) for one in found.sides.values())
        notes["data.block_size"] = say("cli.init.block_size", count=longest)
    if found.task == "pretrain":
        values["train"] = {**(values.get("train") or {}), "task": "pretrain"}
    else:
        longest = max(one.tokens.longest_answer for one in found.sides.values() if one.tokens)
        enough = longest * (1 if found.tokenizer["exact"] else _UNSEEN)
        generate = values.setdefault("generate", {})
        if "max_new_tokens" not in generate:
            steps = -(-int(enough) // _ANSWER_STEP)
            generate["max_new_tokens"] = steps * _ANSWER_STEP
            notes["generate.max_new_tokens"] = say("cli.init.max_new_tokens", count=longest)
    for field in ("model.preset", "model.init", "data.columns", "data.eval", "run_dir"):
        notes[field] = say(f"cli.init.{field.rpartition('.')[2]}")
    return notes


def _free(name: str) -> str:
    """Find a run directory that no run has."""
    taken, number = Path("runs", name), 1
    while taken.exists():
        number += 1
        taken = Path("runs", f"{name}-{number}")
    return taken.as_posix()


def _can_be_divided(config: Config) -> bool:
    """Whether there are two groups, so that one can be held out."""
    groups = set()
    for _, outcome in outcomes(config.data.train, config.data, []):
        if not hasattr(outcome, "reason"):
            groups.add(outcome.group)
        if len(groups) > 1:
            return True
    return False


def _text(values: dict[str, Any], notes: dict[str, str], command: list[str]) -> str:
    """Write the recipe, its sections in the order of Config."""
    head = [f"# yaml-language-server: $schema={SCHEMA}",
            f"# {say('cli.init.head', command=shlex.join(command))}"]  # fmt: skip
    body, budget = list[str](), f"  # {say('cli.init.budget')}"
    for section in (name for name in Config.model_fields if name in values):
        body += _section(section, values[section], notes)
        if section == "train" and "budget" not in values[section]:
            body.append(f"  # budget: 20m{budget}")
    if "train" not in values:
        body.append(f"# train: {{budget: 20m}}{budget}")
    return "\n".join([*head, *body]) + "\n"


def _section(name: str, value: Any, notes: dict[str, str]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _commented(line(name, value), notes.get(name))
    elif value:
        yield f"{name}:"
        for field, one in value.items():
            yield _commented(f"  {line(field, one)}", notes.get(f"{name}.{field}"))


def _commented(text: str, note: str | None) -> str:
    return f"{text}  # {note}" if note else text
