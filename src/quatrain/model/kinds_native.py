"""Decoders compiled for this processor, from kinds.cpp, where there is a C++ compiler.

They are several times as fast as operations of torch, which pass over the numbers again and
again, and give the same numbers bit for bit. The first use compiles them, in about a second, and
keeps them in the user's cache directory. Where that fails, torch decodes.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.model import kinds_gguf, kinds_nf4

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kinds.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
SECONDS = 60
"""For the compiler."""
SHARE = 1 << 16
"""Numbers that are worth a thread."""
INT8 = {"codes": torch.int8, "scales": torch.float32}
NF4 = {"codes": torch.uint8, "scales": torch.uint8, "nested": torch.float32}


def decode(name: str, parts: Mapping[str, Tensor], rows: slice | Tensor, out: Tensor) -> bool:
    """Decode rows into out [n, width]; tell whether that was possible, and do nothing otherwise."""
    if not _readable(name, parts):
        return False
    library = _library()
    if library is None:
        return False
    numbers = None if isinstance(rows, slice) else rows.to(torch.int64).contiguous()
    threads = max(1, min(torch.get_num_threads(), len(out), out.numel() // SHARE))
    getattr(library, f"decode_{name}")(
        *_located(name, parts),
        _address(numbers) if numbers is not None else ctypes.c_void_p(),
        ctypes.c_int64(rows.start if isinstance(rows, slice) else 0),
        *map(ctypes.c_int64, out.shape), _address(out),
        ctypes.c_int(out.dtype == torch.bfloat16), ctypes.c_int(threads),
    )  # fmt: skip
    return True


def _readable(name: str, parts: Mapping[str, Tensor]) -> bool:
    """Tell whether a decoder of this name exists, and the parts lie in memory as it expects."""
    if name in ("int8", "nf4"):
        dtypes = INT8 if name == "int8" else NF4
        if parts.keys() < dtypes.keys():  # nf4 whose scales are not nested
            return False
        return all(parts[part].device.type == "cpu" and parts[part].dtype == dtype
                   and parts[part].is_contiguous() for part, dtype in dtypes.items())  # fmt: skip
    if name not in kinds_gguf.LAYOUTS:
        return False
    blocks = parts["blocks"]
    return blocks.device.type == "cpu" and blocks.stride(1) == 1


def _located(name: str, parts: Mapping[str, Tensor]) -> list[Any]:
    """Give the arguments that say where the parts are."""
    if name == "int8":
        return [_address(parts["codes"]), _address(parts["scales"])]
    if name == "nf4":
        cpu = torch.device("cpu")
        found = [_address(parts[part]) for part in ("codes", "scales", "nested")]
        tables = [_address(kinds_nf4.scale_map(cpu)), _address(kinds_nf4.values(cpu))]
        return [*found, ctypes.c_float(float(parts["offset"])), *tables]
    return [_address(parts["blocks"]), ctypes.c_int64(parts["blocks"].stride(0))]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


@cache
def _library() -> ctypes.CDLL | None:
    """Load the decoders; compile them first where no earlier process has."""
    compiler = shutil.which("c++")
    if compiler is None:
        logger.info("no C++ compiler: weights are decoded by torch")
        return None
    try:
        file = _cache_directory() / f"kinds-{_key(compiler)}.so"
        if not file.exists():
            _compile(compiler, file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("weights are decoded by torch, since kinds.cpp cannot be compiled: %s", error)
        return None


def _cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "quatrain"


def _key(compiler: str) -> str:
    """Hash all that a compiled file depends on; a compiler is known by its file."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    compiled = os.stat(compiler)
    for word in (*FLAGS, _processor(), os.path.realpath(compiler), compiled.st_mtime_ns):
        digest.update(f"\0{word}".encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Describe what -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = ("model name", "flags", "Features", "CPU part")
    chosen = sorted({line for line in lines if line.startswith(told)})
    return "\n".join([platform.machine(), *chosen])


def _compile(compiler: str, file: Path) -> None:
    """Compile under another name, then rename: other processes find the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        made = Path(directory) / file.name
        command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        os.replace(made, file)
