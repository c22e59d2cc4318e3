"""Weight files of a model directory, one tensor at a time: reading by name, writing in shards.

A `LazyTensor` knows its shape and dtype and is read on demand, so a directory of any size needs
little memory. Files are checked before they are opened: a plausible size of header and index, names
that stay in the directory, no pickle, no link out of the directory.
Not for what the tensors mean (io.py, hub/).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer, write_json
from quatrain.model.frozen import Matrix
from quatrain.model.hf_config import CONFIG, read_json
from quatrain.model.kinds import PLAIN

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Default size of a shard, as on the Hub."""
_NOTES = "__metadata__"
_AT_ONCE = 1 << 24
_LARGEST_INDEX, _LARGEST_HEADER = 64 << 20, 16 << 20

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed, and not kept."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    matrices: tuple[Matrix, ...] = ()
    """The same numbers as the file stores them, if these are blocks; see model/frozen.py."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def in_blocks(self) -> bool:
        """Whether the file stores it in fewer bits than numbers have."""
        return any(one.kind.name not in PLAIN for one in self.matrices)

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """Wrap a tensor that is in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def map(
        self, change: Callable[[Tensor], Tensor], matrices: tuple[Matrix, ...] = ()
    ) -> LazyTensor:
        """Apply a change at each reading; the new shape is found on a tensor without memory.

        Args:
            change: of the tensor.
            matrices: what it makes of the stored ones, if they can follow.
        """
        with torch.device("meta"):
            result = change(torch.empty(self.shape, dtype=self.dtype))
        shape = tuple(result.shape)
        return LazyTensor(shape, result.dtype, lambda: change(self.load()), matrices)

    def finite(self, name: str) -> LazyTensor:
        """Refuse values that are not finite, at each reading, naming the tensor. Raises Q404."""
        return replace(self, load=lambda: _finite(name, self.load()))

    def to(self, dtype: torch.dtype, name: str = "a tensor") -> LazyTensor:
        """Convert at each reading. Raises as `narrowed`."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: narrowed(name, self.load(), dtype))


def _finite(name: str, tensor: Tensor) -> Tensor:
    """Look at a part at a time, so that a mapped tensor takes no memory."""
    parts = tensor.flatten().split(_AT_ONCE)
    bad = [part[~torch.isfinite(part)] for part in parts]
    if number := sum(map(len, bad)):
        first = float(next(part[0] for part in bad if len(part)))
        raise CheckpointError("Q404.not_finite", name=name, value=first, count=number)
    return tensor


def narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor of finite numbers.

    Raises:
        CheckpointError: Q411 naming the tensor and its largest value, which `dtype` cannot hold.
    """
    if tensor.dtype == dtype:
        return tensor
    result = tensor.to(dtype)
    if not bool(torch.isfinite(result).all()):
        refuse_beyond(name, tensor, _NAMES[dtype].lower())
    return result


def refuse_beyond(name: str, tensor: Tensor, kind: str) -> NoReturn:
    """Refuse a type of number that cannot hold a tensor's largest value. Raises Q411."""
    largest = float(tensor.flatten()[tensor.abs().argmax()])
    raise CheckpointError("Q411.beyond", name=name, value=largest, kind=kind)


def open_tensors(directory: Path) -> dict[str, LazyTensor]:
    """List the tensors of a directory by name; none is read yet.

    Args:
        directory: holds model.safetensors, or shards and their index.

    Raises:
        CheckpointError: Q401 for files that are missing, unsafe or broken.
    """
    found: dict[str, LazyTensor] = {}
    for path in weight_files(directory):
        for name, tensor in open_file(path).items():
            if name in found:
                raise CheckpointError("Q401.twice", directory=directory, name=name)
            found[name] = tensor
    return found


def open_file(path: Path) -> dict[str, LazyTensor]:
    """List the tensors of one safetensors file by name. Raises as `open_tensors`."""
    header = _header(path)
    header.pop(_NOTES, None)
    found = {}
    for name, entry in header.items():
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError("Q401.dtype", path=path, name=name, dtype=entry["dtype"])
        found[name] = LazyTensor(tuple(entry["shape"]), dtype, _Read(path, name))
    return found


def notes_of(path: Path) -> dict[str, str]:
    """Read the metadata of a file. Raises as `open_tensors`."""
    notes: dict[str, str] = _header(path).get(_NOTES, {})
    return notes


@dataclass(frozen=True)
class _Read:
    path: Path
    name: str

    def __call__(self) -> Tensor:
        try:
            with safe_open(self.path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(self.name)
                return tensor
        except (SafetensorError, OSError) as error:
            raise CheckpointError("Q401.unreadable", path=self.path, error=error) from None


def _header(path: Path) -> dict[str, Any]:
    """Read a file's header, after the library has checked that it fits the file."""
    refuse_links(path)
    if is_lfs_pointer(path):
        raise CheckpointError("Q401.lfs", path=path)
    try:
        text = _header_text(path)
        with safe_open(path, framework="pt"):
            header: dict[str, Any] = json.loads(text)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError("Q401.unreadable", path=path, error=error) from None
    return header


def _header_text(path: Path) -> bytes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise CheckpointError("Q401.header", path=path, length=length)
        return file.read(length)


def weight_files(directory: Path) -> list[Path]:
    """Find the weight files; like transformers, prefer a single file to an index.

    Raises:
        CheckpointError: Q401 when there are none, or the index names anything but files beside it.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        weight_map = read_json(directory / INDEX, _LARGEST_INDEX).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        strange = [n for n in names if not isinstance(n, str) or n != Path(n).name or n == ".."]
        if strange or not names:
            raise CheckpointError("Q401.index", index=INDEX, given=strange[:3])
        missing = [name for name in sorted(set(names)) if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(
                "Q401.shards",
                directory=directory,
                missing=len(missing),
                number=len(set(names)),
                first=missing[0],
            )
        return [directory / name for name in sorted(set(names))]
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in directory.glob(pattern)]
    key = "Q401.pickled_weights" if pickles else "Q401.no_weights"
    raise CheckpointError(key, directory=directory, weights=WEIGHTS, index=INDEX)


def refuse_links(path: Path) -> None:
    """Refuse a link that leads out of a model directory, except the Hub cache's own links.

    Raises:
        CheckpointError: Q401.
    """
    if not path.is_symlink():
        return
    home = path.parent.resolve()
    root = home.parent.parent if home.parent.name == "snapshots" else home
    if not path.resolve().is_relative_to(root):
        raise CheckpointError("Q401.link", path=path, target=path.resolve())


def check_tensors(
    wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, LazyTensor], config: str = CONFIG
) -> None:
    """Compare names, shapes and dtypes with those of the config; nothing is read yet.

    Raises:
        CheckpointError: Q404 with the first names and how many there are.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    for key, names in (("Q404.missing", missing), ("Q404.unexpected", unexpected)):
        if names:
            first = ", ".join(names[:5])
            raise CheckpointError(key, number=len(names), first=first, config=config)
    for name, tensor in given.items():
        if tensor.shape != wanted[name]:
            raise CheckpointError(
                "Q404.shape",
                name=name,
                shape=list(tensor.shape),
                config=config,
                wanted=list(wanted[name]),
            )
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            raise CheckpointError(
                "Q404.floats", name=name, dtype=str(tensor.dtype).removeprefix("torch.")
            )


def write_shards(
    tensors: Mapping[str, LazyTensor], directory: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors in their order, each read once; one file, or shards and an index.

    Args:
        tensors: by their names in the file.
        directory: exists.
        shard_bytes: the most tensor bytes of a shard; a larger tensor has a shard of its own.
    """
    shards = list(_dealt(tensors, shard_bytes))
    if len(shards) == 1:
        write_file(directory / WEIGHTS, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(directory / name, shard)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / INDEX, index)


def _dealt(tensors: Mapping[str, LazyTensor], shard_bytes: int) -> Iterator[dict[str, LazyTensor]]:
    """Deal tensors into shards, in order."""
    shard: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > shard_bytes:
            yield shard
            shard = {}
        shard[name] = tensor
    yield shard


def write_file(
    path: Path, tensors: Mapping[str, LazyTensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file: 8 bytes of header length, the header, the tensors' bytes."""
    header: dict[str, Any] = {_NOTES: {"format": "pt", **(notes or {})}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            _write_tensor(file, tensor.load())


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten()
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
