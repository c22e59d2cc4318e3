"""The runner: one thread computes all answers; whoever asked takes them from elsewhere.

    ask      a task waits, in order of arrival, until one of the places is free
    round    each task goes on as far as it can, then each engine makes one step
    deliver  what a task says is handed over, on this thread, to a function that must not block

A task is an iterator: None means that its engine has to make a step first. So a task computes
nothing but its own text and what fits between two steps, and a slow reader is not waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Any, Protocol

from quatrain.serve.journal import failed

logger = logging.getLogger(__name__)

_MOST_WAIT = 60
"""Seconds after which to ask again, at most."""
_MOST_FAILURES = 3
_REMEMBERED = 0.2
"""How much the latest task counts in the mean of their times."""


class Steps(Protocol):
    """What the runner needs of an engine."""

    @property
    def is_idle(self) -> bool:
        """Whether a step would do nothing."""

    def step(self) -> Any:
        """Make one step."""


class ClosingError(Exception):
    """No task is taken any more, or a task was ended because the server ends."""


class FullError(Exception):
    """As many tasks as possible are waiting already."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        """After which to ask again."""


class Task:
    """Something to compute for somebody."""

    def __init__(
        self,
        work: Iterator[Any],
        deliver: Callable[[Any], None],
        over: Callable[[Exception | None], None],
        engine: Steps | None = None,
    ) -> None:
        """Describe a task.

        Args:
            work: yields what to deliver, or None where the engine has to make a step.
            deliver: takes what it yields; on the runner's thread, as all that follows.
            over: is called once, when nothing more comes, with the error that ended it, if any.
            engine: the one that it waits for.
        """
        self.work, self.deliver, self.over, self.engine = work, deliver, over, engine
        self.is_cancelled = False
        self.began: float | None = None


class Runner:
    """Computes tasks side by side."""

    def __init__(self, engines: Sequence[Steps], most_active: int, most_waiting: int) -> None:
        """Make a runner, which begins with `start`.

        Args:
            engines: all that tasks may use.
            most_active: tasks computed at the same time.
            most_waiting: tasks that may wait beyond them.
        """
        self._engines, self._most_active = dict.fromkeys(engines, 0), most_active
        """Each with the number of steps that failed, one after the other."""
        self.most = most_active + most_waiting
        self._changed = threading.Condition()
        self._waiting, self._active = deque[Task](), list[Task]()
        self._is_open, self._is_over = True, False
        self._mean_seconds = 1.0
        self._thread = threading.Thread(target=self._run, name="quatrain-runner", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    @property
    def running(self) -> int:
        """Tasks that are being computed."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a place."""
        return len(self._waiting)

    @property
    def is_open(self) -> bool:
        """Whether tasks are taken."""
        return self._is_open and self._thread.is_alive()

    def ask(self, tasks: Sequence[Task]) -> None:
        """Have tasks computed, all or none.

        Raises:
            FullError: there are too many already.
            ClosingError: no tasks are taken any more.
        """
        with self._changed:
            if not self.is_open:
                raise ClosingError
            held = len(self._active) + len(self._waiting)
            if held + len(tasks) > self.most:
                raise FullError(self._seconds_until_free())
            self._waiting.extend(tasks)
            self._changed.notify_all()

    def cancel(self, tasks: Sequence[Task]) -> None:
        """End tasks that nobody waits for; their places are free before the next step."""
        with self._changed:
            for task in tasks:
                task.is_cancelled = True
                if task in self._waiting:
                    self._waiting.remove(task)
            self._changed.notify_all()

    def drain(self) -> None:
        """Take no more tasks, and end those that wait; the others go on."""
        with self._changed:
            self._is_open = False
            dropped = list(self._waiting)
            self._waiting.clear()
        for task in dropped:
            task.over(ClosingError())

    def stop(self) -> None:
        """End all tasks and the thread."""
        self.drain()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _seconds_until_free(self) -> int:
        ahead = self._mean_seconds * (1 + len(self._waiting)) / self._most_active
        return min(_MOST_WAIT, max(1, ceil(ahead)))

    def _run(self) -> None:
        while self._admit():
            for task in list(self._active):
                self._advance(task)
            for engine in list(self._engines):
                self._step(engine)
        for task in list(self._active):
            self._end(task, ClosingError())

    def _admit(self) -> bool:
        """Wait for work and give waiting tasks their places; False when all is over."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            while self._waiting and len(self._active) < self._most_active:
                task = self._waiting.popleft()
                task.began = time.monotonic()
                self._active.append(task)
            return not self._is_over

    def _has_work(self) -> bool:
        busy = any(not engine.is_idle for engine in self._engines)
        return self._is_over or busy or bool(self._active or self._waiting)

    def _advance(self, task: Task) -> None:
        """Deliver what a task can say before its engine makes a step."""
        error: Exception | None = None
        try:
            if not task.is_cancelled:
                for said in task.work:
                    if said is None:
                        return
                    task.deliver(said)
        except Exception as found:
            error = found
        self._end(task, error)

    def _step(self, engine: Steps) -> None:
        """Let an engine make a step; one that fails ends its tasks, and no others.

        One that fails again and again is given up, and then nothing more is taken.
        """
        if engine.is_idle:
            return
        try:
            engine.step()
            self._engines[engine] = 0
        except Exception as error:
            logger.error(failed("engine", error))
            for task in [one for one in self._active if one.engine is engine]:
                self._end(task, error)
            self._engines[engine] += 1
            if self._engines[engine] >= _MOST_FAILURES:
                del self._engines[engine]
                self.drain()

    def _end(self, task: Task, error: Exception | None) -> None:
        close = getattr(task.work, "close", None)
        if close is not None:
            close()
        with self._changed:
            self._active.remove(task)
        if task.began is not None and not task.is_cancelled:
            seconds = time.monotonic() - task.began
            self._mean_seconds += _REMEMBERED * (seconds - self._mean_seconds)
        task.over(error)
