"""MODEL to a directory: a run (its best checkpoint), a model directory, or a Hub id."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from quatrain.errors import CheckpointError
from quatrain.files import MANIFEST, damage

logger = logging.getLogger(__name__)

CHECKPOINTS, BEST = "checkpoints", "best"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_STEP = re.compile(r"step-[0-9]+")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


def locate(model: str | Path) -> Path:
    """Find the model directory that MODEL means, whole where a manifest tells.

    Raises:
        CheckpointError: Q401 when there is none, with what was looked for; Q402 when it is damaged.
    """
    path = Path(model)
    for candidate in (path, path / CHECKPOINTS / BEST, _newest(path)):
        if candidate is not None and (candidate / "config.json").is_file():
            if candidate.parent == path / CHECKPOINTS and candidate.name != BEST:
                logger.warning("%s was not evaluated yet: using its %s", path, candidate.name)
            _refuse_damage(candidate)
            return candidate
    if path.exists():
        raise CheckpointError(
            "Q401",
            f"{path} is neither a model directory (config.json) nor a run with a checkpoint.",
            "Train first (quatrain sft ... run_dir=DIR), or give a directory that has weights.",
        )
    if names_the_hub(str(model)):
        return _download(str(model))
    raise CheckpointError("Q401", f"{model} does not exist.", "Give a run, a model or a Hub id.")


def names_the_hub(name: str) -> bool:
    """Say whether a name is written as the Hub writes them, and is no path of this machine."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _newest(run_dir: Path) -> Path | None:
    """Find the checkpoint of the latest step, whole or not; None in a directory without any."""
    found = [
        (int(path.name.removeprefix("step-")), path)
        for path in (run_dir / CHECKPOINTS).glob("step-*")
        if _STEP.fullmatch(path.name) and (path / "config.json").is_file()
    ]
    return max(found)[1] if found else None


def _refuse_damage(directory: Path) -> None:
    if (directory / MANIFEST).exists() and (found := damage(directory)) is not None:
        raise CheckpointError(
            "Q402",
            f"{directory} is damaged: {found}.",
            "Run the same training command again (it goes on from the newest whole checkpoint), "
            "give another checkpoint, or copy this one again from where it came.",
        )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            "Q401",
            f"{hub_id} is not a directory here, and the Hub did not give it: {error}",
            "Check the name, HF_TOKEN and the network; or download it and give its directory.",
        ) from None
