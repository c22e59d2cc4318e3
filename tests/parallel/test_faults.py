"""One process fails: all of them end soon, one line says why, and the exit code says so too."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from quatrain.parallel.watch import _where
from ranks import forks, reported

FAULTS = ("none", "killed", "raised", "hung", "recipe", "not finite", "disk", "missing")
"""bench/ranks.py has the others."""

pytestmark = forks
TIMEOUT = 4.0
"""Of these runs, in seconds."""


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reported("faults.py", str(tmp_path_factory.mktemp("faults")), *FAULTS)


def lines(found: dict[str, Any]) -> list[str]:
    """Give the lines that begin an error; what helps is another line."""
    said = "".join(found["said"]).splitlines()
    return [line for line in said if line.startswith("error[")]


def test_without_a_fault_nothing_is_said(faults: dict[str, Any]) -> None:
    assert faults["none"]["code"] == 0
    assert lines(faults["none"]) == []


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("killed", "was killed"),
        ("raised", "ValueError: une panne"),
        ("hung", "hangs in loop.train at step 2"),
        ("recipe", "has another recipe"),
    ],
)
def test_a_fault_is_told_in_one_line(faults: dict[str, Any], fault: str, cause: str) -> None:
    found = faults[fault]
    (line,) = lines(found)
    assert "process 1" in line
    assert cause in line
    assert found["code"] == 7
    if fault != "recipe":
        assert socket.gethostname() in line


@pytest.mark.parametrize("fault", ["killed", "raised", "hung"])
def test_all_processes_end_soon(faults: dict[str, Any], fault: str) -> None:
    assert faults[fault]["seconds"] <= TIMEOUT + 10
    assert None not in faults[fault]["ended"]


def test_numbers_that_are_not_finite_stop_all_alike(faults: dict[str, Any]) -> None:
    found = faults["not finite"]
    assert found["ended"] == [5, 5]
    (line,) = lines(found)
    assert "Q501" in line


def test_a_full_disk_is_told_by_the_first_process(faults: dict[str, Any]) -> None:
    found = faults["disk"]
    assert found["code"] == 6
    assert found["ended"] == [6, 6]
    (line,) = lines(found)
    assert "Q602" in line


def test_a_process_that_does_not_come_is_named(faults: dict[str, Any]) -> None:
    found = faults["missing"]
    assert found["code"] == 7
    (line,) = lines(found)
    assert "these did not come: 1" in line


def test_a_trace_is_kept_beside_the_run(faults: dict[str, Any]) -> None:
    (trace,) = faults["raised"]["traces"]
    assert "une panne" in trace


def test_a_function_of_a_folder_with_our_name_is_not_ours() -> None:
    program = "import sys\ndef theirs(then): return then(sys._getframe())\n"
    space: dict[str, Any] = {}
    exec(compile(program, "/home/me/quatrain/theirs.py", "exec"), space)
    assert space["theirs"](_where) == "?"
