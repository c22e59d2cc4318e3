"""Progress: what is being done at the moment, and how far it is, for whoever watches.

Whatever may take seconds says so with `working`; who shows it to a person (cli/telling.py) watches.
Without a watcher nothing is shown.

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
    """One thing that is being done, perhaps within another."""

    key: str
    """Of the catalogue, with `values`: what is done."""
    values: dict[str, object]
    total: int | None = None
    """How many parts there are; None where that is not known."""
    done: int = 0
    now: str = field(default="", kw_only=True)
    """What else is worth saying, such as a loss."""

    def advance(self, count: int = 1) -> None:
        """Note that parts are done."""
        self.done += count

    def reach(self, done: int, now: str = "") -> None:
        """Note how many parts are done, and what else is worth saying."""
        self.done, self.now = done, now


class Watcher(Protocol):
    """Who shows progress; called on the thread that works."""

    def begun(self, work: Work) -> None:
        """Note that a work begins, within those that are not ended."""

    def ended(self, work: Work) -> None:
        """Note that the innermost work has ended."""

    def line(self, text: str) -> None:
        """Show a line that stays."""


_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher | None:
    """Give who watches, if anybody does."""
    return _WATCHER.get()


@contextmanager
def watched_by(one: Watcher) -> Iterator[None]:
    """Let somebody watch what is done within the body."""
    token = _WATCHER.set(one)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def working(key: str, /, total: int | None = None, **values: object) -> Iterator[Work]:
    """Say that the body is at work on something.

    Args:
        key: of the catalogue: what is done.
        total: how many parts it has, where that is known.
        values: for the places of the sentence.
    """
    work, one = Work(key, values, total), _WATCHER.get()
    if one is None:
        yield work
        return
    one.begun(work)
    try:
        yield work
    finally:
        one.ended(work)
