"""Write to a temporary name, hash, rename: the only way files and directories are created.

A directory written here carries `manifest.json`, which names every file with its size and SHA-256,
as well as its own hash. `damage` tells a reader whether the directory is complete. Not for
knowing what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quatrain.words import Sentence

MANIFEST = "manifest.json"
TEMPORARY_MARK = ".tmp-"
_OWN_HASH = "sha256"
_LFS_POINTER, _LARGEST_POINTER = b"version https://git-lfs.github.com/spec/v1\n", 1024


def at_home(path: str) -> str:
    """Put the home directory in the place of a leading `~`, unless something is called so.

    A `~` alone stays: in a recipe it is nothing, or a text.
    """
    return path if path == "~" or os.path.lexists(path) else os.path.expanduser(path)


def sha256(path: Path) -> str:
    """Hash a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer."""
    if not path.is_file() or path.stat().st_size > _LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def fsync_path(path: Path) -> None:
    """Push a file, or a directory's names, to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step; a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        fsync_path(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step, indented, keys in the order given."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_directory(final: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Give a temporary directory to fill; seal it with a manifest and rename it to `final`.

    Nothing is left behind when the body raises. An older `final` is replaced only once the new one
    is whole.

    Args:
        final: the name that the directory gets.
        manifest: what the manifest says besides `files`; may be filled while the body runs.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        seal(temporary, manifest)
        if final.exists():
            remove_directory(final)
        os.rename(temporary, final)
        fsync_path(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def seal(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a filled directory and push everything to the disk."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            fsync_path(path)
            name = path.relative_to(directory).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    whole = {**manifest, "files": files}
    write_json(directory / MANIFEST, {**whole, _OWN_HASH: _hash_of(whole)})
    fsync_path(directory)


def _hash_of(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != _OWN_HASH}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def remove_directory(directory: Path) -> None:
    """Delete a directory: renamed first, so that a half-deleted one never bears its old name."""
    trash = directory.with_name(f".{directory.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")
    os.rename(directory, trash)
    shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Delete what killed writers left behind in `parent`."""
    for path in parent.glob(f".*{TEMPORARY_MARK}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Read a directory's manifest, or None where there is none that can be read."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return (
        manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None
    )


def damage(directory: Path) -> Sentence | None:
    """Say what is wrong with a sealed directory, or None when every byte is as it was written."""
    manifest = read_manifest(directory)
    if manifest is None:
        return Sentence.of("reasons.unreadable", file=MANIFEST)
    if manifest.get(_OWN_HASH) != _hash_of(manifest):
        return Sentence.of("reasons.own_hash", file=MANIFEST)
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            return Sentence.of("reasons.missing", file=name)
        if (size := path.stat().st_size) != (written := expected["size"]):
            return Sentence.of("reasons.size", file=name, size=size, written=written)
        if sha256(path) != expected["sha256"]:
            return Sentence.of("reasons.hash", file=name)
    return None
