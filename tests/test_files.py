"""Files: complete or absent, and every flipped bit is found."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from quatrain.files import (
    damage,
    new_directory,
    read_manifest,
    remove_directory,
    remove_leftovers,
    sha256,
    write_json,
    write_text,
)


def sealed(directory: Path) -> Path:
    with new_directory(directory, {"schema": 1, "step": 120, "note": "été"}) as temporary:
        (temporary / "weights.bin").write_bytes(bytes(range(256)) * 8)
        (temporary / "empty").write_bytes(b"")
        (temporary / "deeper").mkdir()
        (temporary / "deeper" / "text.json").write_text('{"a": 1}')
    return directory


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_sealed_directory_is_whole_and_names_its_files(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "d")
    assert damage(directory) is None
    manifest = read_manifest(directory)
    assert manifest is not None
    assert set(manifest["files"]) == {"weights.bin", "empty", "deeper/text.json"}
    assert (manifest["step"], manifest["files"]["weights.bin"]["size"]) == (120, 2048)
    assert names(tmp_path) == {"d"}


def test_the_manifest_may_be_filled_while_the_body_runs(tmp_path: Path) -> None:
    about: dict[str, int] = {}
    with new_directory(tmp_path / "d", about):
        about["rows"] = 3
    assert (read_manifest(tmp_path / "d") or {})["rows"] == 3
    assert damage(tmp_path / "d") is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_behind_when_the_body_raises(
    error: type[BaseException], tmp_path: Path
) -> None:
    def fail() -> None:
        with new_directory(tmp_path / "d", {}) as temporary:
            (temporary / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == set()


def test_the_older_directory_stays_when_the_newer_one_fails(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "d")
    with pytest.raises(TypeError), new_directory(directory, {"not json": object()}):
        pass
    assert damage(directory) is None
    assert names(tmp_path) == {"d"}


def test_the_newer_directory_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    directory = sealed(tmp_path / "d")
    with new_directory(directory, {}) as temporary:
        (temporary / "other").write_text("x")
    assert names(directory) == {"other", "manifest.json"}
    assert names(tmp_path) == {"d"}


@pytest.mark.parametrize("seed", range(100))
def test_every_flipped_bit_is_found(seed: int, tmp_path: Path) -> None:
    directory, source = sealed(tmp_path / "d"), random.Random(seed)
    files = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.stat().st_size]
    path = source.choice(files)
    content = bytearray(path.read_bytes())
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(bytes(content))
    assert damage(directory) is not None


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: (d / "empty").unlink(), "empty is missing"),
        (lambda d: (d / "deeper" / "text.json").unlink(), "deeper/text.json is missing"),
        (
            lambda d: os.truncate(d / "weights.bin", 2047),
            "weights.bin has 2047 bytes, but 2048 were",
        ),
        (lambda d: (d / "empty").write_text("x"), "empty has 1 byte, but 0 were written"),
        (lambda d: (d / "weights.bin").write_bytes(b"\0" * 2048), "weights.bin: its SHA-256"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda d: os.truncate(d / "manifest.json", 50), "manifest.json is missing or unreadable"),
        (lambda d: (d / "manifest.json").write_text("[" * 100_000), "missing or unreadable"),
        (lambda d: (d / "manifest.json").write_text('{"files": {}}'), "manifest.json: its SHA"),
    ],
)
def test_damage_is_named(harm: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    directory = sealed(tmp_path / "d")
    harm(directory)
    assert message in (damage(directory) or "")


def test_two_files_that_changed_places_are_found(tmp_path: Path) -> None:
    with new_directory(tmp_path / "d", {}) as temporary:
        (temporary / "a").write_text("one")
        (temporary / "b").write_text("two")
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / "d" / old).rename(tmp_path / "d" / new)
    assert damage(tmp_path / "d") == "a: its SHA-256 is not the one in the manifest"


def test_a_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_text(path, "avant")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "après \ud800")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == "avant"
    assert names(tmp_path) == {"f"}


def test_a_killed_writer_leaves_the_old_text(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "f"
    write_text(path, "avant")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "après")
    assert path.read_text() == "avant"
    assert names(tmp_path) == {"f"}


def test_json_keeps_accents_and_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "f", {"z": "été", "a": 1})
    text = (tmp_path / "f").read_text(encoding="utf-8")
    assert "été" in text
    assert list(json.loads(text)) == ["z", "a"]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = sealed(tmp_path / "step-1")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / ".step-2.tmp-0a").mkdir()
    (tmp_path / ".step-2.tmp-0a" / "half").write_text("x")
    (tmp_path / ".f.tmp-0b").write_text("x")
    (tmp_path / ".best.tmp-7").symlink_to("step-1", target_is_directory=True)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {"step-1", ".hidden"}
    assert damage(kept) is None


def test_a_removed_directory_is_gone(tmp_path: Path) -> None:
    remove_directory(sealed(tmp_path / "d"))
    assert names(tmp_path) == set()
