"""The language of the command line: find it, and translate the help texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from quatrain.words import say

_OPTION = "--lang"
_OF_TYPER = {
    "--help": "help.help",
    "--install-completion": "help.install_completion",
    "--show-completion": "help.show_completion",
}
"""Options that typer adds, and the keys of their help texts."""


def take_language(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Remove --lang from a command line, wherever it is; the last one counts.

    ["sft", "openquizz", "--lang", "fr"]  ->  "fr", ["sft", "openquizz"]
    """
    asked, rest, left = None, list[str](), list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return asked, [*rest, word, *left]
        if word == _OPTION and left:
            asked = left.pop(0)
        elif word.startswith(_OPTION + "="):
            asked = word.removeprefix(_OPTION + "=")
        else:
            rest.append(word)
    return asked, rest


def in_words(command: Any) -> Any:
    """Replace catalogue keys by sentences in the help texts of a command and its subcommands."""
    command.help = say(command.help)
    for parameter in [*command.params, command.get_help_option(typer.Context(command))]:
        opts = getattr(parameter, "opts", None) or [""]
        if opts[0] in _OF_TYPER:
            parameter.help = say(_OF_TYPER[opts[0]])
        elif parameter is not None and getattr(parameter, "help", None):
            parameter.help = say(parameter.help)
    for verb in getattr(command, "commands", {}).values():
        in_words(verb)
    return command
