"""Fingerprint: what prepared rows depend on, as one key. Equal keys mean equal rows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from quatrain.config import Config
from quatrain.data.embedded import embedded_rows, is_embedded
from quatrain.data.read import data_files, is_saved_dataset, refuse_missing
from quatrain.data.tables import hub_dataset
from quatrain.files import at_home, sha256
from quatrain.text.chat import ChatFormat
from quatrain.text.tokenizer import Tokenizer

VERSION = 4
"""To be raised when the same inputs give different rows."""
_MOVE_BITS = {"shape", "columns", "hub_split", "encoding", "sheet", "sheet_language", "document"}
_MOVE_BITS |= {"limit", "holdout", "block_size", "packing", "tools", "no_answer"}
"""Fields of the data section that affect rows; the spelling of paths and tolerances do not."""


def fingerprint(config: Config, tokenizer: Tokenizer | None, chat: ChatFormat) -> str:
    """Hash the sources' bytes and all that says how they become rows.

    Args:
        config: its data section, its task, and what a tokenizer would be trained to.
        tokenizer: the one at hand, or None when one is to be trained.
        chat: the prompt format.

    Raises:
        DataError: Q320 for a path that is not there.
    """
    data = config.data
    refuse_missing(data.train)
    refuse_missing(data.eval)
    parts = {
        "version": VERSION,
        "train": [_source(name, data.hub_split) for name in data.train],
        "eval": [_source(name, data.hub_split) for name in data.eval],
        "data": data.model_dump(mode="json", include=_MOVE_BITS),
        "task": config.train.task,
        "tokenizer": _tokenizer(config, tokenizer),
        "chat": chat.model_dump(mode="json"),
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _source(name: str, split: str) -> Any:
    path = Path(at_home(name))
    if is_embedded(name):
        rows = "\n".join(json.dumps(row.value) for row in embedded_rows(name))
        return [name, hashlib.sha256(rows.encode()).hexdigest()]
    if is_saved_dataset(path):
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif os.path.exists(path):
        files = data_files(path, [])
    else:
        return [name, hub_dataset(name, split)._fingerprint]
    return [(file.name, sha256(file)) for file in files]


def _tokenizer(config: Config, tokenizer: Tokenizer | None) -> Any:
    if tokenizer is not None:
        return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
    return [config.tokenizer.model_dump(mode="json"), config.model.vocab_size]
