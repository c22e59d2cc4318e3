"""What a run starts from, settled before torch is imported: architecture, tokenizer, chat format.

Also the run directory's lock, and whether the directory holds a run of the same recipe.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from quatrain.config import Config, ModelConfig
from quatrain.errors import ConfigError, DataError
from quatrain.files import write_json, write_text
from quatrain.model.hf_config import CONFIG, read_config, read_json, refuse_larger_vocabulary
from quatrain.model.hf_quantised import quantisation
from quatrain.model.locate import is_adapter, llama4_base_of, locate, text_tools_of
from quatrain.model.peft_config import BASE, read_fields
from quatrain.model.stranger import is_gguf
from quatrain.model.targets import choose
from quatrain.recipe import build, read_recipe, to_yaml
from quatrain.run_dir import BEFORE, DATA, HOLDER, LOCK, OURS, REQUESTED, SETTLED
from quatrain.text.chat import LLAMA4, ChatFormat
from quatrain.text.recognise import chat_format_of
from quatrain.text.tokenizer import Tokenizer
from quatrain.words import say

logger = logging.getLogger(__name__)

MAY_CHANGE = (
    "keep_last", "log_interval", "threads", "device", "micro_batch_size",
    "activation_checkpointing", "loss_chunk_size", "sinks",
)  # fmt: skip
"""Fields of train that a resumed run takes from its new recipe: they change rounding at most."""

_SHOWN = 5


@dataclass(frozen=True)
class Start:
    """What the run starts from; tokenizer and chat are None where they will be made."""

    config: Config
    weights: Path | None
    base: str | None
    """The base that an adapter's directory will name: a Hub id, or the full path of a directory."""
    tokenizer: Tokenizer | None
    chat: ChatFormat
    adapter: Path | None = None
    """The adapter directory that model.init names, to be trained further; `weights` is its base."""


def resolve(config: Config) -> Start:
    """Look up model.init and tokenizer.path.

    Raises:
        ConfigError: Q203 when the recipe contradicts the checkpoint or the tokenizer.
        CheckpointError: Q401, Q404, Q410 or Q415 when the directory cannot be used.
    """
    if config.model.init is None:
        tokenizer = Tokenizer.load(Path(config.tokenizer.path)) if config.tokenizer.path else None
        if tokenizer is not None:
            _refuse_another_vocabulary(config, tokenizer)
        return Start(config, None, None, tokenizer, LLAMA4)
    described = sorted(config.model.model_fields_set - {"init", "preset", "quantize", "offload"})
    if described:
        raise ConfigError(
            "Q203.architecture", init=config.model.init, fields=", model.".join(described)
        )
    directory = locate(config.model.init)
    adapter = directory if is_adapter(directory) else None
    weights = llama4_base_of(adapter) if adapter else directory
    _refuse_few_bits(config, weights, adapter)
    model = _architecture(weights).replace(**_given(config, adapter))
    tokenizer, chat, tools = _text_tools(directory)
    values = {**config.model_dump(exclude_unset=True), "model": model.model_dump()}
    if adapter:
        values["train"] = {**values.get("train", {}), "adapter": "lora"}
    config = build(values)
    if config.train.adapter and not adapter:
        choose(config.lora, config.model)
    if (config.data.block_size or 0) > model.max_position_embeddings:
        raise ConfigError(
            "Q203.context", block_size=config.data.block_size, context=model.max_position_embeddings
        )
    refuse_larger_vocabulary(tools, tokenizer.vocab_size, model.vocab_size)
    named = read_fields(adapter)[BASE] if adapter else str(model.init)
    base = str(weights.resolve()) if Path(named).exists() else named
    return Start(config, weights, base, tokenizer, chat, adapter)


def _architecture(weights: Path) -> ModelConfig:
    if is_gguf(weights):
        from quatrain.hub.gguf_read import read_weights

        return read_weights(weights)[0]
    return read_config(weights)


def _refuse_few_bits(config: Config, weights: Path, adapter: Path | None) -> None:
    """Refuse to train whole weights that are stored in few bits, or to store them otherwise.

    Raises:
        ConfigError: Q203.
    """
    kind = None if is_gguf(weights) else quantisation(read_json(weights / CONFIG))
    given = config.model.quantize
    if kind and not (adapter or config.train.adapter):
        raise ConfigError(
            "Q203.few_bits", init=config.model.init, kind=kind, given=shlex.quote(str(weights))
        )
    if kind and given and given != kind:
        raise ConfigError("Q203.stored", init=config.model.init, kind=kind, given=given)


def _text_tools(place: Path) -> tuple[Tokenizer, ChatFormat, Path]:
    if is_gguf(found := text_tools_of(place)):
        from quatrain.hub.opened import text_tools

        return text_tools(found)
    tokenizer = Tokenizer.load(found)
    return tokenizer, chat_format_of(found, tokenizer), found


def _given(config: Config, adapter: Path | None) -> dict[str, Any]:
    """Take the fields of the recipe's model that a directory does not have.

    Raises:
        ConfigError: Q203 where the base of an adapter would be quantised otherwise than it was.
    """
    kind = config.model.quantize
    if adapter:
        from quatrain.model.adapter import quantised_base

        before = quantised_base(adapter)
        if kind and before != kind:
            raise ConfigError("Q203.quantised", init=adapter, before=before, given=kind)
        kind = cast("Any", before)
    return {"init": config.model.init, "quantize": kind, "offload": config.model.offload}


def _refuse_another_vocabulary(config: Config, tokenizer: Tokenizer) -> None:
    stated = "vocab_size" in config.model.model_fields_set
    if stated and config.model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            "Q203.vocabulary",
            given=config.model.vocab_size,
            known=tokenizer.vocab_size,
            path=config.tokenizer.path,
        )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock a run directory; the lock disappears with the process, however it ends.

    A file beside the lock names its holder. A killed process leaves that file behind; it locks
    nothing, and is reported and replaced.

    Raises:
        ConfigError: Q204 when another process holds it, naming it; Q211 when it is no directory of
            a run, in which other files would be replaced.
    """
    _refuse_other_files(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    holder = run_dir / HOLDER
    try:
        with FileLock(run_dir / LOCK, timeout=0):
            if before := _read_holder(holder):
                logger.info(say("log.stale_lock", run_dir=run_dir, **before))
            now = datetime.now().isoformat(sep=" ", timespec="seconds")
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now})
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout:
        found = _read_holder(holder)
        key = "Q204.held_by" if found else "Q204.held"
        raise ConfigError(key, run_dir=run_dir, **found) from None


def _refuse_other_files(run_dir: Path) -> None:
    if file := next((one for one in (run_dir, *run_dir.parents) if one.is_file()), None):
        raise ConfigError("Q211.file", run_dir=run_dir, file=file)
    if not run_dir.exists() or any((run_dir / mark).exists() for mark in OURS):
        return
    others = sorted(one.name for one in run_dir.iterdir() if not one.name.startswith(BEFORE))
    if others:
        raise ConfigError("Q211.others", run_dir=run_dir, names=tuple(others[:_SHOWN]))


def _read_holder(path: Path) -> dict[str, Any]:
    """Read who holds a run; empty where the file is absent or incomplete."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(found["pid"]), "host": str(found["host"]), "since": str(found["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def refuse_another_recipe(config: Config) -> None:
    """Compare with the recipe of the run in this directory, if settled: a run has one recipe.

    Fields that may change are taken from the new recipe, and reported.

    Raises:
        ConfigError: Q205 listing what differs.
    """
    path = config.run_dir / REQUESTED
    if path.exists() and (config.run_dir / SETTLED).exists():
        before = read_recipe(str(path))
        refused, taken = list[str](), list[str]()
        for section, name, old, new in _differences(before, config.model_dump(mode="json")):
            allowed = section == "train" and name in MAY_CHANGE
            (taken if allowed else refused).append(f"{section}.{name}: {old!r} -> {new!r}")
        if refused:
            init = shlex.quote(f"model.init={config.run_dir}")
            raise ConfigError(
                "Q205.recipe", run_dir=config.run_dir, changed=tuple(refused), init=init
            )
        if taken:
            logger.info(say("log.may_change", run_dir=config.run_dir, changed=tuple(taken)))


def refuse_other_data(config: Config, key: str) -> None:
    """Compare the sources with those that the run began with, before anything is prepared again.

    Raises:
        DataError: Q310 when the bytes of a file, or anything else rows depend on, have changed.
    """
    path = config.run_dir / DATA
    if path.exists() and (config.run_dir / SETTLED).exists():
        before = json.loads(path.read_text(encoding="utf-8"))["key"]
        if before != key:
            raise DataError(
                "Q310.data", run_dir=config.run_dir, sources=", ".join(config.data.train)
            )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    for section, values in new.items():
        if isinstance(values, dict) and section != "parallel":
            before = old.get(section) or {}
            for name, value in values.items():
                if before.get(name) != value:
                    yield section, name, before.get(name), value


def read_settled(run_dir: Path) -> Config | None:
    """Read the Config that the run settled on; None where it had not got that far."""
    path = run_dir / SETTLED
    return build(read_recipe(str(path))) if path.exists() else None


def write_settled(request: Config, config: Config, key: str) -> None:
    """Write the recipe, the data's key and the settled Config; from here on the run exists."""
    write_text(config.run_dir / REQUESTED, to_yaml(request))
    write_json(config.run_dir / DATA, {"key": key})
    write_text(config.run_dir / SETTLED, to_yaml(config))
