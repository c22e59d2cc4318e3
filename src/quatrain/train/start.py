"""What a run starts from, settled before torch is imported: architecture, tokenizer, chat format.

Also the run directory's lock, and whether the directory holds a run of the same recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from quatrain.config import Config
from quatrain.errors import ConfigError, DataError
from quatrain.files import write_json, write_text
from quatrain.model.hf_config import read_config, refuse_larger_vocabulary
from quatrain.model.locate import MERGE_FIRST, is_adapter, locate
from quatrain.model.targets import choose
from quatrain.recipe import build, read_recipe, to_yaml
from quatrain.run_dir import DATA, REQUESTED, SETTLED
from quatrain.text.chat import LLAMA4, ChatFormat
from quatrain.text.tokenizer import Tokenizer

MAY_CHANGE = (
    "keep_last", "log_interval", "threads", "device", "micro_batch_size",
    "activation_checkpointing", "loss_chunk_size", "sinks",
)  # fmt: skip
"""Fields of train that a resumed run takes from its new recipe: they change bits at most."""


@dataclass(frozen=True)
class Start:
    """What the run begins with; tokenizer and chat are None where they will be made."""

    config: Config
    weights: Path | None
    base: str | None
    """What an adapter's directory will name as its base: a Hub id, or the directory's full path."""
    tokenizer: Tokenizer | None
    chat: ChatFormat


def resolve(config: Config) -> Start:
    """Look up model.init and tokenizer.path.

    Raises:
        ConfigError: Q203 when the recipe contradicts the checkpoint or the tokenizer.
        CheckpointError: Q401, Q404 or Q410 when the directory cannot be used.
    """
    if config.model.init is None:
        tokenizer = Tokenizer.load(Path(config.tokenizer.path)) if config.tokenizer.path else None
        if tokenizer is not None:
            _refuse_another_vocabulary(config, tokenizer)
        return Start(config, None, None, tokenizer, LLAMA4)
    described = sorted(config.model.model_fields_set - {"init", "preset"})
    if described:
        raise ConfigError(
            "Q203",
            f"model.init={config.model.init} brings its architecture; the recipe also sets "
            f"model.{', model.'.join(described)}.",
            "Leave them out.",
        )
    directory = locate(config.model.init)
    if is_adapter(directory):
        raise ConfigError(
            "Q203", f"model.init={config.model.init} is an adapter; training starts from a model.",
            MERGE_FIRST,
        )  # fmt: skip
    model = read_config(directory).replace(init=config.model.init)
    tokenizer = Tokenizer.load(directory)
    config = build({**config.model_dump(exclude_unset=True), "model": model.model_dump()})
    if config.train.adapter:
        choose(config.lora, config.model)
    if config.data.block_size > model.max_position_embeddings:
        raise ConfigError(
            "Q203",
            f"data.block_size={config.data.block_size} exceeds the checkpoint's context "
            f"{model.max_position_embeddings}.",
            f"Use data.block_size={model.max_position_embeddings}.",
        )
    refuse_larger_vocabulary(directory, tokenizer.vocab_size, model.vocab_size)
    local = Path(model.init or "").exists()
    return Start(
        config, directory, str(directory.resolve()) if local else model.init, tokenizer,
        ChatFormat.of(directory, tokenizer),
    )  # fmt: skip


def _refuse_another_vocabulary(config: Config, tokenizer: Tokenizer) -> None:
    stated = "vocab_size" in config.model.model_fields_set
    if stated and config.model.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            "Q203",
            f"model.vocab_size={config.model.vocab_size} is smaller than the tokenizer's "
            f"{tokenizer.vocab_size} ({config.tokenizer.path}).",
            f"Use model.vocab_size={tokenizer.vocab_size}.",
        )


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run directory; the lock goes with the process, however it ends.

    Raises:
        ConfigError: Q204 when another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / "run.lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(
            "Q204",
            f"another process is training in {run_dir}.",
            "Wait for it, stop it, or use another run_dir.",
        ) from None


def refuse_another_recipe(config: Config) -> None:
    """Compare with the recipe of the run in this directory, once it has settled: a run is one.

    Raises:
        ConfigError: Q205 listing what differs.
    """
    path = config.run_dir / REQUESTED
    if path.exists() and (config.run_dir / SETTLED).exists():
        before = read_recipe(str(path))
        changed = [
            f"{section}.{name}: {old!r} -> {new!r}"
            for section, name, old, new in _differences(before, config.model_dump(mode="json"))
            if not (section == "train" and name in MAY_CHANGE)
        ]
        if changed:
            raise ConfigError(
                "Q205",
                f"{config.run_dir} holds a run of another recipe:\n  - " + "\n  - ".join(changed),
                "Use another run_dir; or delete this one to start afresh.",
            )


def refuse_other_data(config: Config, key: str) -> None:
    """Compare the sources with those that the run began with, before anything is prepared anew.

    Raises:
        DataError: Q310 when a file's bytes, or what else rows depend on, have changed.
    """
    path = config.run_dir / DATA
    if path.exists() and (config.run_dir / SETTLED).exists():
        before = json.loads(path.read_text(encoding="utf-8"))["key"]
        if before != key:
            raise DataError(
                "Q310",
                f"the data of {config.run_dir} changed since its run began "
                f"({', '.join(config.data.train)}).",
                "Put the files back as they were, or use another run_dir.",
            )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    for section, values in new.items():
        if isinstance(values, dict):
            before = old.get(section) or {}
            for name, value in values.items():
                if before.get(name) != value:
                    yield section, name, before.get(name), value


def read_settled(run_dir: Path) -> Config | None:
    """Read the Config that the run settled on, or None when it had not come so far."""
    path = run_dir / SETTLED
    return build(read_recipe(str(path))) if path.exists() else None


def write_settled(request: Config, config: Config, key: str) -> None:
    """Keep the recipe, the data's key and the settled Config; from here on there is a run."""
    write_text(config.run_dir / REQUESTED, to_yaml(request))
    write_json(config.run_dir / DATA, {"key": key})
    write_text(config.run_dir / SETTLED, to_yaml(config))
