"""`quatrain eval`."""

from __future__ import annotations

import json
import sys
from typing import Any

from quatrain.cli.telling import telling
from quatrain.cli.usage import of_answering
from quatrain.errors import ConfigError, DataError
from quatrain.progress import working
from quatrain.recipe import load_config
from quatrain.words import Sentence, say, spoken


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
    if config.generate.logprobs is not None:
        raise ConfigError("Q208.logprobs", number=config.generate.logprobs)
    with telling():
        found = _examined(model, file, by, config, never_abstain)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show(found)


def _examined(
    model: str, file: str, by: str | None, config: Any, never_abstain: bool
) -> dict[str, Any]:
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
    from quatrain.evaluate.run import examine
    from quatrain.generate.answer import Answerer

    with working("progress.loading"):
        answerer = Answerer(directory)
    if never_abstain and answerer.abstention is not None:
        answerer.abstention = answerer.abstention.never()
    return examine(answerer, conversations, config.generate, by)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", say("cli.eval.questions"), say("cli.eval.exact"), say("cli.eval.f1"))
    written = spoken().written
    abstained = found.get("abstention") or {}
    kinds = [(say(f"cli.eval.{kind}"), abstained[kind]) for kind in ("has_answer", "no_answer")
             if abstained and abstained[kind]["count"]]  # fmt: skip
    for name, row in [*found["by"].items(), *kinds, (say("cli.all"), found)]:
        scores = [written(row[score], ".1f") for score in ("exact_match", "f1")]
        table.add_row(name, str(row["count"]), *scores)
    Console(file=sys.stdout).print(table)
    print(say("cli.eval.loss", loss=found["loss"]))
    if abstained:
        print(say("cli.eval.abstained", count=abstained["abstained"], total=found["count"]))
    if "always_answering" in abstained:
        _compare(found, abstained)


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
