"""Rows of metrics become few points, and experts' loads become shares and pictures."""

from __future__ import annotations

import pytest

from hand_made_run import eval_row, train_row
from quatrain.report.heat import heat_maps
from quatrain.report.series import read_series


def test_a_short_run_keeps_every_step() -> None:
    found = read_series([train_row(1), train_row(2), train_row(3)], 3)
    assert [(point.step, point.mean("loss")) for point in found.points] == [
        (1, 8.0), (2, 4.0), (3, pytest.approx(8 / 3)),
    ]  # fmt: skip
    assert found.steps_a_point == 1


def test_a_long_run_is_averaged_and_no_step_is_lost() -> None:
    found = read_series((train_row(s, loss=float(s)) for s in range(1, 1001)), 1000)
    assert found.steps_a_point == 3
    assert len(found.points) == 334
    assert found.points[0].mean("loss") == 2.0  # of 1, 2, 3
    assert sum(point.count for point in found.points) == 1000
    assert sum(point.sums["loss"] for point in found.points) == sum(range(1, 1001))


def test_memory_does_not_grow_with_the_run() -> None:
    loads = {str(layer): [1] * 128 for layer in range(24)}
    found = read_series((train_row(s, loads) for s in range(1, 301)), 300)
    assert len(found.stretches) == 12


def test_times_of_steps_that_were_not_logged_are_estimated() -> None:
    found = read_series([train_row(5), train_row(10), eval_row(10, 1.0, None, None)], 10)
    assert found.training_seconds == 20.0  # 10 steps of 2 s
    assert found.evaluation_seconds == 0.5


def test_shares_are_loads_against_an_equal_share() -> None:
    loads = [{"0": [6, 2, 0, 0]}, {"0": [0, 2, 6, 0]}]
    found = read_series((train_row(s, load) for s, load in enumerate(loads, 1)), 2)
    assert found.stretches[0].shares(0) == [3.0, 1.0, 0.0, 0.0]
    (drawn,) = heat_maps(found)
    assert drawn.start.busiest == drawn.end.busiest == 3.0
    assert drawn.start.dead == (2, 3)
    assert drawn.end.dead == (0, 3)
    assert dict(drawn.paths)["h4"] == "M0 1h2v1h-2z"  # expert 1 had its share both times
    assert dict(drawn.paths)["h0"] == "M1 0h1v1h-1zM0 2h1v1h-1zM0 3h2v1h-2z"


def test_rows_that_are_none_are_passed_over() -> None:
    strange: list[object] = [3, None, {"step": "x"}, {"step": 1, "other": 2}]
    assert read_series(strange, 4).points == []  # type: ignore[arg-type]
