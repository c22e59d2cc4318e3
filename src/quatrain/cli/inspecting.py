"""How an inspection of data looks: on a terminal, when piped, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from quatrain.data.findings import Finding
from quatrain.data.inspect import Inspected, Inspection, Lengths, Shown
from quatrain.data.language import name_of
from quatrain.words import say, spoken, tell

TROUBLE = 3
"""The exit code for a finding that would stop training: that of DataError."""

_PIPED_WIDTH = 100
_BAR, _SIDE_BY_SIDE = 24, 100
_FEWEST_DRAWN = 20
_MOST_SHOWN = 700
_STYLES = {"stop": "bold red", "warning": "yellow", "note": "cyan"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SIZES = ("rows", "tokens", "answer_tokens", "longest", "too_long")


def as_dict(found: Inspection) -> dict[str, Any]:
    """Describe an inspection as plain values."""
    return {
        "stops": found.stops,
        "warns": found.warns,
        "task": found.task,
        "block_size": found.block_size,
        "tokenizer": found.tokenizer,
        "sides": {side: _side_as_dict(one) for side, one in found.sides.items()},
        "findings": [asdict(finding) for finding in found.findings],
        "samples": [asdict(sample) for sample in found.samples],
    }


def _side_as_dict(one: Inspected) -> dict[str, Any]:
    survey, tokens = one.survey, one.tokens
    return {
        "sources": one.sources,
        "notes": survey.notes,
        "records": len(survey) + survey.rejected,
        "conversations": survey.conversations,
        "documents": survey.documents,
        "turns": survey.turns,
        "rejected": survey.rejected,
        "reasons": dict(survey.reasons.most_common()),
        "rejections": [asdict(rejection) for rejection in survey.rejections],
        "languages": one.languages,
        "characters": asdict(one.characters) if one.characters else None,
        "tokens": None if tokens is None else {
            "sampled": tokens.sampled,
            "characters_per_token": round(tokens.per_token, 3),
            **asdict(tokens.lengths),
            "too_long": [asdict(item) for item in tokens.too_long],
        },
    }  # fmt: skip


def show(found: Inspection) -> None:
    """Print an inspection: facts, lengths, samples, and last what is wrong."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    for side, one in found.sides.items():
        console.print(Rule(Text(say(f"inspect.{side}"), "bold"), align="left", style="dim"))
        console.print(_facts(one, found))
        console.print(_lengths(one, found, console.width))
    if found.samples:
        console.print(Rule(Text(say("inspect.read"), "bold"), align="left", style="dim"))
        plain = not console.is_terminal or console.no_color
        console.print(_legend(plain))
        for sample in found.samples:
            console.print(_sample(sample, plain))
        console.print()
    console.print(Rule(Text(say("inspect.findings"), "bold"), align="left", style="dim"))
    console.print()
    for finding in found.findings:
        console.print(_finding(finding))
    console.print(_verdict(found))


def _facts(one: Inspected, found: Inspection) -> Table:
    survey, tokens = one.survey, one.tokens
    table = _grid()
    for source in one.sources:
        table.add_row(say("inspect.file"), Text(source["name"], "bold"))
        table.add_row(say("inspect.shape"), _shape(source))
    counts = {"conversations": survey.conversations, "turns": survey.turns,
              "documents": survey.documents, "rejected": survey.rejected}  # fmt: skip
    told = [say(f"inspect.count.{name}", count=count) for name, count in counts.items() if count]
    table.add_row(say("inspect.records"), ", ".join(told) or say("inspect.none"))
    if one.languages:
        total = sum(one.languages.values())
        shares = [
            f"{tell(name_of(code))} {_percent(n / total)}" for code, n in one.languages.items()
        ]
        shown = ", ".join(shares[:4])
        if more := len(shares[4:]):
            shown += " " + say("inspect.more", count=more)
        table.add_row(say("inspect.language"), say("inspect.sampled", what=shown, count=total))
    if one.characters:
        table.add_row(say("inspect.characters"), _summary(one.characters))
    if tokens:
        lengths = _summary(tokens.lengths)
        sampled = say("inspect.sampled", what=lengths, count=tokens.sampled)
        table.add_row(say("inspect.tokens"), sampled)
        table.add_row("tokenizer", _tokenizer(found, tokens.per_token))
    if survey.conversations:
        table.add_row(say("inspect.answers"), _answers(survey.answer_sizes))
    for note in survey.notes:
        table.add_row(say("inspect.note"), tell(note))
    if any(map(_may_have_a_context, one.sources)):
        table.add_row(say("inspect.note"), say("inspect.context"))
    return table


def _may_have_a_context(source: dict[str, Any]) -> bool:
    """Whether a column that is kept beside could be the text that its question is about."""
    read = set(source["columns"].values())
    return source["shape"] == "alpaca" and "" in read and "context" not in read


def _answers(sizes: Any) -> str:
    found = sorted(size for size in sizes.tolist() if size)
    half = found[len(found) // 2]
    return say("inspect.answers.what", least=found[0], most=found[-1], half=half)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _shape(source: dict[str, Any]) -> str:
    """Say the shape, and which columns it reads; a note says which it does not."""
    columns: dict[str, str] = source["columns"]
    mapped = [name if name == meaning else say("inspect.as", name=name, meaning=meaning)
              for name, meaning in columns.items() if meaning]  # fmt: skip
    if not mapped:
        return str(source["shape"])
    return say("inspect.shape.of", shape=source["shape"], columns=", ".join(mapped))


def _summary(lengths: Lengths) -> str:
    return say("inspect.summary", half=lengths.median, most=lengths.p95, longest=lengths.longest)


def _tokenizer(found: Inspection, per_token: float) -> str:
    about = found.tokenizer
    which = "given" if about["given"] else "exact" if about["exact"] else "near"
    return say(
        "inspect.tokenizer",
        ids=about["vocab_size"],
        per_token=per_token,
        which=say(f"inspect.tokenizer.{which}"),
    )


def _lengths(one: Inspected, found: Inspection, width: int) -> RenderableType:
    """Draw the lengths in characters and in tokens; of few records the summary says enough."""
    if one.characters is None or len(one.survey) < _FEWEST_DRAWN:
        return Text()
    shown = [_histogram(say("inspect.characters"), one.characters.histogram, None)]
    if one.tokens:
        shown.append(
            _histogram(say("inspect.tokens"), one.tokens.lengths.histogram, found.block_size)
        )
    if width >= _SIDE_BY_SIDE:
        return Padding(Columns(shown, padding=(0, 4)), (1, 0))
    return Padding(Group(*(Padding(table, (0, 0, 1, 0)) for table in shown)), (1, 0, 0, 0))


def _histogram(unit: str, bins: list[tuple[int, int]], limit: int | None) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", min_width=10)
    table.add_column(width=_BAR)
    table.add_column(justify="right")
    table.add_row(unit, "", say("inspect.records"))
    most = max(count for _, count in bins)
    for bound, count in bins:
        beyond = limit is not None and bound > limit
        table.add_row(
            say("inspect.to", count=bound),
            Text(_bar(count / most), "red" if beyond else "blue"),
            spoken().number(count),
        )
    if limit is not None:
        table.add_row("", Text(say("inspect.row", count=limit), "dim"), "")
    return table


def _bar(share: float) -> str:
    """Draw a bar in eighths of a character; whatever is not nothing shows."""
    eighths = max(round(share * _BAR * 8), 1 if share else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _legend(plain: bool) -> Text:
    if plain:
        return Text(say("inspect.legend.plain"))
    return Text.assemble(
        (say("inspect.legend.green"), "bold green"),
        say("inspect.legend.learnt"),
        (say("inspect.legend.control"), "magenta"),
        say("inspect.legend.placed"),
    )


def _sample(sample: Shown, plain: bool) -> RenderableType:
    what = say("inspect.sample", tokens=sample.tokens, learnt=sample.learnt)
    head = Text(f"{sample.location}  {what}", "dim")
    text, inside = Text(), False
    for part, learnt, control in sample.spans:
        if plain and learnt != inside:
            text.append("[[" if learnt else "]]")
            inside = learnt
        style = "bold green" if learnt else ""
        text.append(_shortened(part), "magenta" if control and not learnt else style)
    if inside:
        text.append("]]")
    return Padding(Group(head, text), (1, 0, 0, 2), expand=False)


def _shortened(text: str) -> str:
    """Leave out the middle of a long text, and say so."""
    if len(text) <= _MOST_SHOWN:
        return text
    half = _MOST_SHOWN // 2
    left_out = say("inspect.left_out", count=len(text) - 2 * half)
    return f"{text[:half]} {left_out} {text[-half:]}"


def _finding(finding: Finding) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    widest = max(len(say(f"inspect.{level}")) for level in _STYLES)
    table.add_column(no_wrap=True, min_width=widest)
    table.add_column(overflow="fold")
    code = f" [{finding.code}]" if finding.code else ""
    message = tell(finding.message)
    if finding.side == "eval":
        message = say("inspect.held_out", message=message)
    head = Text(f"{message}{code}")
    table.add_row(Text(say(f"inspect.{finding.level}"), _STYLES[finding.level]), head)
    for place in _listed(finding):
        table.add_row("", Text(place, "dim"))
    if finding.remedy and finding.level != "note":
        table.add_row("", Text(say("inspect.help", remedy=tell(finding.remedy))))
    return table


def _listed(finding: Finding) -> Iterable[str]:
    yield from map(tell, finding.places)
    more = finding.count - len(finding.places)
    if finding.places and more > 0:
        yield say("inspect.more", count=more)


def _verdict(found: Inspection) -> Text:
    warnings = sum(finding.level == "warning" for finding in found.findings)
    stops = sum(finding.level == "stop" for finding in found.findings)
    tail = say("inspect.warnings", count=warnings) if warnings else say("inspect.no_warnings")
    if stops:
        reasons = say("inspect.reasons", count=stops)
        return Text(say("inspect.not_ready", reasons=reasons, tail=tail), "bold red")
    return Text(say("inspect.ready", tail=tail), "bold yellow" if warnings else "bold green")


def show_prepared(directory: Path, report: dict[str, Any]) -> None:
    """Print what was prepared."""
    table = _grid()
    counted = {name: report[name] for name in ("records", "rejected", "duplicates")}
    table.add_row(say("inspect.prepared.place"), Text(str(directory), "bold"))
    table.add_row(say("inspect.records"), say("inspect.prepared.records", **counted))
    for name in ("train", "eval"):
        if (side := report[name]) is not None:
            sizes = {size: side[size] for size in _SIZES}
            used = _percent(side["positions_used"])
            table.add_row(name, say("inspect.prepared.side", **sizes, used=used))
    if report["leaks"]:
        table.add_row(say("inspect.leaks"), say("inspect.prepared.leaks", count=report["leaks"]))
    for note in report["notes"]:
        table.add_row(say("inspect.note"), spoken().retold(note, "text"))
    Console(highlight=False).print(table)


def _percent(share: float) -> str:
    return f"{spoken().written(100 * share, '.1f')} %"
