"""The content of the report: every sentence and number of the template, in one language."""

from __future__ import annotations

import math
import shlex
from pathlib import PurePath
from typing import Any

from quatrain.report.answers import Pair, compare, groups
from quatrain.report.curves import figures, lengths_figure, risk_figure
from quatrain.report.heat import EDGES, LayerMap, heat_maps
from quatrain.report.read import Run, Setting
from quatrain.words import Words

_EVEN, _SHOWN_SOURCES, _CUT = 2.0, 3, 600
_WORSE = 1.02
"""How far above its minimum a held-out loss must end to count as rising."""

Facts = list[tuple[str, str]]


def told(run: Run, words: Words) -> dict[str, Any]:
    """Gather what the template shows."""
    pairs = compare(run.samples, *_first_and_best(run))
    return {
        "run": run,
        "title": run.directory.resolve().name,
        "kicker": words(f"report.kicker.{run.config.train.task}"),
        "lede": lede(run, words),
        "status": _status(run, words),
        "cards": _cards(run, words),
        "ask": _command(run, pairs),
        "findings": _findings(run, words),
        "figures": figures(run, words),
        "evaluations": _evaluations(run, words),
        "kinds": _kinds(_judged(run), words),
        "threshold": _threshold(_judged(run), words),
        "risk": risk_figure(_judged(run), words),
        "steps_a_point": run.series.steps_a_point,
        "maps": (maps := heat_maps(run.series)),
        "experts": _experts(run, maps, words) if maps else [],
        "legend": _legend(words),
        "num_pairs": len(pairs),
        "answers": groups(pairs),
        "lengths": lengths_figure(run, words),
        "packing": _packing(run),
        "data": _data(run, words),
        "architecture": _architecture(run, words),
        "settings": [_setting(setting, words) for setting in run.settings],
        "environment": [(name, _plain(value)) for name, value in run.environment.items()],
    }


def lede(run: Run, words: Words) -> str:
    """Summarise in a sentence or two what was trained on which data."""
    size = run.num_parameters
    subject = words("report.model_of", count=size) if size else words("report.model")
    train = run.data.get("train") or {}
    count = int(train.get("conversations", 0)) + int(train.get("documents", 0))
    sources = [PurePath(name).name for name in run.config.data.train]
    named = ", ".join(sources[:_SHOWN_SOURCES]) + (" …" if len(sources) > _SHOWN_SOURCES else "")
    records = words("report.records", count=count)
    said = words(f"report.lede.{run.config.train.task}", subject=subject, records=records,
                 sources=named)  # fmt: skip
    init = run.config.model.init
    begun = words("report.began_with", init=init) if init else words("report.began_random")
    return f"{said} {begun}"


def _first_and_best(run: Run) -> tuple[int, int]:
    first = int(run.series.evaluations[0]["step"]) if run.series.evaluations else 0
    return first, -1 if run.best_step in (None, first) else int(run.best_step or 0)


def _status(run: Run, words: Words) -> str:
    step, total = run.series.last_step, run.config.train.max_steps or 0
    if run.finished:
        return words("report.finished", count=step)
    return words("report.going", step=step, total=total)


def _row(run: Run, step: int | None) -> dict[str, Any]:
    found = (row for row in run.series.evaluations if row["step"] == step)
    return next(found, {})


def _cards(run: Run, words: Words) -> list[tuple[str, str, str]]:
    """Give the headline's numbers: name, value, and what it was before."""
    first, best = _row(run, _first_and_best(run)[0]), _row(run, run.best_step)
    cards = []
    for name in ("f1", "exact_match"):
        if best.get(name) is not None:
            was = first.get(name)
            before = words("report.before", value=words.percent(was)) if was is not None else ""
            cards.append((words(f"report.card.{name}"), words.percent(best[name]), before))
    for name in ("eval_loss", "loss"):
        values = run.series.measured(name) if name == "eval_loss" else [
            (point.step, point.mean("loss")) for point in run.series.points
        ]  # fmt: skip
        if values:
            last = best.get("eval_loss") if name == "eval_loss" else None
            now, was = values[-1][1] if last is None else last, values[0][1]
            cards.append((words(f"report.card.{name}"), words.number(now, 2),
                          words("report.before", value=words.number(was, 2))))  # fmt: skip
    series = run.series
    if series.points:
        cards.append((words("report.card.time"), words.duration(series.training_seconds),
                      words("report.and_evaluations",
                            time=words.duration(series.evaluation_seconds))))  # fmt: skip
        speed = series.tokens / max(series.training_seconds, 1e-9)
        cards.append((words("report.card.tokens"), words.number(series.tokens),
                      words("report.speed", count=round(speed))))  # fmt: skip
    return cards


def _command(run: Run, pairs: list[Pair]) -> str:
    """Write the command that asks the model, with one of its own questions where there is one."""
    question = next((pair.question for pair in pairs if pair.outcome in ("fixed", "kept")), "")
    question = question or next((pair.question for pair in pairs), "")
    if not question.isprintable() or not 0 < len(question) <= 120:
        question = "Bonjour, qui es-tu ?"
    return shlex.join(["quatrain", "ask", str(run.directory)]) + " " + _quoted(question)


def _quoted(text: str) -> str:
    """Quote for a shell; in double quotes where nothing in them has a meaning."""
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _findings(run: Run, words: Words) -> list[str]:
    """Point out what a newcomer might miss in the curves."""
    found, held_out = list[str](), run.series.measured("eval_loss")
    if run.best_step:
        found.append(words("report.best_at", step=run.best_step, total=run.series.last_step))
    later = held_out[1:]
    if later:
        least = min(later, key=lambda pair: pair[1])
        if later[-1][1] > _WORSE * least[1]:
            found.append(words("report.rises", step=least[0], least=words.number(least[1], 2),
                               last=words.number(later[-1][1], 2)))  # fmt: skip
    if not run.series.evaluations:
        found.append(words("report.not_judged"))
    return found


def _evaluations(run: Run, words: Words) -> list[list[str]]:
    """Write the evaluations as a table: step, loss, exact match, F1."""
    return [
        [
            words.number(row["step"]),
            "" if row.get("eval_loss") is None else words.number(row["eval_loss"], 3),
            "" if row.get("exact_match") is None else words.percent(row["exact_match"]),
            "" if row.get("f1") is None else words.percent(row["f1"]),
            "best" if row["step"] == run.best_step else "",
        ]
        for row in run.series.evaluations
    ]


def _judged(run: Run) -> dict[str, Any]:
    """Take the row of the best evaluation, or of the last."""
    last = run.series.evaluations[-1] if run.series.evaluations else {}
    return _row(run, run.best_step) or last


def _kinds(row: dict[str, Any], words: Words) -> list[list[str]]:
    """Score questions with an answer and those without one apart, where some have none."""
    abstained = row.get("abstention") or {}
    return [
        [
            words(f"report.kinds.{kind}"),
            words.number(abstained[kind]["count"]),
            words.percent(abstained[kind]["exact_match"]),
            words.percent(abstained[kind]["f1"]),
        ]
        for kind in ("has_answer", "no_answer")
        if kind in abstained and abstained[kind]["count"]
    ]


def _threshold(row: dict[str, Any], words: Words) -> str:
    """Say what the threshold for abstaining brings."""
    abstained = row.get("abstention") or {}
    if "best_f1" not in abstained:
        return ""
    f1, threshold = words.percent(abstained["best_f1"]), abstained["best_threshold"]
    if threshold is None:
        return words("report.kinds.no_threshold", f1=f1)
    return words("report.kinds.threshold", f1=f1, threshold=words.number(threshold, 2))


def _experts(run: Run, maps: list[LayerMap], words: Words) -> list[str]:
    """Say what balance means, and how near the run came to it at its end."""
    model = run.config.model
    worst = max(maps, key=lambda one: one.end.busiest)
    dead = sum(len(one.end.dead) for one in maps)
    verdict = "dead" if dead else "even" if worst.end.busiest < _EVEN else "uneven"
    said = [
        words("report.experts.what", count=model.num_experts_per_tok, experts=worst.num_experts),
        words(f"report.experts.{verdict}", layer=worst.layer,
              ratio=words.number(worst.end.busiest, 1)),
    ]  # fmt: skip
    if dead:
        said.append(words("report.experts.dead_count", count=dead,
                          total=sum(one.num_experts for one in maps)))  # fmt: skip
    coefficient = run.config.train.balance_loss_coef
    if coefficient is not None:
        said.append(words("report.experts.free") if not coefficient else
                    words("report.experts.pushed", coefficient=f"{coefficient:g}"))  # fmt: skip
    return said


def _legend(words: Words) -> list[tuple[str, str]]:
    """Name the colours of the heat map, least first."""
    edges = [words.number(edge, 2).rstrip("0").rstrip(".,") for edge in EDGES[1:]]
    names = [words("report.experts.none")]
    names += [f"{low}–{high}" for low, high in zip(["0", *edges], edges, strict=False)]
    names.append(words("report.experts.above", value=edges[-1]))
    return [(f"h{place}", name) for place, name in enumerate(names)]


def _packing(run: Run) -> tuple[float, float] | None:
    """Give the percentages of the rows' positions that are used and wasted."""
    used = (run.data.get("train") or {}).get("positions_used")
    return None if used is None else (100 * used, 100 - 100 * used)


def _data(run: Run, words: Words) -> Facts:
    """List what was read, set aside and kept."""
    data, train = run.data, run.data.get("train") or {}
    judged = data.get("eval") or {}
    facts: Facts = [(words("report.data.sources"), ", ".join(run.config.data.train))]
    counts = [
        ("records", data.get("records")), ("rejected", data.get("rejected")),
        ("duplicates", data.get("duplicates")), ("leaks", data.get("leaks")),
        ("unanswered", train.get("unanswered") or None),
        ("training", train.get("conversations", 0) + train.get("documents", 0)),
        ("held_out", judged.get("conversations", 0) + judged.get("documents", 0)),
        ("too_long", train.get("too_long")), ("control_like", train.get("control_like")),
        ("rows", train.get("rows")), ("tokens", train.get("tokens")),
        ("answer_tokens", train.get("answer_tokens")), ("longest", train.get("longest") or None),
    ]  # fmt: skip
    facts += [(words(f"report.data.{name}"), words.number(count)) for name, count in counts
              if count is not None]  # fmt: skip
    return facts


def _architecture(run: Run, words: Words) -> Facts:
    model = run.config.model
    experts = model.num_local_experts if model.moe_layers else 0
    counts = [
        ("parameters", run.num_parameters), ("layers", model.n_layers), ("width", model.d_model),
        ("heads", model.n_heads), ("experts", experts),
        ("experts_per_token", model.num_experts_per_tok if experts else 0),
        ("vocabulary", model.vocab_size), ("context", model.max_position_embeddings),
    ]  # fmt: skip
    return [(words(f"report.model.{name}"), words.number(count)) for name, count in counts
            if count is not None]  # fmt: skip


def _setting(setting: Setting, words: Words) -> tuple[str, str, str, str]:
    by = words("report.recipe.asked" if setting.asked else "report.recipe.settled")
    return setting.name, _plain(setting.value), _plain(setting.default), by


def _plain(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "–"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= _CUT else text[:_CUT] + " …"
