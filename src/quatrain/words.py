"""Words: what is said to a person, in each language, from one catalogue.

The catalogue is a file for each area and language, `catalogue/report.fr.json` and so on, from
dotted keys to sentences with named places: `words("report.records", count=3)`. A key that has the
forms `.one` and `.other` is chosen by `count`. Not for what a program reads (JSON keys, metrics).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import resources

LANGUAGES = ("en", "fr")
_NARROW, _WIDE = "\u202f", "\u00a0"


class Words:
    """The catalogue in one language, and how that language writes numbers and dates."""

    def __init__(self, language: str) -> None:
        assert language in LANGUAGES, language
        self.language = language

    def __call__(self, key: str, **values: object) -> str:
        """Say a sentence; whole numbers among its values are written as the language does."""
        area, _, name = key.partition(".")
        texts = catalogue(area, self.language)
        if name not in texts and "count" in values:
            name += "." + self._form(values["count"])
        said = {place: self._written(value) for place, value in values.items()}
        return texts[name].format(**said)

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

    def _written(self, value: object) -> str:
        return self.number(value) if isinstance(value, int) else str(value)


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
