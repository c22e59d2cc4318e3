"""The `quatrain` command: its verbs, how errors are shown, and exit codes.

Every verb imports what it needs when it runs, so that help and errors in a recipe come at once.
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

from quatrain.cli.data import data_app
from quatrain.errors import QuatrainError, ResourceError

app = typer.Typer(
    name="quatrain",
    help="Fine-tune a Llama 4 to answer questions, French first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_app, name="data")

_NO_SPACE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EFBIG, getattr(errno, "EDQUOT", -1)}
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.FIELD=VALUE]...", show_default=False)
]
Recipe = Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")]
Model = Annotated[
    str, typer.Argument(help="A run, a model's or an adapter's directory, or a Hub id.")
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if debug:
        os.environ["QUATRAIN_DEBUG"] = "1"
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for chatty in ("filelock", "urllib3", "httpx", "huggingface_hub", "gguf"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@app.command()
def demo(overrides: Overrides = None, json: Json = False) -> None:
    """Run the main job on the embedded questions: pretrain, fine-tune, exam, answers."""
    from quatrain.cli.demo import run_demo

    run_demo(overrides or [], json)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Train on text. The same command again resumes."""
    from quatrain.cli.training import run_training

    run_training(recipe, overrides or [], "pretrain", json)


@app.command()
def sft(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Fine-tune on questions and answers. The same command again resumes."""
    from quatrain.cli.training import run_training

    run_training(recipe, overrides or [], "sft", json)


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe's name, or a YAML file.")
    ] = None,
    overrides: Overrides = None,
    no_calibrate: Annotated[
        bool, typer.Option("--no-calibrate", help="Take no steps to tell the time.")
    ] = False,
    bases: Annotated[
        bool, typer.Option("--bases", help="List models to start from, and what they need.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a run will take: memory by part, steps, time, disk; refuse what cannot fit."""
    from quatrain.cli.planning import list_bases, run_planning

    if bases or recipe is None:
        list_bases(json)
    else:
        run_planning(recipe, overrides or [], not no_calibrate, json)


@app.command(name="eval")
def evaluate(
    model: Model,
    file: Annotated[str, typer.Argument(help="Questions with their answers, in any known shape.")],
    overrides: Overrides = None,
    by: Annotated[str | None, typer.Option(help="Also score apart by this column.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many questions.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="data.* and generate.* fields."),
    ] = None,
    json: Json = False,
) -> None:
    """Score a model's answers: loss, exact match and F1 with French normalising."""
    from quatrain.cli.evaluating import run_evaluation

    run_evaluation(model, file, by, limit, [*(overrides or []), *(options or [])], json)


@app.command()
def ask(
    model: Model,
    question: Annotated[str | None, typer.Argument(help="Without one, a conversation.")] = None,
    context: Annotated[
        str | None, typer.Option(metavar="FILE", help="A text that the question is about.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Fields such as temperature=0.7."),
    ] = None,
    json: Json = False,
) -> None:
    """Answer one question, or hold a conversation; the answer streams."""
    from quatrain.cli.asking import run_asking

    run_asking(model, question, context, options or [], json)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A run, a directory, a Hub id or a GGUF file.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="The directory to write, which is new.")
    ],
    to: Annotated[str, typer.Option(help="llama4, hf, hf-multimodal or gguf.")],
    experts: Annotated[
        int | None, typer.Option(help="Give a dense model so many routed experts.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="bf16, f16, f32 or q8_0; the source's where left out.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="The multimodal directory to take the vision part from; or an adapter's base."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add an adapter to its base's weights.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not compare the result with its source.")
    ] = False,
    shard_size: Annotated[str, typer.Option(help="The most bytes of a file of weights.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace DST where it exists.")] = False,
    json: Json = False,
) -> None:
    """Write a model in another format, and prove that it is the same function."""
    from quatrain.cli.converting import run_conversion

    run_conversion(
        source, destination, to, experts, dtype, base, merge, not no_check, shard_size, force, json
    )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    lang: Annotated[str | None, typer.Option(help="fr or en; the system's where left out.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: Json = False,
) -> None:
    """Write RUN/report.html: what was learnt, by which experts, from which data."""
    from quatrain.cli.reporting import run_report

    run_report(run, lang, json, browse)


def main() -> None:
    """Run the command line; every error that a user can mend is one short message."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except QuatrainError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        _fail(
            ResourceError(
                "Q602",
                f"the disk is full or cannot be written: {error}.",
                "Free some space, or use another run_dir; what was finished is whole.",
            )
        )
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in said for sign in _NO_MEMORY):
            raise
        _fail(
            ResourceError(
                "Q601",
                f"memory ran out: {str(error).splitlines()[0] if str(error) else 'MemoryError'}",
                "Halve train.micro_batch_size, set train.activation_checkpointing=true, or lower "
                "data.block_size. The last checkpoint is whole.",
            )
        )


def _fail(error: QuatrainError) -> None:
    if os.environ.get("QUATRAIN_DEBUG"):
        raise error
    print(f"error{error}", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
