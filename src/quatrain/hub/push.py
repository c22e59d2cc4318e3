"""Push: a model directory that was written and checked goes to the Hub, private unless asked.

Its manifest stays here: a card is edited on the Hub, and would then be taken for damaged.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from quatrain.errors import CheckpointError
from quatrain.files import MANIFEST
from quatrain.model.locate import is_adapter, names_the_hub
from quatrain.model.peft_config import BASE, read_fields


def refuse_unready(name: str) -> None:
    """Find out what needs no network, before a long conversion.

    Raises:
        CheckpointError: Q416 for a name that no model can have on the Hub, or without a token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise CheckpointError("Q416.name", given=name) from None
    if name.count("/") != 1:
        raise CheckpointError("Q416.name", given=name)
    if not get_token():
        raise CheckpointError("Q416.no_token")


def push(directory: Path, name: str, public: bool) -> str:
    """Upload a directory, and give the address of its repository.

    Args:
        directory: of the model; it is there whatever happens.
        name: ORG/NAME, whose repository is made where there is none.
        public: whether everyone may see it; else it is private.

    Raises:
        CheckpointError: Q416 for what the Hub refuses or does not get, and for an adapter whose
            base is a path of this machine.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if is_adapter(directory) and not names_the_hub(base := str(read_fields(directory)[BASE])):
        raise CheckpointError("Q416.base", directory=directory, base=base)
    disable_progress_bars()
    api = HfApi()
    try:
        url = api.create_repo(repo_id=name, private=not public, exist_ok=True)
        private = _is_private(api, name)
        if private is False and not public:
            raise CheckpointError("Q416.public", name=name, directory=directory)
        api.upload_folder(repo_id=name, folder_path=directory, ignore_patterns=[MANIFEST],
                          commit_message=f"Upload {directory.name}")  # fmt: skip
        if private and public:
            api.update_repo_settings(repo_id=name, private=False)
    except CheckpointError:
        raise
    except Exception as error:  # of whichever library of HTTP huggingface_hub has
        raise _refusal(error, name, directory, public) from None
    return str(url)


def _is_private(api: Any, name: str) -> bool | None:
    """Ask who may see a repository; None where the Hub does not say."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return bool(api.repo_info(repo_id=name).private)
    except HfHubHTTPError:
        return None


def _refusal(error: Exception, name: str, directory: Path, public: bool) -> CheckpointError:
    """Say what came, with the command that uploads the same again without converting."""
    from huggingface_hub.errors import HfHubHTTPError

    why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    words = ["hf", "upload", name, str(directory), "--exclude", MANIFEST]
    again = shlex.join(words if public else [*words, "--private"])
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return CheckpointError("Q416.token", again=again)
    if status in (403, 404):
        return CheckpointError("Q416.rights", name=name, again=again)
    if status is not None:
        return CheckpointError("Q416.refused", name=name, why=why, again=again)
    return CheckpointError("Q416.network", name=name, why=why, again=again)
