"""Show progress: a live bar on a terminal, lines of text when output is piped.

Piped, a line appears when work begins after a silence, and then whenever nothing was printed for
some seconds, so that nobody wonders whether a long run is alive.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quatrain.progress import Work, watched_by
from quatrain.words import say, speak, spoken

_SILENCE = 3.0
"""Seconds without output after which a line is printed."""
_LOOKS = 4
"""How many times in that period to check whether a line is due."""


@contextmanager
def telling() -> Iterator[None]:
    """Show the progress of the body on stderr."""
    teller = Teller()
    try:
        with watched_by(teller):
            yield
    finally:
        teller.close()


class Teller:
    """A watcher for people (progress.Watcher)."""

    def __init__(self) -> None:
        self._stack: list[tuple[Work, float]] = []
        self._said = -_SILENCE
        self._lock, self._over = threading.Lock(), threading.Event()
        self._language = spoken().language
        self._bar = _Bar() if sys.stderr.isatty() else None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begun(self, work: Work) -> None:
        """See progress.Watcher."""
        with self._lock:
            self._stack.append((work, time.monotonic()))
            self._tell_if_due()

    def ended(self, work: Work) -> None:
        """See progress.Watcher."""
        with self._lock:
            ended, _ = self._stack.pop()
            assert ended is work, work.key

    def line(self, text: str) -> None:
        """See progress.Watcher."""
        with self._lock:
            self._print(text)

    def close(self) -> None:
        """Stop watching, and leave the terminal as it was."""
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def _watch(self) -> None:
        speak(self._language)  # the language is set per thread
        while not self._over.wait(_SILENCE / _LOOKS):
            with self._lock:
                self._tell_if_due()

    def _tell_if_due(self) -> None:
        if self._bar is not None:
            self._bar.show(self._stack)
        elif self._stack and time.monotonic() - self._said >= _SILENCE:
            self._print(" · ".join(_described(work, begun) for work, begun in self._stack))

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.print(text)
        else:
            print(text, file=sys.stderr, flush=True)


def _described(work: Work, begun: float) -> str:
    """Describe a work: what it is, how far it is, and for how long it has been running."""
    text = say(work.key, **work.values)
    if work.total:
        text += " " + say("progress.of", done=work.done, total=work.total)
    seconds = time.monotonic() - begun
    if seconds >= 1:
        text += f" ({spoken().duration(seconds)})"
    return f"{text} {work.now}".rstrip()


class _Bar:
    """A live display with a bar for each work, the outermost first; removed at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress: Any = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30),
            TextColumn("{task.fields[far]}"), TimeElapsedColumn(), TextColumn("{task.fields[now]}"),
            console=Console(file=sys.stderr, highlight=False), transient=True,
        )  # fmt: skip
        self._tasks: dict[int, Any] = {}
        self._progress.start()

    def show(self, stack: list[tuple[Work, float]]) -> None:
        """Bring the bars up to date."""
        known = {id(work) for work, _ in stack}
        for gone in [key for key in self._tasks if key not in known]:
            self._progress.remove_task(self._tasks.pop(gone))
        for work, _ in stack:
            far = say("progress.of", done=work.done, total=work.total) if work.total else ""
            if id(work) not in self._tasks:
                text = say(work.key, **work.values)
                self._tasks[id(work)] = self._progress.add_task(text, far="", now="", total=None)
            self._progress.update(
                self._tasks[id(work)], total=work.total, completed=work.done, far=far, now=work.now
            )

    def print(self, text: str) -> None:
        """Show a line above the bars."""
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
