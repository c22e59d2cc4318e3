"""The two files of a tokenizer, in Hugging Face's form: read with care, written plainly.

    tokenizer.json          the whole pipeline and vocabulary
    tokenizer_config.json   names of control tokens, and how transformers should open the other

Not for chat templates, which have their own file (text/chat.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer, write_json, write_text
from quatrain.words import Sentence

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAX_TOKENIZER_BYTES = 256 * 2**20
MAX_CONFIG_BYTES = 2**20

_TOKEN_KEYS = ("bos", "eos", "pad", "unk")
_LONGEST_REASON = 300
_NO_LIMIT = 10**12  # transformers writes about 1e30 for "no limit"


def write_tokenizer_files(
    directory: Path, backend: tokenizers.Tokenizer, names: dict[str, Any]
) -> None:
    """Write both files; `names` has the fields of `tokenizer.Names`."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"{key}_token": names[key] for key in _TOKEN_KEYS if names[key] is not None}
    if names["model_max_length"] is not None:
        config["model_max_length"] = names["model_max_length"]
    if names["unknown"] != "unk":
        config["unknown_characters"] = names["unknown"]
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / TOKENIZER_FILE, backend.to_str(pretty=False) + "\n")
    write_json(directory / CONFIG_FILE, config)


def read_tokenizer_files(directory: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Read both files, and give the fields of `tokenizer.Names`."""
    text = read_capped(directory / TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    names = _read_names(directory / CONFIG_FILE)
    try:
        return tokenizers.Tokenizer.from_str(text), names
    except Exception as error:  # the library raises no narrower kind
        raise broken(directory / TOKENIZER_FILE, str(error)) from error


def read_capped(path: Path, max_bytes: int) -> str:
    """Read a text file of a model directory, unless it is too large for such a file."""
    if is_lfs_pointer(path):
        raise CheckpointError("Q401.lfs", path=path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError("Q431.large", path=path, size=size, max_bytes=max_bytes)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError("Q430.missing", path=path, name=path.name) from error
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, str(error)) from error


def read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object of a model directory."""
    try:
        value = json.loads(read_capped(path, max_bytes))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise broken(
            path, Sentence.of("reasons.not_json", why=str(error)[:_LONGEST_REASON])
        ) from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise broken(path, Sentence.of("reasons.no_object", kind=kind))
    return value


def broken(path: Path, reason: str) -> CheckpointError:
    """Build the error for an unusable file of a model directory."""
    short = reason if isinstance(reason, Sentence) else reason[:_LONGEST_REASON]
    return CheckpointError("Q431.broken", path=path, reason=short)


def _read_names(path: Path) -> dict[str, Any]:
    config = read_object(path, MAX_CONFIG_BYTES)
    names = {key: _token_name(config.get(f"{key}_token"), key, path) for key in _TOKEN_KEYS}
    limit = config.get("model_max_length")
    known_limit = isinstance(limit, int) and 0 < limit < _NO_LIMIT
    unknown = config.get("unknown_characters", "unk")
    if unknown not in ("unk", "error"):
        raise broken(path, Sentence.of("reasons.unknown_characters", given=unknown))
    return {**names, "model_max_length": limit if known_limit else None, "unknown": unknown}


def _token_name(value: Any, key: str, path: Path) -> str | None:
    """Read a token, which is a name or, from older programs, an object."""
    name = value.get("content") if isinstance(value, dict) else value
    if name is None or isinstance(name, str):
        return name
    raise broken(path, Sentence.of("reasons.token_name", field=f"{key}_token", given=name))
