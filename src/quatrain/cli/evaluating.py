"""`quatrain eval`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from quatrain.cli.telling import telling
from quatrain.cli.usage import of_answering
from quatrain.errors import DataError
from quatrain.progress import working
from quatrain.recipe import load_config
from quatrain.words import Sentence, say, spoken

if TYPE_CHECKING:
    from quatrain.evaluate.run import Examined

_SCORES = ("exact_match", "f1")


def run_evaluation(
    model: str,
    file: str,
    by: str | None,
    limit: int | None,
    overrides: list[str],
    as_json: bool,
    never_abstain: bool = False,
) -> None:
    """Answer every question of a file and print the scores."""
    limits = [f"data.limit={limit}"] * (limit is not None)
    settings = of_answering("eval", overrides, others=("data",))
    config = load_config(None, [*limits, *settings], data={"train": file})
    with telling():
        exam = _examined(model, file, by, config, never_abstain)
    if as_json:
        print(json.dumps(exam.scores, ensure_ascii=False))
    else:
        _show(exam)


def _examined(
    model: str, file: str, by: str | None, config: Any, never_abstain: bool
) -> Examined:
    from quatrain.data.records import load_records
    from quatrain.model.locate import locate
    from quatrain.text.abstention import Abstention

    data, directory = config.data, locate(model)
    if "no_answer" not in data.model_fields_set:
        own = Abstention.load(directory)
        data = data if own is None else data.replace(no_answer=own.no_answer)
    records = load_records(data.train, data)
    conversations = records.conversations
    if not conversations:
        raise DataError("Q303.no_questions", file=file)
    if by and not any(by in one.fields for one in conversations):
        known = sorted({name for one in conversations for name in one.fields})
        names = ", ".join(known) or Sentence.of("errors.none")
        raise DataError("Q304.column", column=by, known=names)
    from quatrain.evaluate.run import examined
    from quatrain.generate.answer import Answerer

    with working("progress.loading"):
        answerer = Answerer(directory)
    if never_abstain and answerer.abstention is not None:
        answerer.abstention = answerer.abstention.never()
    return examined(answerer, conversations, config.generate, by)


def _show(exam: Examined) -> None:
    """Print the scores; those of all questions with their intervals."""
    from rich.console import Console
    from rich.table import Table

    found, written = exam.scores, spoken().written
    table = Table("", say("cli.eval.questions"), say("cli.eval.exact"), say("cli.eval.f1"))
    abstained = found.get("abstention") or {}
    kinds = [(say(f"cli.eval.{kind}"), abstained[kind]) for kind in ("has_answer", "no_answer")
             if abstained and abstained[kind]["count"]]  # fmt: skip
    for name, row in [*found["by"].items(), *kinds]:
        table.add_row(name, str(row["count"]), *[written(row[score], ".1f") for score in _SCORES])
    scores = [_with_interval(found[score], found["ci95"][score]) for score in _SCORES]
    table.add_row(say("cli.all"), str(found["count"]), *scores)
    Console(file=sys.stdout).print(table)
    _tell_of_intervals(exam)
    print(say("cli.eval.loss", loss=found["loss"]))
    if abstained:
        print(say("cli.eval.abstained", count=abstained["abstained"], total=found["count"]))
    if "always_answering" in abstained:
        _compare(found, abstained)


def _with_interval(score: float, ends: list[float] | None) -> str:
    """Write 50.8 (42 to 60)."""
    if ends is None:
        return spoken().written(score, ".1f")
    return say("cli.eval.interval", score=score, low=ends[0], high=ends[1])


def _tell_of_intervals(exam: Examined) -> None:
    """Say what was drawn for the intervals, and when they say nothing."""
    groups = len({one.conversation.group for one in exam.graded})
    ends = exam.scores["ci95"]["exact_match"]
    if ends is None:
        print(say("cli.eval.one_group"))
        return
    print(say("cli.eval.intervals", groups=groups, questions=len(exam.graded)))
    if ends[0] == ends[1]:
        print(say("cli.eval.no_spread"))


def _compare(found: dict[str, Any], abstained: dict[str, Any]) -> None:
    """Show the F1 of both kinds as decided, always answering and always abstaining."""
    from rich.console import Console
    from rich.table import Table

    rows = {name: abstained[name] for name in ("always_answering", "always_abstaining")}
    if abstained["decided_by"] != "answering":
        rows = {f"by_{abstained['decided_by']}": {**abstained, "f1": found["f1"]}, **rows}
    kinds = [say(f"cli.eval.{kind}") for kind in ("has_answer", "no_answer")]
    table = Table(say("cli.eval.f1"), *kinds, say("cli.all"))
    for name, row in rows.items():
        scores = [row["has_answer"]["f1"], row["no_answer"]["f1"], row["f1"]]
        table.add_row(say(f"cli.eval.{name}"), *[spoken().written(one, ".1f") for one in scores])
    Console(file=sys.stdout).print(table)
