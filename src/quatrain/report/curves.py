"""The charts of a run, with their words: loss, scores, rate, gradient norm, lengths of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quatrain.report.draw import (
    Chart,
    Curve,
    Mark,
    bar_chart,
    decimals,
    exponent,
    line_chart,
    round_ticks,
)
from quatrain.report.read import Run
from quatrain.words import Words

_ALL = 100.0
"""Percent."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Figure:
    """A chart and what is said of it."""

    title: str
    unit: str
    described: str
    """What a person who does not see it is told."""
    across: str
    """What the axis below counts."""
    chart: Chart


def figures(run: Run, words: Words) -> dict[str, Figure]:
    """Draw what the run has measured; what it has not is left out."""
    series = run.series
    found: dict[str, Figure] = {}
    trained = [(p.step, p.mean("loss")) for p in series.points]
    held_out = series.measured("eval_loss")
    if trained or held_out:
        found["loss"] = _figure(run, words, "loss", [
            Curve(words("report.training"), trained, "c1"),
            Curve(words("report.held_out"), held_out, "c2", dotted=True),
        ], height=260)  # fmt: skip
    scores = {name: series.measured(name) for name in ("f1", "exact_match")}
    if any(scores.values()):
        found["scores"] = _figure(run, words, "scores", [
            Curve("F1", scores["f1"], "c2", dotted=True),
            Curve(words("report.exact_match"), scores["exact_match"], "c1", dotted=True),
        ], height=260, best=True)  # fmt: skip
    if series.points:
        rate = [(p.step, p.mean("lr")) for p in series.points]
        norm = [(p.step, p.mean("grad_norm")) for p in series.points]
        found["rate"] = _figure(run, words, "rate", [Curve("", rate, "c1")], height=160)
        limit = run.config.train.max_grad_norm
        clipped = Mark(limit, words("report.clipped", limit=words.number(limit, 1)))
        found["norm"] = _figure(
            run, words, "norm", [Curve("", norm, "c1")], height=160, level=[clipped]
        )
    return found


def risk_figure(row: dict[str, Any], words: Words) -> Figure | None:
    """Draw what an evaluation says of risk against coverage, where questions of both kinds are."""
    pairs = (row.get("abstention") or {}).get("risk_coverage") or []
    points = [(_ALL * coverage, _ALL * risk) for coverage, risk in pairs]
    if len(points) < 2:
        return None
    said = {"first": words.percent(points[0][1]), "last": words.percent(points[-1][1]),
            "all": words.percent(points[-1][0])}  # fmt: skip
    return Figure(
        words("report.risk.title"),
        words("report.risk.unit"),
        words("report.risk.described", **said),
        words("report.risk.across"),
        line_chart([Curve("", points, "c2", dotted=True)], _ALL, words.number, height=200,
                   top=_ALL, written_x=words.number),
    )  # fmt: skip


def lengths_figure(run: Run, words: Words) -> Figure | None:
    """Draw how many records have which length, where the data report says so."""
    lengths = (run.data.get("train") or {}).get("lengths")
    if not isinstance(lengths, dict) or not sum(lengths.get("counts") or []):
        return None
    counts, size = lengths["counts"], lengths["bin"]
    most = max(range(len(counts)), key=counts.__getitem__)
    said = {"first": most * size + 1, "last": (most + 1) * size, "longest": len(counts) * size}
    return Figure(
        words("report.lengths.title"),
        words("report.lengths.unit"),
        words("report.lengths.described", count=sum(counts), **said),
        words("report.lengths.across"),
        bar_chart(counts, size, words.number, height=200),
    )


def _figure(
    run: Run, words: Words, name: str, curves: Sequence[Curve], *, height: float,
    level: Sequence[Mark] = (), best: bool = False,
) -> Figure:  # fmt: skip
    """Draw curves over the steps of the run, small numbers in a power of ten."""
    values = [value for curve in curves for _, value in curve.points]
    power = exponent(max(values, default=0.0))
    largest = max(values, default=0.0) / 10.0**power
    if best and not largest:
        largest = _ALL  # percentages that are all 0 are told on the axis that the others have
    unit = words(f"report.{name}.unit")
    if power:
        unit = f"{unit} × 10{str(power).translate(_SUPERSCRIPT)}".strip()
    scaled = [
        Curve(c.name, [(x, y / 10.0**power) for x, y in c.points], c.colour, c.dotted)
        for c in curves
    ]
    digits = decimals(round_ticks(largest, 5)[-1])
    last = run.series.last_step if run.finished else run.config.train.max_steps
    marks = [Mark(run.best_step, words("report.best_mark"))] if run.best_step else []
    return Figure(
        words(f"report.{name}.title"),
        unit,
        _described(words, name, curves),
        words("report.step"),
        line_chart(
            scaled,
            last or run.series.last_step,
            lambda value: words.number(value, digits),
            height=height,
            upright=marks if best or name == "loss" else (),
            level=level,
            top=largest,
            written_x=words.number,
        ),
    )


def _described(words: Words, name: str, curves: Sequence[Curve]) -> str:
    """Say in a sentence a curve where each begins and ends."""
    parts = [
        words(
            "report.from_to",
            name=curve.name or words(f"report.{name}.title"),
            first=_significant(words, curve.points[0][1]),
            last=_significant(words, curve.points[-1][1]),
            steps=int(curve.points[-1][0]),
        )
        for curve in curves
        if curve.points
    ]
    return f"{words(f'report.{name}.title')}. {' '.join(parts)}"


def _significant(words: Words, value: float) -> str:
    """Write three digits that count."""
    power = exponent(abs(value))
    return words.number(value, 2 - power if power else 3 if abs(value) < 1 else 2)
