"""MODEL to a place: a run, a model or adapter directory, a GGUF file, or a Hub id."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.files import MANIFEST, damage, is_lfs_pointer, read_manifest
from quatrain.model.hf_config import CONFIG, DENSE_TYPES, read_json
from quatrain.model.peft_config import ADAPTER_CONFIG, BASE, read_fields
from quatrain.model.stranger import absence, is_gguf, not_given, refusal
from quatrain.run_dir import DATA_REPORT, PREPARED
from quatrain.words import say

logger = logging.getLogger(__name__)

CHECKPOINTS, BEST = "checkpoints", "best"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_STEP = re.compile(r"step-[0-9]+")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


def locate(model: str | Path) -> Path:
    """Find what MODEL means, a directory or a GGUF file; check it against its manifest, if any.

    Raises:
        CheckpointError: Q401 when there is none, with what was looked for; Q402 when it is damaged.
    """
    path = Path(model)
    if not _can_be_a_path(path):
        raise CheckpointError("Q401.nothing", model=model, near="")
    if path.is_file() and is_gguf(path):
        return path
    if (found := _found(path)) is not None:
        if found.parent == path / CHECKPOINTS and found.name != BEST:
            logger.warning(say("log.newest", path=path, name=found.name))
        _refuse_damage(found)
        return found
    if path.exists():
        raise refusal(path, _found)
    if names_the_hub(str(model)):
        return _download(str(model))
    raise absence(str(model), _found)


def learnt_single_questions(place: Path) -> bool:
    """Whether the run that made a model taught it no conversation with more than one question.

    False where nothing says so, as for a base.
    """
    run_dir = place.parent.parent if place.parent.name == CHECKPOINTS else place
    try:
        train = read_json(run_dir / PREPARED / DATA_REPORT)["train"]
        return bool(train["conversations"] > 0 and train["several_turns"] == 0)
    except (CheckpointError, KeyError, TypeError):
        return False


def names_the_hub(name: str) -> bool:
    """Say whether a name has the form of a Hub id, and is not a path on this machine."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and no model of its own."""
    weights = ("model.safetensors", "model.safetensors.index.json")
    return (directory / ADAPTER_CONFIG).is_file() and not any(
        (directory / name).is_file() for name in weights
    )


def base_of(adapter: Path) -> Path:
    """Find the model that an adapter is added to.

    Raises:
        CheckpointError: Q401 when it is damaged or not where the adapter says, Q415 when it is not
            a model.
    """
    name = read_fields(adapter)[BASE]
    try:
        base = locate(name)
    except CheckpointError as error:
        if error.key == "Q401.lfs":
            raise
        raise CheckpointError("Q401.base", adapter=adapter, name=name, why=error.message) from None
    if is_adapter(base):
        raise CheckpointError("Q415.of_adapter", adapter=adapter, name=name)
    return base


def llama4_base_of(adapter: Path) -> Path:
    """Find the Llama 4 that an adapter is added to.

    Raises:
        CheckpointError: as `base_of`, and Q415 for a dense model.
    """
    base = base_of(adapter)
    if (kind := model_type_of(str(base))) in DENSE_TYPES:
        raise CheckpointError(
            "Q415.of_dense", adapter=adapter, base=base, kind=kind, given=shlex.quote(str(adapter)),
            dense=shlex.quote(str(base)),
        )  # fmt: skip
    return base


def stands_on_gguf(place: Path) -> bool:
    """Whether a place is a GGUF file, or an adapter on one."""
    return is_gguf(Path(read_fields(place)[BASE]) if is_adapter(place) else place)


def text_tools_of(directory: Path) -> Path:
    """Find the directory of the tokenizer: beside the weights, or with an adapter's base."""
    return (
        base_of(directory) if is_adapter(directory) and not has_tokenizer(directory) else directory
    )


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer."""
    return any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def model_type_of(name: str) -> str | None:
    """Read the model_type of a model on this machine; the Hub is not asked."""
    path = Path(name)
    configs = [one / CONFIG for one in _candidates(path)] if _can_be_a_path(path) else []
    if names_the_hub(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, CONFIG)
        configs += [Path(cached)] if isinstance(cached, str) else []
    try:
        return next((read_json(one).get("model_type") for one in configs if one.is_file()), None)
    except CheckpointError:
        return None


def _candidates(path: Path) -> list[Path]:
    """List the directories that a name may mean."""
    newest = _newest(path)
    return [path, path / CHECKPOINTS / BEST, *([newest] if newest else [])]


def _can_be_a_path(path: Path) -> bool:
    """Whether the system accepts a name: not too long, and without a NUL."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        return isinstance(error, NotADirectoryError)
    return True


def _found(path: Path) -> Path | None:
    """Find the directory that a path means: itself, or the best checkpoint, or else the newest."""
    return next((one for one in _candidates(path) if _holds_a_model(one)), None)


def _holds_a_model(directory: Path) -> bool:
    return (directory / CONFIG).is_file() or is_adapter(directory)


def _newest(run_dir: Path) -> Path | None:
    """Find the checkpoint of the latest step, complete or not; None if there is none."""
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in (run_dir / CHECKPOINTS).glob("step-*")
        if _STEP.fullmatch(path.name) and _holds_a_model(path)
    ]
    return max(found)[1] if found else None


def _refuse_damage(directory: Path) -> None:
    for name in (read_manifest(directory) or {"files": {}})["files"]:
        if is_lfs_pointer(directory / name):
            raise CheckpointError("Q401.lfs", path=directory / name)
    if (directory / MANIFEST).exists() and (found := damage(directory)) is not None:
        raise CheckpointError("Q402.damaged", directory=directory, found=found)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, RuntimeError) as error:  # from httpx, bad names, or being offline
        raise not_given(hub_id, error, _found) from None
    if not _holds_a_model(directory):
        raise CheckpointError("Q401.hub_no_model", hub_id=hub_id)
    return directory
