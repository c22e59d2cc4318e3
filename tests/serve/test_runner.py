"""The runner: tasks in order, side by side, and each ended once whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from quatrain.serve.runner import ClosingError, FullError, Runner, Task


class Clock:
    """An engine whose steps are counted; some may fail."""

    def __init__(self, failing: int = 0) -> None:
        self.steps, self.failing, self.users = 0, failing, 0

    @property
    def is_idle(self) -> bool:
        return self.users == 0

    def step(self) -> None:
        if self.failing:
            self.failing -= 1
            raise ValueError("a secret")
        self.steps += 1
        time.sleep(0.001)

    def saying(self, *said: Any, steps: int = 1) -> Iterator[Any]:
        """Say something after each of some steps."""
        self.users += 1
        try:
            for one in said:
                for _ in range(steps):
                    yield None
                if isinstance(one, Exception):
                    raise one
                yield one
        finally:
            self.users -= 1


class Asker:
    """What one task delivered."""

    def __init__(self, work: Iterator[Any], engine: Clock) -> None:
        self.said, self.ends = list[Any](), list[Exception | None]()
        self.ended = threading.Event()
        self.task = Task(work, self.said.append, self._over, engine)

    def _over(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runner(clock: Clock) -> Iterator[Runner]:
    one = Runner([clock], most_active=2, most_waiting=3)
    one.start()
    yield one
    one.stop()


def test_tasks_share_the_steps_of_an_engine(runner: Runner, clock: Clock) -> None:
    askers = [Asker(clock.saying(*"abc", steps=2), clock) for _ in range(2)]
    runner.ask([asker.task for asker in askers])
    assert all(asker.ended.wait(5) for asker in askers)
    assert [asker.said for asker in askers] == [list("abc")] * 2
    assert [asker.ends for asker in askers] == [[None]] * 2
    assert clock.steps == 6  # each of them counts for both


def test_the_rest_waits_and_too_many_are_refused_all_at_once(runner: Runner, clock: Clock) -> None:
    askers = [Asker(clock.saying("a", steps=50), clock) for _ in range(5)]
    for asker in askers[:4]:
        runner.ask([asker.task])
    with pytest.raises(FullError) as full:
        runner.ask([asker.task for asker in (askers[4], Asker(clock.saying(), clock))])
    assert full.value.seconds >= 1
    runner.ask([askers[4].task])
    assert runner.running + runner.waiting == 5
    assert runner.running <= 2
    assert all(asker.ended.wait(5) for asker in askers)
    assert [asker.said for asker in askers] == [["a"]] * 5


def test_a_cancelled_task_frees_its_place_whether_it_runs_or_waits(
    runner: Runner, clock: Clock
) -> None:
    askers = [Asker(clock.saying(*range(10_000)), clock) for _ in range(4)]
    runner.ask([asker.task for asker in askers])
    time.sleep(0.02)
    runner.cancel([askers[0].task, askers[3].task])
    assert askers[0].ended.wait(1)
    assert not askers[3].ended.is_set()  # it never began: there is nothing to say
    time.sleep(0.02)
    assert (runner.running, runner.waiting) == (2, 0)
    runner.cancel([asker.task for asker in askers])
    assert all(asker.ended.wait(1) for asker in askers[:3])
    assert clock.is_idle


def test_an_error_ends_its_task_alone(runner: Runner, clock: Clock) -> None:
    wrong, right = (
        Asker(clock.saying("a", one, "c"), clock) for one in (KeyError("a secret"), "b")
    )
    runner.ask([wrong.task, right.task])
    assert wrong.ended.wait(5)
    assert right.ended.wait(5)
    assert wrong.said == ["a"]
    assert isinstance(wrong.ends[0], KeyError)
    assert right.said == list("abc")
    assert right.ends == [None]


def test_a_step_that_fails_ends_the_tasks_of_its_engine_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, whole = Clock(failing=1), Clock()
    runner = Runner([broken, whole], most_active=3, most_waiting=0)
    runner.start()
    wrong, right = Asker(broken.saying("a"), broken), Asker(whole.saying("a", "b"), whole)
    runner.ask([wrong.task, right.task])
    assert wrong.ended.wait(5)
    assert right.ended.wait(5)
    assert isinstance(wrong.ends[0], ValueError)
    assert right.said == ["a", "b"]
    again = Asker(broken.saying("a"), broken)
    runner.ask([again.task])
    assert again.ended.wait(5)
    assert again.said == ["a"]
    runner.stop()
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_an_engine_that_always_fails_closes_the_server() -> None:
    broken = Clock(failing=10**9)
    runner = Runner([broken], most_active=1, most_waiting=8)
    runner.start()
    askers = [Asker(broken.saying("a"), broken) for _ in range(3)]
    runner.ask([asker.task for asker in askers])
    assert all(asker.ended.wait(5) for asker in askers)
    time.sleep(0.05)
    assert not runner.is_open
    runner.stop()


def test_draining_ends_what_waits_and_lets_the_rest_finish(runner: Runner, clock: Clock) -> None:
    askers = [Asker(clock.saying("a", steps=30), clock) for _ in range(3)]
    runner.ask([asker.task for asker in askers])
    time.sleep(0.01)
    runner.drain()
    assert isinstance(askers[2].ends[0], ClosingError)
    with pytest.raises(ClosingError):
        runner.ask([Asker(clock.saying(), clock).task])
    assert all(asker.ended.wait(5) for asker in askers[:2])
    assert [asker.said for asker in askers] == [["a"], ["a"], []]


def test_stopping_ends_everything(runner: Runner, clock: Clock) -> None:
    asker = Asker(clock.saying(*range(10_000)), clock)
    runner.ask([asker.task])
    time.sleep(0.01)
    runner.stop()
    assert [type(error) for error in asker.ends] == [ClosingError]
    assert clock.is_idle
    assert not runner.is_open
