"""Machine: how much memory and disk are free here. Asks the system; imports no torch.

Not for what a run needs (memory.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Say how many bytes a new process may take; None where the system does not tell.

    The lesser of what the machine has left and what the process's group may still use.
    """
    found = [n for n in (_available(meminfo), _left_to_group(cgroup)) if n is not None]
    return min(found) if found else _physical()


def free_disk(directory: Path) -> int:
    """Say how many bytes are free where a directory is or will be."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(words[1]) << 10 for words in found), None)


def _left_to_group(cgroup: Path) -> int | None:
    """Read the limit of the control group, less what is used but for the cache of files."""
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return max(0, int(limit) - used + cached)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # Windows, or a system that does not say
        return None
