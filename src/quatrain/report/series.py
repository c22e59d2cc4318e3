"""Read metrics.jsonl of any length into a page's worth of points, a line at a time.

    steps 1..1000, 400 points at most   ->   334 points, each the mean of 3 steps
    expert loads                        ->   sums of copies in stretches of equal length

Memory stays that of the points. Not for drawing them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_POINTS, _CELLS = 400, 12_000
_FEWEST_STRETCHES, _MOST_STRETCHES = 12, 60
_AVERAGED = ("loss", "lr", "grad_norm", "seconds")


@dataclass
class Point:
    """Some successive training rows, averaged."""

    step: int = 0
    """The last of them."""
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    """Read since the run began."""

    def add(self, row: dict[str, Any]) -> None:
        """Take one more row."""
        self.step, self.tokens = int(row["step"]), int(row.get("tokens", 0))
        self.count += 1
        for name in _AVERAGED:
            self.sums[name] = self.sums.get(name, 0.0) + float(row.get(name) or 0.0)

    def mean(self, name: str) -> float:
        """Average one of loss, lr, grad_norm and seconds."""
        return self.sums[name] / self.count


@dataclass
class Stretch:
    """Some successive steps, and how often each expert of each layer was chosen in them."""

    step: int = 0
    """The last of them."""
    loads: dict[int, list[int]] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        """Take one more row."""
        self.step = int(row["step"])
        for layer, load in row["expert_load"].items():
            held = self.loads.get(int(layer), [0] * len(load))
            self.loads[int(layer)] = [a + b for a, b in zip(held, load, strict=True)]

    def shares(self, layer: int) -> list[float]:
        """Divide each expert's copies by an equal share of them: 1 is balance."""
        load = self.loads[layer]
        total = sum(load)
        return [len(load) * copies / total if total else 0.0 for copies in load]


@dataclass
class Series:
    """What happened, step after step."""

    points: list[Point] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    steps_a_point: int = 1
    steps_a_stretch: int = 1

    @property
    def last_step(self) -> int:
        """The last step that has a row."""
        last = [self.points[-1].step] if self.points else []
        return max(last + [int(row["step"]) for row in self.evaluations[-1:]], default=0)

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return self.points[-1].tokens if self.points else 0

    @property
    def training_seconds(self) -> float:
        """What the steps took; where not every step was logged, by the mean of those that were."""
        logged = sum(point.count for point in self.points)
        taken = sum(point.sums["seconds"] for point in self.points)
        return taken * self.points[-1].step / logged if logged else 0.0

    @property
    def evaluation_seconds(self) -> float:
        """What the evaluations took."""
        return sum(float(row.get("seconds") or 0.0) for row in self.evaluations)

    def measured(self, name: str) -> list[tuple[int, float]]:
        """List (step, value) of the evaluations that have a value."""
        rows = ((int(row["step"]), row.get(name)) for row in self.evaluations)
        return [(step, float(value)) for step, value in rows if value is not None]


def read_series(rows: Iterable[dict[str, Any]], num_steps: int) -> Series:
    """Gather the rows of a run that is to take `num_steps` steps; strange rows are passed over."""
    found = Series(steps_a_point=math.ceil(max(1, num_steps) / _POINTS))
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        if "eval_loss" in row:
            found.evaluations.append(row)
        elif "loss" in row:
            _add_point(found, row)
            if row.get("expert_load"):
                _add_stretch(found, row, num_steps)
    return found


def _add_point(found: Series, row: dict[str, Any]) -> None:
    size = found.steps_a_point
    if not found.points or (row["step"] - 1) // size != (found.points[-1].step - 1) // size:
        found.points.append(Point())
    found.points[-1].add(row)


def _add_stretch(found: Series, row: dict[str, Any], num_steps: int) -> None:
    if not found.stretches:
        cells = sum(map(len, row["expert_load"].values()))
        most = min(_MOST_STRETCHES, max(_FEWEST_STRETCHES, _CELLS // cells))
        found.steps_a_stretch = math.ceil(max(1, num_steps) / most)
    size = found.steps_a_stretch
    last = found.stretches[-1].step if found.stretches else 0
    if not last or (row["step"] - 1) // size != (last - 1) // size:
        found.stretches.append(Stretch())
    found.stretches[-1].add(row)
