"""`quatrain demo`: the main job on the embedded questions, end to end.

    RUN/pretrain/    a short pretraining on embedded French text, with its tokenizer
    RUN/             the fine-tuning; RUN is the MODEL to ask
    RUN/exam-*.json  scores by family: before, after on held-out questions, after on unseen facts

After an interruption, the same command resumes: finished parts are not repeated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quatrain.cli.telling import telling
from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.progress import watcher
from quatrain.recipe import load_config
from quatrain.words import say, spoken

_PRETRAIN = "pretrain."
_BOTH = ("train.device=", "train.threads=", "train.seed=")
_QUESTIONS_BEFORE = 330
SHOWN = (
    "Quel est le produit de 6 et 2 ?",
    "Quelle est la somme de 17 et 5 ?",
    "Quelle est la capitale de l'Italie ?",
    "Quel est le pluriel de « cheval » ?",
    "Quel est le contraire de « grand » ?",
)


def run_demo(overrides: list[str], as_json: bool, then_serve: bool = False) -> None:
    """Run every part that is not done yet, then show what was learnt.

    Args:
        overrides: of the fine-tuning recipe; with `pretrain.` in front, of the pretraining one.
            Device, threads and seed go to both.
        as_json: print one JSON object instead of tables.
        then_serve: serve the model afterwards.
    """
    text_config, config = _configs(overrides)
    with telling():
        found = _done(text_config, config, ["quatrain", "demo", *overrides])
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show(found)
    if then_serve:
        from quatrain.cli.serving import run_serving

        run_serving([found["run_dir"]])


def _done(text_config: Config, config: Config, command: list[str]) -> dict[str, Any]:
    """Do every part that is not done yet; give what was found."""
    _say("cli.demo.part.1")
    from quatrain.cli.training import leave_if_stopped
    from quatrain.train.run import run

    leave_if_stopped(run(text_config), command)
    _say("cli.demo.part.2")
    before = _exam(config, "before", text_config.run_dir, "demo:heldout", _QUESTIONS_BEFORE)
    _say("cli.demo.part.3")
    leave_if_stopped(run(config), command)
    _say("cli.demo.part.4")
    return {
        "run_dir": str(config.run_dir),
        "training_seconds": _training_seconds(text_config, config),
        "before": before,
        "heldout": _exam(config, "heldout", config.run_dir, "demo:heldout"),
        "strict": _exam(config, "strict", config.run_dir, "demo:strict"),
        "answers": _answers(config),
    }


def _configs(overrides: list[str]) -> tuple[Config, Config]:
    """Make the configs of both runs; the second begins with the first one's best weights."""
    tuning = [override for override in overrides if not override.startswith(_PRETRAIN)]
    text = [override for override in tuning if override.startswith(_BOTH)]
    text += [o.removeprefix(_PRETRAIN) for o in overrides if o.startswith(_PRETRAIN)]
    if shape := [override for override in tuning if override.startswith("model.")]:
        raise ConfigError(
            "Q203.demo_shape",
            given=", ".join(shape),
            better=", ".join(_PRETRAIN + override for override in shape),
        )
    run_dir = load_config("demo", tuning).run_dir
    first = str(run_dir / "pretrain")
    return (
        load_config("demo-text", text, run_dir=first, train={"task": "pretrain"}),
        load_config("demo", tuning, model={"init": first}, train={"task": "sft"}),
    )


def _exam(
    config: Config, name: str, model: Path, source: str, count: int | None = None
) -> dict[str, Any]:
    """Score a model by family, on about `count` questions; an exam taken already is read."""
    path = config.run_dir / f"exam-{name}.json"
    if path.exists():
        taken: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return taken
    from quatrain.data.records import load_records
    from quatrain.evaluate.run import examine
    from quatrain.files import write_json
    from quatrain.generate.answer import Answerer

    conversations = load_records((source,), config.data.replace(limit=None)).conversations
    every = max(1, len(conversations) // count) if count else 1
    found = examine(Answerer(model), conversations[::every], config.generate, "family")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


def _training_seconds(*configs: Config) -> float:
    """Add up the steps' times of both runs, evaluations and checkpoints left out."""
    from quatrain.run_dir import METRICS, read_rows

    rows = [row for config in configs for row in read_rows(config.run_dir / METRICS)]
    return float(sum(row["seconds"] for row in rows if "loss" in row))


def _answers(config: Config) -> list[dict[str, str]]:
    from quatrain.generate.answer import Answerer

    answerer, options = Answerer(config.run_dir), config.generate.model_dump()
    return [{"question": q, "answer": str(answerer.answer(q, **options))} for q in SHOWN]


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(say("cli.demo.exact"), say("cli.demo.before"), say("cli.demo.heldout"),
                  say("cli.demo.strict"), title=say("cli.demo.title"))  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    families = [*found["heldout"]["by"], None]
    for family in families:
        exams = [found[name] for name in ("before", "heldout", "strict")]
        rows = [exam if family is None else exam["by"].get(family) for exam in exams]
        cells = ["" if row is None else spoken().written(row["exact_match"], ".1f") for row in rows]
        table.add_row(family or say("cli.all"), *cells, style="bold" if family is None else None)
    Console().print(table)
    print(say("cli.demo.took", seconds=found["training_seconds"]))
    for pair in found["answers"]:
        print(f"  {pair['question']}  ->  {pair['answer']}")
    command = f'quatrain ask {found["run_dir"]} "Combien font 8 et 9 ?"'
    print(say("cli.demo.ask", command=command))
    print(say("cli.demo.serve", command=f"quatrain serve {found['run_dir']}"))


def _say(key: str) -> None:
    one = watcher()
    assert one is not None  # telling() is around
    one.line(say(key))
