"""Words: the messages to the user, in each language, from one catalogue.

The catalogue is a file for each area and language, `catalogue/report.fr.json` and so on, from
dotted keys to sentences with named places: `words("report.records", count=3)`. A key that has the
forms `.one` and `.other` is chosen by `count`; where a sentence has several numbers, each may
choose a word, as in `{rows} {rows:row|rows}`. A place may say how its number is written, as in
`{loss:.3f}`, or what joins its list, as in `{names:, }`. Not for what a program reads (JSON keys,
metrics).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any

LANGUAGES = ("en", "fr")
_SPOKEN = ContextVar("language", default="en")
_NARROW, _WIDE = "\u202f", "\u00a0"


def speak(language: str) -> None:
    """Set the language of all messages from now on; the default is English."""
    assert language in LANGUAGES, language
    _SPOKEN.set(language)


def spoken() -> Words:
    """Return the catalogue in the current language."""
    return Words(_SPOKEN.get())


def say(key: str, /, **values: object) -> str:
    """Return a sentence of the catalogue in the current language."""
    return spoken()(key, **values)


class Sentence(str):
    """A sentence in English, for files and programs, that can be translated for the user."""

    key: str
    values: Mapping[str, object]

    @classmethod
    def of(cls, key: str, /, **values: object) -> Sentence:
        """Make a sentence from the catalogue."""
        made = cls(Words("en")(key, **values))
        made.key, made.values = key, values
        return made


def tell(text: str) -> str:
    """Return a sentence in the current language; any other text stays as it is."""
    return say(text.key, **text.values) if isinstance(text, Sentence) else text


RECORDED = ("notes", "reasons")
"""Areas whose sentences are saved in files of a run."""


def recorded(text: str) -> dict[str, Any]:
    """Give what a file needs beside a sentence for `Words.retold`; of any other text, nothing."""
    return _plain(text) if isinstance(text, Sentence) else {}


def _plain(value: object) -> Any:
    if isinstance(value, Sentence):
        return {
            "key": value.key,
            "values": {name: _plain(one) for name, one in value.values.items()},
        }
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, int | float) else str(value)


class Words:
    """The catalogue in one language, and how that language writes numbers and dates."""

    def __init__(self, language: str) -> None:
        assert language in LANGUAGES, language
        self.language = language

    def __call__(self, key: str, /, **values: object) -> str:
        """Say a sentence; numbers and sentences among its values are written in the language."""
        area, _, name = key.partition(".")
        texts = catalogue(area, self.language)
        if name not in texts and "count" in values:
            name += "." + self._form(values["count"])
        return _Filler(self).vformat(texts[name], (), values)

    def retold(self, record: Any, name: str) -> str:
        """Say a sentence that a file holds; its text as it is, where no such sentence is known.

        Args:
            record: what the file holds: an object with `recorded`'s entries, or a text alone.
            name: where the object has the text.
        """
        if not isinstance(record, Mapping):
            return str(record)
        try:
            return str(self._retold(record))
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError, RecursionError):
            return str(record.get(name, ""))

    def _retold(self, form: Any) -> Any:
        if isinstance(form, Mapping):
            area = form["key"].partition(".")[0]
            if area not in RECORDED:
                raise KeyError(area)
            values = {name: self._retold(value) for name, value in form["values"].items()}
            return self(form["key"], **values)
        return tuple(map(self._retold, form)) if isinstance(form, list) else form

    def number(self, value: float, digits: int = 0) -> str:
        """Write a number with grouped thousands: 1,234.5 and 1 234,5."""
        plain = f"{value:,.{digits}f}"
        signs = str.maketrans({",": self("formats.group"), ".": self("formats.decimal")})
        return plain.translate(signs).replace("-", "\u2212")

    def percent(self, value: float, digits: int = 1) -> str:
        """Write a percentage: 97.1% and 97,1 %."""
        return self("formats.percent", number=self.number(value, digits))

    def duration(self, seconds: float) -> str:
        """Write a length of time in its two largest units: 1 h 30 min, 3 min 58 s, 0.7 s."""
        if seconds < 10:
            return f"{self.number(seconds, 1)}{_WIDE}s"
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
        first = next(place for place, (count, _) in enumerate(parts) if count)
        shown = [(count, unit) for count, unit in parts[first : first + 2] if count]
        return " ".join(f"{self.number(count)}{_WIDE}{unit}" for count, unit in shown)

    def date(self, moment: datetime) -> str:
        """Write a day and its time: 24 November 2026, 10:19."""
        day = self("formats.first_day") if moment.day == 1 else str(moment.day)
        month = self(f"formats.month.{moment.month}")
        clock = f"{moment:%H:%M}"
        return self("formats.date", day=day, month=month, year=str(moment.year), time=clock)

    def _form(self, count: object) -> str:
        """Choose a plural: in French 0 and 1 are singular, in English 1 alone."""
        assert isinstance(count, int), count
        return "one" if count == 1 or (count == 0 and self.language == "fr") else "other"

    def written(self, value: object, spec: str = "") -> str:
        """Write a value as `format` does, with the language's signs: .3f, .1%, or none at all.

        The spec of a tuple is what stands between its parts, each of which is written in its turn.
        A spec `row|rows` gives the singular or the plural that goes with the number.
        """
        if isinstance(value, Sentence):
            return self(value.key, **value.values)
        if isinstance(value, tuple):
            return spec.join(map(self.written, value))
        singular, divided, plural = spec.partition("|")
        if divided:
            return singular if self._form(value) == "one" else plural
        if isinstance(value, bool) or not isinstance(value, int | float):
            return format(value, spec)
        if isinstance(value, int) and not spec:
            return self.number(value)
        signs = str.maketrans({",": self("formats.group"), ".": self("formats.decimal")})
        text = format(value, spec).translate(signs)
        number = text.removesuffix("%")
        return self("formats.percent", number=number) if number != text else text


class _Filler(Formatter):
    """Fills the places of a sentence with values as a language writes them."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def format_field(self, value: object, format_spec: str) -> str:
        return self.words.written(value, format_spec)


@cache
def catalogue(area: str, language: str) -> Mapping[str, str]:
    """Read one area of the catalogue, from keys to sentences."""
    file = resources.files("quatrain") / "catalogue" / f"{area}.{language}.json"
    texts: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return {key: _typeset(text) for key, text in texts.items()} if language == "fr" else texts


def _typeset(text: str) -> str:
    """Put the spaces of French typography where the file has plain ones: « oui » and oui ?"""
    text = re.sub(r" (?=[;!?%])", _NARROW, text)
    return re.sub(r" (?=[:»])|(?<=«) ", _WIDE, text)
