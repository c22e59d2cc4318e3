"""Strangers: what a path is that is not a model, and the command that makes it one.

Only the first bytes of such files are read. Not for errors in a model directory (shards.py,
hf_config.py).
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.words import Sentence

Find = Callable[[Path], Path | None]
"""Gives the model directory that a path means, or None."""

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_PACKED = {".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".zst", ".7z", ".rar"}
_NO_MODELS = ("mmproj", "adapter")
"""Prefixes of GGUF files that are not language models: image projectors and adapters."""
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")
_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:(?://)?)(?:models/)?"
    r"(?P<name>[\w.-]+/[\w.-]+)(?:[/@?#].*)?"
)
_MOST_NAMED, _MOST_LOOKED_AT = 3, 500


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or else its first bytes."""
    return path.suffix.lower() == ".gguf" or _begins(path, b"GGUF")


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, of whatever format."""
    return is_gguf(path) or _is_pickle(path) or path.suffix.lower() == ".safetensors"


def conversion(source: Path, more: str = "") -> dict[str, str]:
    """Give the command that converts a source, and the directory that it makes.

    A model in the Hub's cache is named by its Hub id.

        models/small  ->  quatrain convert models/small small-llama4 --to llama4

    Args:
        source: a directory.
        more: further options.
    """
    cached = next((found for part in source.parts if (found := _CACHED.fullmatch(part))), None)
    given = "/".join(cached.groups()) if cached else str(source)
    made = f"{Path(given).resolve().name}-llama4"
    words = shlex.join(["quatrain", "convert", given, made, "--to", "llama4"])
    return {"command": f"{words} {more}".rstrip(), "made": made}


def refusal(path: Path, find: Find) -> CheckpointError:
    """Build the error for an existing path that is not a model."""
    return _of_file(path, find) if path.is_file() else _of_directory(path, find)


def _of_file(path: Path, find: Find) -> CheckpointError:
    beside, pickled = [*path.parent.glob("*.safetensors")], _is_pickle(path)
    if find(path.parent) == path.parent and (beside or not pickled):
        return CheckpointError("Q401.file_of", path=path, directory=path.parent)
    if pickled:
        return CheckpointError("Q401.pickle", path=path)
    if path.suffix.lower() == ".safetensors":
        return CheckpointError("Q401.alone", path=path)
    if path.suffix.lower() in _PACKED:
        return CheckpointError("Q401.packed", path=path)
    return CheckpointError("Q401.file", path=path)


def _of_directory(path: Path, find: Find) -> CheckpointError:
    files = sorted(one for one in path.glob("*") if one.is_file()) if path.is_dir() else []
    ggufs = [one for one in files if is_gguf(one)]
    if ggufs:
        file = next((g for g in ggufs if not g.name.lower().startswith(_NO_MODELS)), ggufs[0])
        given = shlex.quote(str(file))
        return CheckpointError("Q401.holds_gguf", path=path, file=file.name, given=given)
    if weights := next((one for one in files if one.suffix == ".safetensors"), None):
        config = "adapter_config.json" if weights.name.startswith("adapter") else "config.json"
        return CheckpointError("Q401.no_config", path=path, file=weights.name, config=config)
    if pickle := next((one for one in files if one.suffix.lower() in _PICKLES), None):
        return CheckpointError("Q401.pickle", path=pickle)
    if inside := _inside(path, find):
        return CheckpointError("Q401.inside", path=path, inside=inside)
    if any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return CheckpointError("Q401.tokenizer", path=path)
    return CheckpointError("Q401.no_model", path=path)


def _inside(path: Path, find: Find) -> tuple[str, ...]:
    """Name the models in a directory, or in the snapshots of a Hub cache."""
    folders = [*_folders(path), *_folders(path / "snapshots")]
    return tuple(str(one) for one in folders if find(one))[:_MOST_NAMED]


def _folders(path: Path) -> list[Path]:
    found = sorted(one for one in path.glob("*") if one.is_dir() and not one.name.startswith("."))
    return found[:_MOST_LOOKED_AT]


def absence(name: str, find: Find) -> CheckpointError:
    """Build the error for a name that does not exist, with the nearest names that do."""
    if address := _ADDRESS.fullmatch(name):
        return CheckpointError("Q401.address", given=name, name=address["name"])
    return CheckpointError("Q401.nothing", model=name, near=_near(name, find))


def not_given(hub_id: str, error: Exception, find: Find) -> CheckpointError:
    """Say why the Hub did not give a model."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return CheckpointError("Q401.gated", hub_id=hub_id)
    near = _near(hub_id, find)
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError("Q401.hub_name", hub_id=hub_id, near=near)
    why = str(error).strip().partition("\n")[0] or type(error).__name__
    return CheckpointError("Q401.hub", hub_id=hub_id, error=why, near=near)


def _near(name: str, find: Find) -> str:
    """Propose the model with the nearest name, beside the path or in the Hub's cache."""
    from huggingface_hub import constants

    parent = Path(name).parent
    cached = (_CACHED.fullmatch(one.name) for one in _folders(Path(constants.HF_HUB_CACHE)))
    there: Iterable[Path] = sorted(parent.glob("*"))[:_MOST_LOOKED_AT] if parent.is_dir() else ()
    known = {str(one) for one in there if is_gguf(one) or (one.is_dir() and find(one))}
    known |= {"/".join(one.groups()) for one in cached if one}
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
    return Sentence.of("errors.near", name=found[0]) if found else ""


def _is_pickle(path: Path) -> bool:
    return path.suffix.lower() in _PICKLES or _begins(path, b"\x80\x02")


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
