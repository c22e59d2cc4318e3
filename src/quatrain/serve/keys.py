"""Keys: read from a file or the environment, and kept as hashes alone."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from quatrain.errors import ConfigError

KEY_VARIABLE = "QUATRAIN_API_KEY"


def read_keys(path: Path | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Read keys, one a line of a file; blank lines and those that begin with # are none.

    Raises:
        ConfigError: Q212 for a file that cannot be read, or has no key.
    """
    if path is None:
        key = environment.get(KEY_VARIABLE, "").strip()
        return [key] if key else []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("Q212.unreadable", path=path, why=str(error)) from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError("Q212.none", path=path)
    return keys


def refuse_open_door(host: str, has_key: bool) -> None:
    """Refuse to let other machines ask without a key. Raises Q212."""
    if not has_key and not is_loopback(host):
        raise ConfigError("Q212.open", host=host, variable=KEY_VARIABLE)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
