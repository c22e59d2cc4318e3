"""Where lines, ticks and labels lie."""

from __future__ import annotations

from quatrain.report.draw import (
    Curve,
    Mark,
    bar_chart,
    decimals,
    exponent,
    line_chart,
    round_ticks,
    step_ticks,
)


def chart(*curves: Curve, last: float = 10, **options: object) -> object:
    return line_chart(curves, last, str, written_x=str, **options)  # type: ignore[arg-type]


def test_a_curve_runs_from_corner_to_corner() -> None:
    drawn = chart(Curve("a", [(0, 10.0), (10, 0.0)], "c1"))
    (curve,) = drawn.curves  # type: ignore[attr-defined]
    assert curve.path == "M0 0L1000 200"
    assert curve.label_top == 200


def test_labels_of_curves_that_end_together_stand_apart() -> None:
    drawn = chart(*(Curve(n, [(0, 5.0), (10, end)], "c1") for n, end in [("a", 0.0), ("b", 0.1)]))
    tops = sorted(curve.label_top for curve in drawn.curves)  # type: ignore[attr-defined]
    assert tops[1] - tops[0] >= 15
    assert tops[1] <= 200


def test_axes_end_at_round_numbers_that_hold_every_value() -> None:
    assert round_ticks(8.0, 5) == [0, 2, 4, 6, 8]
    assert round_ticks(8.1, 5) == [0, 2, 4, 6, 8, 10]
    assert round_ticks(0.0, 5) == [0, 1]
    assert round_ticks(float("nan"), 5) == [0, 1]
    assert step_ticks(440, 5) == [0, 100, 200, 300, 400]
    assert step_ticks(3, 5) == [0, 1, 2, 3]
    assert [decimals(end) for end in (10, 5, 1.5, 0.5)] == [0, 0, 1, 1]
    assert [exponent(value) for value in (3.0, 0.01, 0.002, 0.0)] == [0, 0, -3, 0]


def test_a_level_above_the_axis_is_left_out() -> None:
    low = chart(Curve("a", [(1, 0.5)], "c1"), level=[Mark(1.0, "limit")])
    high = chart(Curve("a", [(1, 2.0)], "c1"), level=[Mark(1.0, "limit")])
    assert low.level == ()  # type: ignore[attr-defined]
    assert [mark.at for mark in high.level] == [100.0]  # type: ignore[attr-defined]


def test_bars_stand_on_the_axis_and_are_as_high_as_their_count() -> None:
    drawn = bar_chart([1, 0, 2], 8, str)
    assert len(drawn.bars) == 2
    assert drawn.bars[0][2] == "M20 200V100h293.3V200z"
    assert [tick.text for tick in drawn.x_ticks] == ["0.0", "5.0", "10.0", "15.0", "20.0"]
