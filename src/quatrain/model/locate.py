"""MODEL to a directory: a run (its best checkpoint), a model directory, or a Hub id."""

from __future__ import annotations

import re
from pathlib import Path

from quatrain.errors import CheckpointError

CHECKPOINTS, BEST = "checkpoints", "best"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


def locate(model: str | Path) -> Path:
    """Find the model directory that MODEL means.

    Raises:
        CheckpointError: Q401 when there is none, with what was looked for.
    """
    path = Path(model)
    for candidate in (path, path / CHECKPOINTS / BEST):
        if (candidate / "config.json").is_file():
            return candidate
    if path.exists():
        raise CheckpointError(
            "Q401",
            f"{path} is neither a model directory (config.json) nor a run with a checkpoint.",
            "Train first (quatrain sft ... run_dir=DIR), or give a directory that has weights.",
        )
    if _HUB_ID.fullmatch(str(model)):
        return _download(str(model))
    raise CheckpointError("Q401", f"{model} does not exist.", "Give a run, a model or a Hub id.")


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
