"""Shell completion: recipes, fields of a recipe and their values.

    sft op        openquizz
    train.dev     train.device=auto  train.device=cpu ...
    train.device=c    train.device=cpu  train.device=cuda

typer completes commands and options, and provides the scripts. Nothing is imported before it is
needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from quatrain.errors import ConfigError
from quatrain.words import LANGUAGES, say

FORMATS = ("llama4", "hf", "hf-multimodal", "gguf")
DTYPES = ("bf16", "f16", "f32", "q8_0")
KINDS = ("nf4", "int8")
"""Copies of those in hub/convert.py, which imports torch."""

_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
_INSTALL, _SHOW = "--install-completion", "--show-completion"


def recipes(incomplete: str) -> list[str]:
    """Offer the shipped recipes, and recipe files under the path typed so far."""
    from quatrain.recipe import shipped

    folder = Path(incomplete if incomplete.endswith("/") else os.path.dirname(incomplete))
    there = [path.as_posix() for path in folder.glob("*") if path.suffix in (".yaml", ".yml")]
    return _beginning(incomplete, [*shipped(), *sorted(there)])


def overrides(incomplete: str) -> list[str]:
    """Offer the fields of a recipe and, after the equals sign, their values."""
    from quatrain.config import Config

    return _offered(incomplete, dict(_fields(Config, "")))


def settings(incomplete: str) -> list[str]:
    """Offer fields for commands that answer: those of generate without their section."""
    from quatrain.config import Config, DataConfig, GenerateConfig

    every = dict(_fields(Config, ""))
    own = {name: every[f"generate.{name}"] for name in GenerateConfig.model_fields}
    data = {f"data.{name}": every[f"data.{name}"] for name in DataConfig.model_fields}
    return _offered(incomplete, own | data)


def formats(incomplete: str) -> list[str]:
    """Offer what --to takes."""
    return _beginning(incomplete, FORMATS)


def dtypes(incomplete: str) -> list[str]:
    """Offer what --dtype takes."""
    return _beginning(incomplete, DTYPES)


def kinds(incomplete: str) -> list[str]:
    """Offer what --quantize takes."""
    return _beginning(incomplete, KINDS)


def languages(incomplete: str) -> list[str]:
    """Offer what --lang takes."""
    return _beginning(incomplete, LANGUAGES)


def with_shells(command: Any) -> Any:
    """Give the options for completion scripts messages from the catalogue."""
    for parameter in command.params:
        if parameter.opts == [_INSTALL]:
            parameter.callback = _install
        elif parameter.opts == [_SHOW]:
            parameter.callback = _show
    return command


def _install(context: typer.Context, parameter: Any, value: Any) -> None:
    if value and not context.resilient_parsing:
        from typer.completion import install  # type: ignore[attr-defined]

        shell, path = install(shell=_shell(value), prog_name="quatrain")
        print(say("cli.completion.installed", shell=shell, path=path))
        raise typer.Exit


def _show(context: typer.Context, parameter: Any, value: Any) -> None:
    if value and not context.resilient_parsing:
        from typer.completion import get_completion_script  # type: ignore[attr-defined]

        print(get_completion_script(
            prog_name="quatrain", complete_var="_QUATRAIN_COMPLETE", shell=_shell(value)
        ))  # fmt: skip
        raise typer.Exit


def _shell(value: Any) -> str:
    """Detect the current shell, unless one is named.

    Raises:
        ConfigError: Q209 for a shell without a script.
    """
    import shellingham

    name = str(getattr(value, "value", value))
    if value is True:
        try:
            name = shellingham.detect_shell()[0]
        except shellingham.ShellDetectionFailure:
            raise ConfigError("Q209.no_shell", known=", ".join(_SHELLS)) from None
    if name not in _SHELLS:
        raise ConfigError("Q209.shell", given=name, known=", ".join(_SHELLS))
    return name


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _fields(section: Any, before: str) -> Iterator[tuple[str, Any]]:
    """List the fields of a section, and of those in it, by their paths."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, f"{before}{name}.")
        else:
            yield f"{before}{name}", field


def _offered(incomplete: str, fields: dict[str, Any]) -> list[str]:
    """Offer fields; of a single one its values too, lest a space is put behind its sign.

    bash parts words at `=` and asks for what stands behind it alone.
    """
    behind = _field_before(incomplete)
    if behind is not None:
        field, begun = behind
        return _beginning(begun, _values(field, fields[field])) if field in fields else []
    name, sign, _ = incomplete.partition("=")
    if not sign:
        found = _beginning(incomplete, fields)
        if len(found) != 1:
            return [f"{one}=" for one in found]
        name = found[0]
    if name not in fields:
        return []
    values = [f"{name}={value}" for value in _values(name, fields[name])]
    return _beginning(incomplete, values if len(values) > 1 else [f"{name}=", *values])


def _field_before(incomplete: str) -> tuple[str, str] | None:
    """Find the field before the sign in bash's words: `train.device`, `=`, `c`."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    words = words[: int(os.environ.get("COMP_CWORD", "0")) + 1]
    if words[-1:] == ["="] and len(words) > 1:
        return words[-2], ""
    return (words[-3], incomplete) if words[-2:-1] == ["="] and len(words) > 2 else None


def _values(name: str, field: Any) -> Sequence[str]:
    """List the possible values of a field; of a number, only its default."""
    from quatrain.recipe import shipped

    if name == "model.preset":
        return shipped("presets")
    kinds = get_args(field.annotation) or (field.annotation,)
    if get_origin(field.annotation) is Literal:
        return [str(one) for one in kinds]
    choices = [str(one) for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
    if choices and type(None) in kinds:
        return [*choices, "null"]
    if field.annotation is bool:
        return ["true", "false"]
    if str in kinds or Path in kinds or not isinstance(field.default, int | float | None):
        return []  # paths, which the shell completes, and lists
    return ["null"] if field.default is None else [str(field.default)]
