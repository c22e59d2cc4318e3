"""The `quatrain` command: its subcommands, error messages and exit codes.

Every subcommand imports what it needs when it runs, so that help and errors in a recipe appear at
once. A `help=` here is a key of the catalogue; main() replaces it with the sentence in the user's
language.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from quatrain import __version__
from quatrain.cli.completing import dtypes, formats, kinds, languages, recipes, with_shells
from quatrain.cli.data import data_app
from quatrain.cli.speech import in_words, take_language
from quatrain.cli.usage import (
    Answering,
    Json,
    Options,
    Overrides,
    Quantize,
    Settings,
    Verbs,
    place,
    places,
)
from quatrain.errors import QuatrainError, ResourceError
from quatrain.locale import choose_language
from quatrain.words import say, speak

app = typer.Typer(
    name="quatrain",
    cls=Verbs,
    help="help.app",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_app, name="data")

_NO_SPACE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG, getattr(errno, "EDQUOT", -1)}
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

Recipe = Annotated[str, typer.Argument(help="help.recipe", autocompletion=recipes, callback=place)]
Model = Annotated[str, typer.Argument(help="help.model", callback=place)]
Processes = Annotated[int, typer.Option(min=1, metavar="N", help="help.processes")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="help.dry_run")]
NeverAbstain = Annotated[bool, typer.Option("--never-abstain", help="help.never_abstain")]


def _version(asked: bool) -> None:
    if asked:
        print(f"quatrain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="help.debug")] = False,
    lang: Annotated[
        str | None, typer.Option(help="help.lang", autocompletion=languages)
    ] = None,  # main() takes it before
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="help.version")
    ] = False,
) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if debug:
        os.environ["QUATRAIN_DEBUG"] = "1"
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for chatty in ("filelock", "urllib3", "httpx", "huggingface_hub", "gguf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@app.command(help="help.demo")
def demo(
    overrides: Overrides = None,
    options: Options = None,
    then_serve: Annotated[bool, typer.Option("--serve", help="help.demo.serve")] = False,
    json: Json = False,
) -> None:
    """Run the whole demo on the embedded questions."""
    from quatrain.cli.demo import run_demo

    run_demo([*(overrides or []), *(options or [])], json, then_serve)


@app.command(help="help.init")
def init(
    files: Annotated[str, typer.Argument(metavar="FILE[,FILE]", help="help.inspect.files")],
    overrides: Overrides = None,
    held_out: Annotated[
        str | None, typer.Option("--eval", metavar="FILE[,FILE]", help="help.init.eval")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="help.init.base", callback=place)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="NAME.yaml", help="help.init.out", callback=place)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="help.init.force")] = False,
    options: Options = None,
    json: Json = False,
) -> None:
    """Inspect a data file and write a recipe to train on it."""
    from quatrain.cli.drafting import run_drafting

    asked = [*(overrides or []), *(options or [])]
    run_drafting(files, asked, held_out, base, out, force, json)


@app.command(help="help.pretrain")
def pretrain(
    recipe: Recipe,
    overrides: Overrides = None,
    options: Options = None,
    processes: Processes = 1,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train on text, or resume."""
    from quatrain.cli.training import run_training

    run_training(
        recipe, [*(overrides or []), *(options or [])], "pretrain", json, processes, dry_run
    )


@app.command(help="help.sft")
def sft(
    recipe: Recipe,
    overrides: Overrides = None,
    options: Options = None,
    processes: Processes = 1,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Fine-tune on questions and answers, or resume."""
    from quatrain.cli.training import run_training

    settings = [*(overrides or []), *(options or [])]
    run_training(recipe, settings, "sft", json, processes, dry_run)


@app.command(help="help.plan")
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="help.recipe", autocompletion=recipes, callback=place)
    ] = None,
    overrides: Overrides = None,
    options: Options = None,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="help.plan.no_calibrate")
    ] = False,
    bases: Annotated[bool, typer.Option("--bases", help="help.plan.bases")] = False,
    processes: Processes = 1,
    device_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="help.plan.device_memory")
    ] = None,
    json: Json = False,
) -> None:
    """Estimate the memory, time and disk space of a run; refuse one that cannot fit."""
    from quatrain.cli.planning import card_of, list_bases, run_planning

    if bases or recipe is None:
        list_bases(json)
    else:
        settings = [*(overrides or []), *(options or [])]
        card = card_of(device_memory)
        run_planning(recipe, settings, not no_calibrate, json, processes, card=card)


@app.command(name="eval", help="help.eval")
def evaluate(
    model: Model,
    file: Annotated[str, typer.Argument(help="help.eval.file")],
    overrides: Answering = None,
    by: Annotated[str | None, typer.Option(help="help.eval.by")] = None,
    limit: Annotated[int | None, typer.Option(help="help.eval.limit")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="help.eval.against", callback=place)
    ] = None,
    never_abstain: NeverAbstain = False,
    quantize: Quantize = None,
    answers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="help.eval.answers", callback=place)
    ] = None,
    options: Settings = None,
    json: Json = False,
) -> None:
    """Score a model's answers: loss, exact match and F1, after French normalisation."""
    from quatrain.cli.evaluating import run_evaluation

    settings = [*(overrides or []), *(options or [])]
    run_evaluation(
        model, file, by, limit, settings, json, never_abstain, against, quantize, answers
    )


@app.command(help="help.ask")
def ask(
    model: Model,
    question: Annotated[str | None, typer.Argument(help="help.ask.question")] = None,
    context: Annotated[
        str | None, typer.Option(metavar="FILE", help="help.ask.context", callback=place)
    ] = None,
    never_abstain: NeverAbstain = False,
    quantize: Quantize = None,
    options: Settings = None,
    json: Json = False,
) -> None:
    """Answer one question, or hold a conversation."""
    from quatrain.cli.asking import run_asking

    run_asking(model, question, context, options or [], json, never_abstain, quantize)


@app.command(help="help.serve")
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="help.model", callback=places)
    ],
    host: Annotated[str, typer.Option(help="help.serve.host")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="help.serve.port")] = 8000,
    quantize: Quantize = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="help.serve.api_key_file", callback=place)
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="help.serve.allow_host")
    ] = None,
    max_active: Annotated[int, typer.Option(help="help.serve.max_active")] = 8,
    queue: Annotated[int, typer.Option(help="help.serve.queue")] = 64,
    kv_memory: Annotated[str, typer.Option(metavar="SIZE", help="help.serve.kv_memory")] = "2GB",
    feedback: Annotated[
        Path | None, typer.Option(metavar="FILE", help="help.serve.feedback", callback=place)
    ] = None,
) -> None:
    """Serve models: OpenAI's routes, and a page to talk to them."""
    from quatrain.cli.serving import run_serving

    run_serving(
        models, host, port, quantize, api_key_file, allow_host, max_active, queue, kv_memory,
        feedback,
    )  # fmt: skip


@app.command(help="help.convert")
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="help.convert.source", callback=place)
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="help.convert.destination", callback=place)
    ],
    to: Annotated[str, typer.Option(help="help.convert.to", autocompletion=formats)],
    experts: Annotated[int | None, typer.Option(help="help.convert.experts")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="help.convert.dtype", autocompletion=dtypes)
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="help.convert.quantize", autocompletion=kinds)
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="help.convert.base", callback=place),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="help.convert.merge")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="help.convert.no_check")] = False,
    shard_size: Annotated[str, typer.Option(help="help.convert.shard_size")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="help.convert.force")] = False,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="help.convert.push")] = None,
    public: Annotated[bool, typer.Option("--public", help="help.convert.public")] = False,
    json: Json = False,
) -> None:
    """Convert a model to another format and check the result."""
    from quatrain.cli.converting import run_conversion

    run_conversion(
        source, destination, to, experts, dtype, quantize, base, merge, not no_check, shard_size,
        force, push, public, json,
    )  # fmt: skip


@app.command(help="help.report")
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="help.report.run", callback=place)],
    lang: Annotated[
        str | None, typer.Option(help="help.report.lang", autocompletion=languages)
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="help.report.open")] = False,
    json: Json = False,
) -> None:
    """Write the report of a run to RUN/report.html."""
    from quatrain.cli.reporting import run_report

    run_report(run, lang, json, browse)


def main() -> None:
    """Run the command line; show each user error as one short message."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    speak(choose_language(None, os.environ))
    try:
        asked, words = take_language(sys.argv[1:])
        speak(choose_language(asked, os.environ))
        in_words(with_shells(get_command(app)))(words, prog_name="quatrain")
    except QuatrainError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        _fail(ResourceError("Q602.disk", error=error))
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in said for sign in _NO_MEMORY):
            raise
        _fail(
            ResourceError(
                "Q601.memory", why=str(error).splitlines()[0] if str(error) else "MemoryError"
            )
        )


def _fail(error: QuatrainError) -> None:
    if os.environ.get("QUATRAIN_DEBUG"):
        raise error
    print(say("cli.error", error=str(error)), file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
