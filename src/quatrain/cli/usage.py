"""What the subcommands share: options, and usage errors with a code, a rule and a remedy.

typer prints usage errors in English only. A group of this class raises them as ConfigError
instead, for all its subcommands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quatrain.cli.completing import KINDS, kinds, overrides, settings
from quatrain.errors import ConfigError
from quatrain.files import at_home

Json = Annotated[bool, typer.Option("--json", help="help.json")]
_FIELD = "SECTION.FIELD=VALUE"
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar=f"[{_FIELD}]...", show_default=False, help="help.fields", autocompletion=overrides
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", metavar=_FIELD, help="help.set", autocompletion=overrides),
]
"""The same as Overrides, written as an option."""
Answering = Annotated[
    list[str] | None,
    typer.Argument(
        metavar=f"[{_FIELD}]...", show_default=False, help="help.settings", autocompletion=settings
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="help.settings", autocompletion=settings),
]
"""The same two for commands that answer: see `of_answering`."""


def refuse_unknown(name: str, value: str | None, values: Sequence[str]) -> None:
    """Refuse a value that an option does not take. Raises Q208."""
    if value is not None and value not in values:
        raise ConfigError("Q208.option", name=name, value=value, known=", ".join(values))


def size_of(text: str, option: str = "--shard-size") -> int:
    """Read a size such as 5GB or 500MB in decimal units, like the Hub. Raises Q208."""
    from quatrain.rules import Broken
    from quatrain.sections import number_of_bytes  # what help need not wait for

    try:
        return number_of_bytes(text)
    except Broken:
        raise ConfigError("Q208.size", option=option, text=text) from None


def _kind(value: str | None) -> str | None:
    refuse_unknown("--quantize", value, KINDS)
    return value


Quantize = Annotated[
    str | None, typer.Option(help="help.quantize", autocompletion=kinds, callback=_kind)
]
"""For commands that answer."""

_GENERATE = "generate"
_UsageError: Any = typer.BadParameter.__base__
"""The base class of usage errors; typer has no public name for it."""


def place(value: Any) -> Any:
    """Read a path that an option or an argument gives: shells leave `~` where it is quoted."""
    return value if value is None else type(value)(at_home(str(value)))


def places(values: list[str]) -> list[str]:
    """Read several paths; see `place`."""
    return [at_home(value) for value in values]


def of_answering(verb: str, settings: Sequence[str], others: tuple[str, ...] = ()) -> list[str]:
    """Read the settings of a command that answers: a field without a section belongs to generate.

    ["max_new_tokens=2"]  ->  ["generate.max_new_tokens=2"]

    Args:
        verb: its name.
        settings: fields and their values.
        others: further sections that the command reads.

    Raises:
        ConfigError: Q209 for a field of a section that would have no effect.
    """
    overrides, known = [], (*others, _GENERATE)
    for setting in settings:
        name, equals, _ = setting.partition("=")
        section, dot, _ = name.partition(".")
        if not dot and equals and name.strip():
            overrides.append(f"{_GENERATE}.{setting.lstrip()}")
            continue
        if equals and name.strip() and section.strip() not in known:
            raise ConfigError("Q209.section", verb=verb, given=name.strip(), known=known)
        overrides.append(setting)
    return overrides


class Verbs(TyperGroup):
    """A group of commands that reports usage errors in the user's language."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Read the words before the command."""
        with _told():
            return super().make_context(*args, **more)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command.

        Raises:
            ConfigError: Q209.
        """
        if self.get_command(ctx, args[0]) is None:
            known = tuple(self.list_commands(ctx))
            raise ConfigError("Q209.verb", command=ctx.command_path, given=args[0], known=known)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of the command, and run it."""
        with _told():
            return super().invoke(ctx)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not an error: it prints the help
            raise
        raise _as_ours(error) from None


def _as_ours(error: Any) -> ConfigError:
    """Translate a usage error of typer; one of an unknown kind keeps typer's own sentence."""
    command = error.ctx.command_path if error.ctx else "quatrain"
    kind, parameter = type(error).__name__, getattr(error, "param", None)
    if kind == "NoSuchOption":
        if fields := _settable(error.ctx, error.option_name):
            return ConfigError(
                "Q209.field", command=command, given=error.option_name, fields=fields
            )
        near = tuple(error.possibilities or ())
        key = "Q209.option" if near else "Q209.no_option"
        return ConfigError(key, command=command, given=error.option_name, near=near)
    if kind == "BadOptionUsage":
        return ConfigError("Q209.value", command=command, given=error.option_name)
    if kind == "MissingParameter" and parameter is not None:
        return ConfigError("Q209.missing", command=command, name=_name(parameter))
    if kind == "BadParameter" and parameter is not None:  # typer accepts any text and any path
        return ConfigError("Q209.integer", name=_name(parameter))
    return ConfigError("Q209.usage", command=command, why=error.format_message())


def _settable(context: Any, option: str) -> tuple[str, ...]:
    """Give the fields that an unknown option means, written as the command takes them."""
    taken = {one.name for one in context.command.params} if context else set()
    if "options" not in taken:
        return ()
    from quatrain.recipe import fields_of

    fields = fields_of(option)
    if context.command.name in ("ask", "eval"):  # of_answering: nothing but these sections
        sections = (_GENERATE,) if context.command.name == "ask" else (_GENERATE, "data")
        fields = [field for field in fields if field.partition(".")[0] in sections]
        fields = sorted(fields, key=lambda field: not field.startswith(_GENERATE))[:1]
        prefix = "--set " if context.command.name == "ask" else ""
        return tuple(f"{prefix}{field}=VALUE" for field in fields)
    several = len({field.rpartition(".")[2] for field in fields}) > 1
    return tuple(f"{field}=VALUE" for field in (fields if several else fields[:1]))


def _name(parameter: Any) -> str:
    return str(parameter.opts[0]) if parameter.param_type_name == "option" else parameter.name
