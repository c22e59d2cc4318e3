"""Code compiled for this processor, from *.cpp beside this file, where there is a C++ compiler.

Decoders are several times as fast as operations of torch, which pass over the numbers again and
again, and give the same numbers bit for bit. Products of a few vectors read nothing but the stored
bytes. The first use compiles, in some seconds, and keeps the result in the user's cache directory.
A process that does not wait lets another one compile. Where that fails, torch does the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from quatrain.model import kinds_gguf, kinds_nf4
from quatrain.progress import working

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
SOURCES = {
    "kinds": ("kinds.cpp",),
    "products": ("products.cpp", "kinds.cpp"),
    "few_tokens": ("few_tokens.cpp", "products.cpp", "kinds.cpp"),
    "allocator": ("allocator.cpp",),
}
"""Files of each library; the first one is compiled, and includes the others."""
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_TORCH = Path(torch.__file__).parent
FLAGS_OF = {
    "kinds": ("-ffp-contract=off",),
    "products": ("-ffp-contract=fast",),
    "few_tokens": ("-ffp-contract=fast",),
    "allocator": (f"-I{_TORCH / 'include'}", f"-L{_TORCH / 'lib'}", "-lc10"),
}
"""Whether a product and a sum may become one operation, which rounds once; or where torch is."""
SECONDS = 60
"""For the compiler."""
SHARE, MULTIPLIED = 1 << 16, 1 << 19
"""Numbers that are worth a thread, to decode and to multiply: some twenty microseconds."""
_I64 = ctypes.c_int64
_PLAIN = {torch.float32: "f32", torch.bfloat16: "bf16"}
INT8 = {"codes": torch.int8, "scales": torch.float32}
FP8 = {"codes": torch.uint8, "scales": torch.float32}
NF4 = {"codes": torch.uint8, "scales": torch.uint8, "nested": torch.float32}
_DTYPES = {"int8": INT8, "fp8": FP8, "nf4": NF4}


def multiply_plain(weight_OI: Tensor, x: Tensor, out: Tensor) -> bool:
    """Multiply a few vectors by a float32 or bfloat16 matrix; see `multiply`."""
    name = _PLAIN.get(weight_OI.dtype)
    if name is None or weight_OI.device.type != "cpu" or weight_OI.stride(1) != 1:
        return False
    rows = slice(0, len(weight_OI))
    return _multiply(name, [_address(weight_OI), _I64(weight_OI.stride(0))], rows, x, out)


def decode(name: str, parts: Mapping[str, Tensor], rows: slice | Tensor, out: Tensor) -> bool:
    """Decode rows into out [n, width]; tell whether that was possible, and do nothing otherwise."""
    if not _readable(name, parts):
        return False
    native = library("kinds")
    if native is None:
        return False
    numbers = None if isinstance(rows, slice) else rows.to(torch.int64).contiguous()
    threads = _threads(out.numel(), len(out))
    getattr(native, f"decode_{name}")(
        *_located(name, parts),
        _address(numbers) if numbers is not None else ctypes.c_void_p(),
        _I64(rows.start if isinstance(rows, slice) else 0),
        *map(_I64, out.shape), _address(out),
        ctypes.c_int(out.dtype == torch.bfloat16), ctypes.c_int(threads),
    )  # fmt: skip
    return True


def encode_nf4(weight_OI: Tensor, middles: Tensor, codes: Tensor, largest: Tensor) -> bool:
    """Encode contiguous float32 blocks; see kinds_nf4.encode_blocks. Tell whether it was done."""
    native = library("kinds") if weight_OI.device.type == "cpu" else None
    if native is None:
        return False
    blocks = largest.numel()
    native.encode_nf4(
        _address(weight_OI), _address(middles), ctypes.c_float(kinds_nf4.LEAST), _I64(blocks),
        _address(codes), _address(largest), ctypes.c_int(_threads(weight_OI.numel(), blocks)),
    )  # fmt: skip
    return True


def multiply(name: str, parts: Mapping[str, Tensor], rows: slice, x: Tensor, out: Tensor) -> bool:
    """Multiply a few vectors by stored rows; tell whether that was possible.

    Args:
        name: of the kind.
        parts: of the matrix.
        rows: of it.
        x: contiguous float32 [R, I] on the CPU.
        out: float32 [R, number of rows]; its rows need not lie together.
    """
    return _readable(name, parts) and _multiply(name, _located(name, parts), rows, x, out)


def multiply_columns(weight_IO: Tensor, x: Tensor, out: Tensor) -> bool:
    """Multiply a few vectors by a float32 or bfloat16 matrix [I, O]; see `multiply`."""
    name, native = _PLAIN.get(weight_IO.dtype), library("products")
    if name is None or native is None or weight_IO.device.type != "cpu" or weight_IO.stride(1) != 1:
        return False
    width, count = weight_IO.shape
    threads = _threads(count * width, -(-count // 64), MULTIPLIED)
    getattr(native, f"multiply_columns_{name}")(
        _address(weight_IO), _I64(weight_IO.stride(0)), _I64(count), _I64(width), _address(x),
        _I64(len(x)), _address(out), _I64(out.stride(0)), ctypes.c_int(threads),
    )  # fmt: skip
    return True


def _multiply(name: str, located: list[Any], rows: slice, x: Tensor, out: Tensor) -> bool:
    native = library("products")
    if native is None:
        return False
    count, width = rows.stop - rows.start, x.shape[1]
    threads = _threads(count * width, count, MULTIPLIED)
    getattr(native, f"multiply_{name}")(
        *located, _I64(rows.start), _I64(count), _I64(width), _address(x), _I64(len(x)),
        _address(out), _I64(out.stride(0)), ctypes.c_int(threads),
    )  # fmt: skip
    return True


def _threads(numbers: int, most: int, share: int = SHARE) -> int:
    """Say how many threads work on so many numbers, in so many rows."""
    return max(1, min(torch.get_num_threads(), most, numbers // share))


def _readable(name: str, parts: Mapping[str, Tensor]) -> bool:
    """Tell whether a decoder of this name exists, and the parts lie in memory as it expects."""
    if dtypes := _DTYPES.get(name):
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
    if name in ("int8", "fp8"):
        return [_address(parts["codes"]), _address(parts["scales"])]
    if name == "nf4":
        cpu = torch.device("cpu")
        found = [_address(parts[part]) for part in ("codes", "scales", "nested")]
        tables = [_address(kinds_nf4.scale_map(cpu)), _address(kinds_nf4.values(cpu))]
        return [*found, ctypes.c_float(float(parts["offset"])), *tables]
    return [_address(parts["blocks"]), _I64(parts["blocks"].stride(0))]


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class Haste:
    """Whether this process is too short to wait for a compiler: then another one compiles."""

    asked = False
    started: ClassVar[dict[str, Any]] = {}
    """Processes that compile, by library; until this one ends, torch does the work."""
    made: ClassVar[set[str]] = set()
    """Libraries that were there."""


@contextmanager
def in_haste() -> Iterator[None]:
    """Let the body not wait for a compiler."""
    Haste.asked = True
    try:
        yield
    finally:
        Haste.asked = False


def library(name: str) -> ctypes.CDLL | None:
    """Load a library; compile it first where no earlier process has."""
    if Haste.asked and name != "kinds" and not _is_made(name):  # which takes half a second
        return None
    return loaded(name)


def _is_made(name: str) -> bool:
    """Whether a library need not be compiled; else have another process compile it."""
    compiler = shutil.which("c++")
    if name in Haste.started or name in Haste.made or compiler is None:
        return name not in Haste.started
    if not _file(name, compiler).exists():
        code = f"from quatrain.model.kinds_native import library; library({name!r})"
        Haste.started[name] = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return False
    Haste.made.add(name)
    return True


@cache
def loaded(name: str) -> ctypes.CDLL | None:
    """Load a library, once; compile it first where that is needed."""
    compiler = shutil.which("c++")
    if compiler is None:
        logger.info("no C++ compiler: torch does what %s would", name)
        return None
    try:
        file = _file(name, compiler)
        if not file.exists():
            with working("progress.compiling"):
                _compile(name, compiler, file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("torch does what %s would, which cannot be compiled: %s", name, error)
        return None


def _file(name: str, compiler: str) -> Path:
    return _cache_directory() / f"{name}-{_key(name, compiler)}.so"


def _cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "quatrain"


def _key(name: str, compiler: str) -> str:
    """Hash all that a compiled file depends on; a compiler is known by its file."""
    digest = hashlib.sha256(b"".join((_HERE / file).read_bytes() for file in SOURCES[name]))
    compiled = os.stat(compiler)
    for word in (
        *FLAGS,
        *FLAGS_OF[name],
        torch.__version__,
        _processor(),
        os.path.realpath(compiler),
        compiled.st_mtime_ns,
    ):
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


def _compile(name: str, compiler: str, file: Path) -> None:
    """Compile under another name, then rename: other processes find the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        made = Path(directory) / file.name
        source = str(_HERE / SOURCES[name][0])
        command = [compiler, *FLAGS, "-o", str(made), source, *FLAGS_OF[name]]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        os.replace(made, file)
