"""Folders: every file is read once, wherever links lead, and skipped files are reported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data import fingerprint
from quatrain.data.inspect import inspect
from quatrain.data.read import read_rows
from quatrain.errors import DataError
from quatrain.recipe import load_config


def write(path: Path, text: str = '{"n": 1}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def places(path: Path, notes: list[str]) -> list[str]:
    return [row.location for row in read_rows(str(path), DataConfig(), notes)]


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "b.jsonl")
    write(tmp_path / "single.jsonl")
    write(tmp_path / "data" / "a.jsonl")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c.jsonl").symlink_to("../single.jsonl")
    notes: list[str] = []
    assert places(tmp_path / "data", notes) == ["a.jsonl:1", "c.jsonl:1", "b.jsonl:1"]
    assert notes == []


def test_what_is_reached_twice_is_read_once_and_said(tmp_path: Path) -> None:
    write(tmp_path / "data" / "deep" / "b.jsonl")
    for name, there in (("above", ".."), ("again", "deep"), ("d.jsonl", "deep/b.jsonl")):
        (tmp_path / "data" / name).symlink_to(there)
    write(tmp_path / "other.jsonl")
    notes: list[str] = []
    assert sorted(places(tmp_path / "data", notes)) == ["b.jsonl:1", "other.jsonl:1"]
    assert notes == ["data: links to files that are read anyway, skipped: 2 (again, d.jsonl)"]


def test_a_cycle_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "ring").symlink_to("ring")
    notes: list[str] = []
    assert places(tmp_path, notes) == ["a.jsonl:1"]
    name = tmp_path.name
    assert notes == [
        f"{name}: links to files that are read anyway, skipped: 1 (self)",
        f"{name}: broken links: 1 (ring)",
    ]


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.jsonl")
    for name in (".b.jsonl", ".git/config", "~$q.xlsx", "c.pdf", "README.md", "LICENSE", "e.jsonl"):
        write(tmp_path / "d" / name, "" if name == "e.jsonl" else "x")
    (tmp_path / "d" / "lost").symlink_to("nowhere")
    notes: list[str] = []
    assert places(tmp_path / "d", notes) == ["a.jsonl:1"]
    assert notes == [
        "d: hidden files or folders, skipped: 3 (.b.jsonl, .git, ~$q.xlsx)",
        "d: broken links: 1 (lost)",
        "d: files of other formats, skipped: 3 (LICENSE, README.md, c.pdf)",
        "d: empty files: 1 (e.jsonl)",
    ]


def test_a_folder_that_cannot_be_opened_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "closed" / "b.jsonl")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    notes: list[str] = []
    assert places(tmp_path, notes) == ["a.jsonl:1"]
    assert notes == [f"{tmp_path.name}: folders that cannot be opened: 1 (closed)"]


def test_markdown_is_text(tmp_path: Path) -> None:
    for name in ("a.md", "b.markdown", "readme.md"):
        write(tmp_path / name, f"# {name}\n")
    rows = list(read_rows(str(tmp_path), DataConfig()))
    assert [row.value for row in rows] == ["# a.md\n", "# b.markdown\n", "# readme.md\n"]


def test_a_link_that_leads_nowhere_and_an_empty_folder_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(DataError, match=r"a broken link: gone\.jsonl does not exist"):
        places(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match=r"holds no data file(?s:.*)broken links: 1 \(a\.jsonl\)"):
        places(tmp_path, [])


EMPTY = [b"", b"\n \n", b"\xef\xbb\xbf", b"\xff\xfe"]


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.txt", "a.xlsx", "a.parquet"])
@pytest.mark.parametrize("data", EMPTY)
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"no records in .*{name}: the file is empty"):
        places(tmp_path / name, [])


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer") as caught:
            places(path, [])
        assert "git lfs pull" in caught.value.remedy


def test_a_file_that_may_not_be_read_is_an_error_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl")
    opened = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "a.jsonl":
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    config = load_config(None, [f"data.train={path}"])
    for look in (
        lambda: places(path, []),
        lambda: inspect(config),
        lambda: fingerprint._source(str(path), "train"),
    ):
        with pytest.raises(DataError, match=r"a\.jsonl cannot be opened: Permission denied"):
            look()


def test_a_pipe_is_no_file_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot be opened: it is not a regular file"):
        places(tmp_path / "a.jsonl", [])
