"""Progress reaches its watcher, and nothing else."""

from __future__ import annotations

import pytest

from quatrain.progress import Work, watched_by, watcher, working


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def begun(self, work: Work) -> None:
        self.heard.append(f"begun {work.key}")

    def ended(self, work: Work) -> None:
        self.heard.append(f"ended {work.key} {work.done}/{work.total}")

    def line(self, text: str) -> None:
        self.heard.append(text)


def test_works_begin_and_end_within_each_other() -> None:
    listener = Listener()
    with watched_by(listener), working("a", total=3) as outer:
        outer.advance()
        with working("b") as inner:
            inner.reach(7)
        outer.advance(2)
    assert listener.heard == ["begun a", "begun b", "ended b 7/None", "ended a 3/3"]


def test_a_work_that_fails_has_ended() -> None:
    listener = Listener()
    with watched_by(listener), pytest.raises(ValueError, match="no"), working("a"):
        raise ValueError("no")
    assert listener.heard == ["begun a", "ended a 0/None"]
    assert watcher() is None


def test_without_a_watcher_nothing_is_told() -> None:
    with working("a", total=1) as work:
        work.advance()
    assert (work.done, watcher()) == (1, None)
