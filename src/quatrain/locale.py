"""The language of a person: the one asked for, else that of the system."""

from __future__ import annotations

import re
from collections.abc import Mapping

from quatrain.errors import ConfigError
from quatrain.words import LANGUAGES

_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Where a system says its language; the first that is set decides, as POSIX has it."""


def choose_language(asked: str | None, environment: Mapping[str, str]) -> str:
    """Take the language asked for, else that of the system where we have it, else English.

    Raises:
        ConfigError: Q240 for a language that is asked for and has no catalogue.
    """
    if asked is not None:
        if asked not in LANGUAGES:
            raise ConfigError("Q240.language", given=asked, known=LANGUAGES)
        return asked
    locale = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    language = re.split(r"[_.@-]", locale.lower())[0]
    return language if language in LANGUAGES else "en"
