"""The user's language: the one asked for, else that of the system."""

from __future__ import annotations

import re
from collections.abc import Mapping

from quatrain.errors import ConfigError
from quatrain.words import LANGUAGES

_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""The variables that hold the system's language; the first that is set decides, as in POSIX."""


def choose_language(asked: str | None, environment: Mapping[str, str]) -> str:
    """Choose the language asked for, else the system's if there is a catalogue, else English.

    Raises:
        ConfigError: Q240 if there is no catalogue of the language asked for.
    """
    if asked is not None:
        if asked not in LANGUAGES:
            raise ConfigError("Q240.language", given=asked, known=LANGUAGES)
        return asked
    locale = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    language = re.split(r"[_.@-]", locale.lower())[0]
    return language if language in LANGUAGES else "en"
