"""`quatrain eval`: the scores of a model, and of another one beside them."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quatrain.cli.telling import telling
from quatrain.cli.usage import of_answering
from quatrain.errors import ConfigError, DataError
from quatrain.progress import working
from quatrain.recipe import load_config
from quatrain.words import Sentence, say, spoken

if TYPE_CHECKING:
    from quatrain.config import DataConfig
    from quatrain.evaluate.run import Examined
    from quatrain.generate.answer import Answerer
    from quatrain.text.conversation import Conversation

_SCORES = ("exact_match", "f1")
_LONGEST_SHOWN = 100


def run_evaluation(
    model: str,
    file: str,
    by: str | None,
    limit: int | None,
    overrides: list[str],
    as_json: bool,
    never_abstain: bool = False,
    against: str | None = None,
    quantize: str | None = None,
    answers: Path | None = None,
) -> None:
    """Answer every question of a file, perhaps with two models, and print the scores.

    With `answers`, answers are kept there, and those that are there already are not asked again.

    The other model is held as it is, so that a model can be compared with itself in fewer bits.
    """
    limits = [f"data.limit={limit}"] * (limit is not None)
    settings = of_answering("eval", overrides, others=("data",))
    config = load_config(None, [*limits, *settings], data={"train": file})
    if config.generate.logprobs is not None:
        raise ConfigError("Q208.logprobs", number=config.generate.logprobs)
    models = [model] if against is None else [model, against]
    with telling():
        exam, *others = _examined(models, quantize, file, by, config, never_abstain, answers)
    compared = dict[str, Any]()
    if others:
        from quatrain.evaluate.comparison import compare

        compared = {"against": others[0].scores, **compare(exam.graded, others[0].graded)}
    if as_json:
        print(json.dumps({**exam.scores, **compared}, ensure_ascii=False))
        return
    _show(exam)
    if compared:
        name = model if quantize is None else f"{model} ({quantize})"
        _show_comparison([name, *models[1:]], exam.scores, compared)


def _examined(
    models: Sequence[str],
    quantize: str | None,
    file: str,
    by: str | None,
    config: Any,
    never_abstain: bool,
    answers: Path | None,
) -> list[Examined]:
    """Examine models one after the other, so that one at a time is in memory."""
    from quatrain.model.locate import locate

    places = [locate(model) for model in models]
    exams = [_questions(file, by, data) for data in _read_for(places, config.data)]
    exams *= len(places) // len(exams)
    for place in places[1:]:
        _refuse_unopenable(place)
    from quatrain.evaluate.kept import Kept, exam_of
    from quatrain.evaluate.run import examined

    found, total = [], len(places) if len(places) > 1 else None
    for number, (place, questions) in enumerate(zip(places, exams, strict=True), 1):
        with working("progress.examining", total=total, done=number, model=models[number - 1]):
            kind = quantize if number == 1 else None
            answerer = _opened(place, kind, never_abstain)
            kept = None
            if answers is not None:
                options, way = config.generate, answerer.abstention
                exam = exam_of(place, kind, questions, options, way)
                kept = Kept(answers, exam, models[number - 1])
            found.append(examined(answerer, questions, config.generate, by, kept))
        del answerer
        gc.collect()
    return found


def _read_for(places: Sequence[Path], data: DataConfig) -> list[DataConfig]:
    """Say how each model's questions are read, or once if all alike.

    Those without an answer have the sentence that the model was taught.
    """
    from quatrain.text.abstention import Abstention

    if "no_answer" in data.model_fields_set:
        return [data]
    taught = [Abstention.load(place) for place in places]
    ways = [data if one is None else data.replace(no_answer=one.no_answer) for one in taught]
    return ways[:1] if all(way == ways[0] for way in ways) else ways


def _questions(file: str, by: str | None, data: DataConfig) -> Sequence[Conversation]:
    from quatrain.data.records import load_records

    conversations = load_records(data.train, data).conversations
    if not conversations:
        raise DataError("Q303.no_questions", file=file)
    if by and not any(by in one.fields for one in conversations):
        known = sorted({name for one in conversations for name in one.fields})
        names = ", ".join(known) or Sentence.of("errors.none")
        raise DataError("Q304.column", column=by, known=names)
    return list(conversations)


def _refuse_unopenable(place: Path) -> None:
    """Refuse what the other model lacks before this one answers for a long time."""
    from quatrain.hub.opened import text_tools
    from quatrain.model.hf_config import read_config
    from quatrain.model.locate import is_adapter, llama4_base_of
    from quatrain.model.stranger import is_gguf

    base = llama4_base_of(place) if is_adapter(place) else place
    if not is_gguf(base):
        read_config(base)
    text_tools(place)


def _opened(place: Path, quantize: str | None, never_abstain: bool) -> Answerer:
    from quatrain.generate.answer import Answerer

    with working("progress.loading"):
        answerer = Answerer(place, quantize=quantize)
    if never_abstain and answerer.abstention is not None:
        answerer.abstention = answerer.abstention.never()
    return answerer


def _show(exam: Examined) -> None:
    """Print the scores; those of all questions with their intervals."""
    found, written = exam.scores, spoken().written
    abstained = found.get("abstention") or {}
    kinds = [(say(f"cli.eval.{kind}"), abstained[kind]) for kind in ("has_answer", "no_answer")
             if abstained and abstained[kind]["count"]]  # fmt: skip
    rows = [
        [name, str(row["count"]), *[written(row[score], ".1f") for score in _SCORES]]
        for name, row in [*found["by"].items(), *kinds]
    ]
    rows.append([say("cli.all"), str(found["count"]), *_with_intervals(found)])
    _print_table(["", *_heads("questions", "exact", "f1")], rows)
    _tell_of_intervals(exam)
    print(say("cli.eval.loss", loss=found["loss"]))
    if abstained:
        print(say("cli.eval.abstained", count=abstained["abstained"], total=found["count"]))
    if "always_answering" in abstained:
        _compare(found, abstained)


def _with_intervals(found: dict[str, Any], key: str = "interval") -> list[str]:
    """Write both scores like 50.8 (42 to 60)."""
    written = []
    for score in _SCORES:
        low, high = found["ci95"][score] or (None, None)
        none = "" if low is not None else "_alone"
        written.append(say(f"cli.eval.{key}{none}", score=found[score], low=low, high=high))
    return written


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
    rows = {name: abstained[name] for name in ("always_answering", "always_abstaining")}
    if abstained["decided_by"] != "answering":
        rows = {f"by_{abstained['decided_by']}": {**abstained, "f1": found["f1"]}, **rows}
    shown = []
    for name, row in rows.items():
        scores = [row["has_answer"]["f1"], row["no_answer"]["f1"], row["f1"]]
        shown.append([*_heads(name), *[spoken().written(one, ".1f") for one in scores]])
    _print_table([*_heads("f1", "has_answer", "no_answer"), say("cli.all")], shown)


def _show_comparison(names: Sequence[str], found: dict[str, Any], compared: dict[str, Any]) -> None:
    """Show both models' scores, how many answers differ, and some of these."""
    from quatrain.evaluate.comparison import OUTCOMES

    rows = [
        [names[1], *_with_intervals(compared["against"])],
        [names[0], *_with_intervals(found)],
        [*_heads("difference"), *_with_intervals(compared["difference"], "change")],
    ]
    _print_table(["", *_heads("exact", "f1")], rows)
    counts = [str(compared[name]) for name in OUTCOMES]
    _print_table(_heads(*OUTCOMES, "p"), [[*counts, spoken().written(compared["p"], ".2g")]])
    for outcome, examples in compared["examples"].items():
        if examples:
            print(say(f"cli.eval.{outcome}_examples", shown=len(examples), all=compared[outcome]))
        for one in examples:
            print(f"  {_shortened(one['question'])}")
            said = [say("cli.eval.gold"), " / ".join(one["gold"])]
            for name, text in (said, [names[1], one["against"]], [names[0], one["answer"]]):
                print(f"    {say('cli.eval.said', name=name, text=_shortened(text))}")


def _heads(*names: str) -> list[str]:
    return [say(f"cli.eval.{name}") for name in names]


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads)
    for row in rows:
        table.add_row(*map(Text, row))  # names of models and values of columns are no markup
    Console(file=sys.stdout).print(table)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]} ..."
