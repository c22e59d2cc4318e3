"""Folders: list the files in a folder, each once, following links.

Skipped files are noted with their number and the first names. Not for reading files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from quatrain.words import Sentence

_SHOWN = 5


class Listing:
    """The files under a folder, and what was left out on the way."""

    def __init__(self, folder: Path) -> None:
        """Walk through a folder; its own files come before those behind links."""
        self.folder = folder
        self.files: list[Path] = []
        self._hidden: list[Path] = []
        self._again: list[Path] = []
        self._nowhere: list[Path] = []
        self._closed: list[Path] = []
        self._links: deque[Path] = deque()
        self._seen = {os.path.realpath(folder)}
        self._walk(folder)
        while self._links:
            self._follow(self._links.popleft())
        self.files.sort()

    def _walk(self, folder: Path) -> None:
        waiting = deque([folder])
        while waiting:
            folder = waiting.popleft()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self._closed.append(folder)
                continue
            for entry in entries:
                path = folder / entry.name
                if entry.name.startswith((".", "~$")):
                    self._hidden.append(path)
                elif entry.is_symlink():
                    self._links.append(path)
                elif self._is_new(path):
                    if entry.is_dir():
                        waiting.append(path)
                    else:
                        self.files.append(path)

    def _follow(self, link: Path) -> None:
        if not os.path.exists(link):
            self._nowhere.append(link)
        elif not self._is_new(link):
            self._again.append(link)
        elif link.is_dir():
            self._walk(link)
        else:
            self.files.append(link)

    def _is_new(self, path: Path) -> bool:
        real = os.path.realpath(path)
        if real in self._seen:
            return False
        self._seen.add(real)
        return True

    def notes(self) -> list[Sentence]:
        """Say what was left out."""
        left_out = {
            "hidden_files": self._hidden,
            "links_again": self._again,
            "links_nowhere": self._nowhere,
            "closed_folders": self._closed,
        }
        return [noted(key, self.folder, paths) for key, paths in left_out.items() if paths]


def noted(key: str, folder: Path, paths: Sequence[Path]) -> Sentence:
    """Note files of a folder: how many, and the first names."""
    names = [path.relative_to(folder).as_posix() for path in sorted(paths)[:_SHOWN]]
    shown = ", ".join(names) + (" ..." if len(paths) > _SHOWN else "")
    return Sentence.of(f"notes.{key}", folder=folder.name, number=len(paths), shown=shown)
