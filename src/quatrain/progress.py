"""Progress: what is running, and how far it is, for a watcher.

Whatever may take seconds uses `working`; cli/telling.py watches and shows it to the user. Without
a watcher, nothing is shown.

    with working("progress.answers", total=len(questions)) as work:
        for question in questions:
            ...
            work.advance()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Work:
    """One task in progress, perhaps inside another."""

    key: str
    """Key of the catalogue; with `values`, it describes the task."""
    values: dict[str, object]
    total: int | None = None
    """The number of parts; None if unknown."""
    done: int = 0
    now: str = field(default="", kw_only=True)
    """Further text to show, such as a loss."""

    def advance(self, count: int = 1) -> None:
        """Count parts as done."""
        self.done += count

    def reach(self, done: int, now: str = "") -> None:
        """Set the number of parts done, and the further text."""
        self.done, self.now = done, now


class Watcher(Protocol):
    """Receives progress, on the thread that works."""

    def begun(self, work: Work) -> None:
        """Note that a task begins, inside those that have not ended."""

    def ended(self, work: Work) -> None:
        """Note that the innermost task has ended."""

    def line(self, text: str) -> None:
        """Show a line that remains visible."""


_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher | None:
    """Return the current watcher, if any."""
    return _WATCHER.get()


@contextmanager
def watched_by(one: Watcher) -> Iterator[None]:
    """Set the watcher while the body runs."""
    token = _WATCHER.set(one)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def working(
    key: str, /, total: int | None = None, done: int = 0, **values: object
) -> Iterator[Work]:
    """Report the body as a task.

    Args:
        key: of the catalogue; describes the task.
        total: the number of parts, if known.
        done: the parts done at the beginning; 1 where the sentence names the part at hand.
        values: fill the sentence.
    """
    work, one = Work(key, values, total, done), _WATCHER.get()
    if one is None:
        yield work
        return
    one.begun(work)
    try:
        yield work
    finally:
        one.ended(work)
