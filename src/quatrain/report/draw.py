"""Charts as values: where lines, bars, ticks and labels lie. The template writes them as SVG.

A drawing is `WIDTH` wide in units that the page stretches to the room there is, and `height` high
in CSS pixels; text lies above it in HTML, placed in percent across and in pixels down, so that it
stays as large on a telephone as on a desk. Colours are CSS classes. Not for the words.

    value 0 .. 8   ->   top 200 .. 0 px (height 200)      step 0 .. 400   ->   left 0 .. 100 %
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH = 1000.0
_APART = 15.0
"""Pixels between the middles of two labels."""

Points = Sequence[tuple[float, float]]
Written = Callable[[float], str]


@dataclass(frozen=True)
class Tick:
    """A grid line and its label."""

    at: float
    """In percent from the left, or in pixels from the top."""
    text: str


@dataclass(frozen=True)
class Curve:
    """A line to draw."""

    name: str
    points: Points
    colour: str
    """A CSS class."""
    dotted: bool = False
    """Whether each point is shown: there are few."""


@dataclass(frozen=True)
class Drawn:
    """A curve as SVG has it."""

    name: str
    colour: str
    path: str
    dots: str
    label_top: float
    """Where its name stands at the right, in pixels."""


@dataclass(frozen=True)
class Mark:
    """A value that matters, as a thin line: a step when it stands upright, else a height."""

    at: float
    text: str
    colour: str = "mark"


@dataclass(frozen=True)
class Chart:
    """A drawing, ready for the template."""

    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Drawn, ...] = ()
    upright: tuple[Mark, ...] = ()
    level: tuple[Mark, ...] = ()
    bars: tuple[tuple[float, float, str], ...] = field(default=())
    """Left and width in percent, and a path."""


def line_chart(
    curves: Sequence[Curve],
    last: float,
    written: Written,
    *,
    height: float = 200,
    upright: Sequence[Mark] = (),
    level: Sequence[Mark] = (),
    top: float | None = None,
    written_x: Written,
) -> Chart:
    """Draw curves over steps.

    Args:
        curves: their values are 0 at least, and the axis begins there.
        last: the step at the right end.
        written: how a value on the upright axis is written.
        written_x: how a step is.
        height: in pixels.
        upright: steps to mark.
        level: values to mark; those above the axis are left out.
        top: the axis ends here; by default at the round number above the largest value.
    """
    largest = max((value for curve in curves for _, value in curve.points), default=0.0)
    ticks = round_ticks(top if top is not None else largest, 5)
    end = ticks[-1]
    across = _scale(last or 1, WIDTH)

    def down(value: float) -> float:
        return height * (1 - value / end)

    drawn = [
        Drawn(curve.name, curve.colour, _path(curve.points, across, down),
              _dots(curve.points, across, down) if curve.dotted else "",
              down(curve.points[-1][1]))
        for curve in curves if curve.points
    ]  # fmt: skip
    return Chart(
        height,
        tuple(Tick(100 * x / (last or 1), written_x(x)) for x in step_ticks(last, 5)),
        tuple(Tick(down(value), written(value)) for value in ticks),
        tuple(_apart(drawn, height)),
        tuple(Mark(100 * mark.at / (last or 1), mark.text, mark.colour) for mark in upright),
        tuple(Mark(down(m.at), m.text, m.colour) for m in level if m.at <= end),
    )


def bar_chart(
    counts: Sequence[int], size: float, written: Written, *, height: float = 200
) -> Chart:
    """Draw a histogram whose bars are `size` wide and begin at 0."""
    ticks = round_ticks(max(counts, default=1), 4)
    width, last = WIDTH / max(1, len(counts)), size * len(counts)

    def down(value: float) -> float:
        return height * (1 - value / ticks[-1])

    bars = tuple(
        (100 * index / len(counts), 100 / len(counts),
         f"M{_n(index * width + 0.06 * width)} {_n(height)}V{_n(down(count))}"
         f"h{_n(0.88 * width)}V{_n(height)}z")
        for index, count in enumerate(counts) if count
    )  # fmt: skip
    return Chart(
        height,
        tuple(Tick(100 * x / last, written(x)) for x in step_ticks(last, 6)),
        tuple(Tick(down(value), written(value)) for value in ticks),
        bars=bars,
    )


def round_ticks(largest: float, most: int) -> list[float]:
    """Choose round numbers from 0 to one that is not below `largest`, some `most` of them."""
    if not math.isfinite(largest) or largest <= 0:
        return [0.0, 1.0]
    step = _round_step(largest / most)
    return [step * count for count in range(math.ceil(largest / step - 1e-9) + 1)]


def step_ticks(last: float, most: int) -> list[float]:
    """Choose round steps from 0 to at most `last`."""
    if last <= 0:
        return [0.0]
    step = max(1.0, _round_step(last / most))
    return [step * count for count in range(math.floor(last / step + 1e-9) + 1)]


def decimals(ticks_end: float) -> int:
    """Say how many decimals tell the ticks of an axis that ends here apart."""
    step = _round_step(ticks_end / 5) if ticks_end > 0 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))


def exponent(largest: float) -> int:
    """Give the power of ten to take out of an axis of small numbers; 0 where none is needed."""
    return math.floor(math.log10(largest)) if 0 < largest < 0.01 else 0


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= least * (1 - 1e-9))


def _scale(largest: float, length: float) -> Callable[[float], float]:
    return lambda value: length * value / largest


def _path(points: Points, across: Written | Callable[[float], float],
          down: Callable[[float], float]) -> str:  # fmt: skip
    return "M" + "L".join(f"{_n(float(across(x)))} {_n(down(y))}" for x, y in points)


def _dots(points: Points, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    """Draw lines of no length: with round ends they are dots that no stretching makes oval."""
    return "".join(f"M{_n(across(x))} {_n(down(y))}h0" for x, y in points)


def _apart(drawn: Sequence[Drawn], height: float) -> list[Drawn]:
    """Move labels that lie on each other: from the top down, then back up from the bottom."""
    order = sorted(range(len(drawn)), key=lambda index: drawn[index].label_top)
    tops = [drawn[index].label_top for index in order]
    for place in range(1, len(tops)):
        tops[place] = max(tops[place], tops[place - 1] + _APART)
    for place in reversed(range(len(tops))):
        limit = tops[place + 1] - _APART if place + 1 < len(tops) else height
        tops[place] = min(tops[place], limit)
    placed = dict(zip(order, tops, strict=True))
    return [
        Drawn(one.name, one.colour, one.path, one.dots, placed[index])
        for index, one in enumerate(drawn)
    ]


def _n(value: float) -> str:
    """Write a coordinate shortly."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
