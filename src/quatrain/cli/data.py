"""`quatrain data inspect` and `quatrain data prepare`: the data of a run, before it runs."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from quatrain.cli.completing import recipes
from quatrain.cli.usage import Json, Options, Overrides, Verbs, place
from quatrain.words import say

data_app = typer.Typer(cls=Verbs, help="help.data", no_args_is_help=True, rich_markup_mode=None)


@data_app.command(help="help.inspect")
def inspect(
    files: Annotated[str, typer.Argument(metavar="FILE[,FILE]", help="help.inspect.files")],
    overrides: Overrides = None,
    held_out: Annotated[
        str | None, typer.Option("--eval", metavar="FILE[,FILE]", help="help.inspect.eval")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="DIR|RECIPE", help="help.inspect.tokenizer", callback=place),
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="help.inspect.block_size")] = None,
    fail_on_leak: Annotated[
        bool, typer.Option("--fail-on-leak", help="help.inspect.fail_on_leak")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="help.inspect.strict")] = False,
    options: Options = None,
    json: Json = False,
) -> None:
    """Show what training would find in the data: shape, lengths, duplicates, leaks, bad records.

    Exits with code 3 when training would stop.
    """
    fixed: dict[str, Any] = {"train": files, "eval": held_out or ()}
    if block_size is not None:
        fixed["block_size"] = block_size
    from quatrain.recipe import load_config

    recipe, directory = _tokenizer_of(tokenizer)
    config = load_config(
        recipe, [*(overrides or []), *(options or []), "data.holdout=0"], data=fixed
    )
    from quatrain.cli.inspecting import TROUBLE, as_dict, show
    from quatrain.data.inspect import inspect as look_through

    config, known, chat = _with_tokenizer(config, directory)
    found = look_through(config, known, chat, fail_on_leak)
    if json:
        print(json_module.dumps(as_dict(found), ensure_ascii=False))
    else:
        show(found)
        if not found.stops:
            base = tokenizer if directory and _is_base(directory) else "MODEL"
            more = ["--eval", held_out] if held_out else []
            given = [*(overrides or []), *(options or [])]
            words = ["quatrain", "init", files, *given, *more, "--base", base or "MODEL"]
            print(say("inspect.next", command=shlex.join(words)))
            if base == "MODEL":
                print(say("inspect.bases"))
    if found.stops or (strict and found.warns):
        sys.exit(TROUBLE)


@data_app.command(help="help.prepare")
def prepare(
    recipe: Annotated[
        str, typer.Argument(help="help.recipe", autocompletion=recipes, callback=place)
    ],
    overrides: Overrides = None,
    options: Options = None,
    json: Json = False,
) -> None:
    """Prepare the data without training: write the rows to disk, and report.

    Training with the same recipe reuses them.
    """
    from quatrain.recipe import load_config

    config = load_config(recipe, [*(overrides or []), *(options or [])])
    from quatrain.cli.inspecting import show_prepared
    from quatrain.data.fingerprint import fingerprint
    from quatrain.data.prepare import load_and_prepare_french_data
    from quatrain.train.start import locked, refuse_another_recipe, refuse_other_data, resolve

    with locked(config.run_dir):
        refuse_another_recipe(config)
        start = resolve(config)
        refuse_other_data(start.config, fingerprint(start.config, start.tokenizer, start.chat))
        _, data = load_and_prepare_french_data(start.config, start.tokenizer, start.chat)
    directory = config.run_dir / "data"
    if json:
        print(json_module.dumps({"directory": str(directory), **data.report}, ensure_ascii=False))
    else:
        show_prepared(directory, data.report)


def _tokenizer_of(given: str | None) -> tuple[str | None, str | None]:
    """Tell a recipe's name or file from a directory, as (recipe, directory)."""
    if given is None:
        return None, None
    from quatrain.recipe import shipped

    if given in shipped() or Path(given).suffix in (".yaml", ".yml"):
        return given, None
    return None, given


def _with_tokenizer(config: Any, directory: str | None) -> tuple[Any, Any, Any]:
    """Open the tokenizer that a directory or the recipe names; None is one to be trained."""
    from quatrain.model.locate import locate
    from quatrain.model.stranger import is_gguf, is_weights
    from quatrain.text.chat import LLAMA4
    from quatrain.text.recognise import chat_format_of
    from quatrain.text.tokenizer import Tokenizer
    from quatrain.train.start import resolve

    if directory is None:
        start = resolve(config)
        return start.config, start.tokenizer, start.chat
    path = Path(directory)
    bare = path.is_file() and not is_weights(path)
    bare = bare or ((path / "tokenizer.json").is_file() and not _is_model(path))
    if not bare:
        path = locate(directory)
    if is_gguf(path):
        from quatrain.hub.opened import text_tools

        tools = text_tools(path)
        return config, tools.tokenizer, tools.chat
    tokenizer = Tokenizer.load(path)
    formatted = _is_model(path) or (path / "chat_format.json").is_file()
    return config, tokenizer, chat_format_of(path, tokenizer) if formatted else LLAMA4


def _is_base(directory: str) -> bool:
    """Whether a tokenizer's place is a model to start from too."""
    from quatrain.errors import QuatrainError
    from quatrain.model.locate import locate

    try:
        return locate(directory) is not None
    except QuatrainError:
        return False


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file()
