"""Machine: free memory and disk, and keeping freed memory for the next step.

Asks the system; imports no torch. Not for what a run needs (memory.py).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1
"""mallopt takes an int."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep memory that this process frees, instead of returning it at once.

    Each step allocates the same activations and gradients again. By default glibc returns blocks of
    more than 32 MB when they are freed, and the system has to find and clear their pages anew:
    hundreds of thousands a step, while matrix products wait (mallopt(3); docs/LOG.md). This process
    can still use the memory that is kept. Blocks of 2 GiB and more are returned.

    Returns:
        Whether the C library accepted it; False where it is not glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    limits = (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)
    return mallopt is not None and all(mallopt(limit, _MOST) == 1 for limit in limits)


def has_bfloat16(cpuinfo: Path = _CPUINFO) -> bool:
    """Say whether this processor has instructions for bfloat16 products.

    False where the system does not report it.
    """
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def free_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Say how many bytes a new process may take; None where the system does not report it.

    The smaller of what the machine has free and what the process's control group may still use.
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
    """Read the limit of the control group, minus what is used except the file cache."""
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
