"""Shorthand: abbreviations, units, times and ordinals in one spelling each, for comparing.

docs/data.md lists them. Each rule gives a spelling that no other rule changes, so repeating the
rules comes to an end. Not for articles, quotes and numbers (french.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

COUNTS = frozenset(
    "zéro deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize "
    "vingt vingts trente quarante cinquante soixante septante huitante octante nonante cent cents "
    "mille million millions milliard milliards".split()
)
"""Words that count, as un and une may not."""
_WORDS = {
    "mme": "madame", "mmes": "mesdames", "mlle": "mademoiselle", "mlles": "mesdemoiselles",
    "mr": "monsieur", "premier": "1er", "première": "1re", "1ère": "1re", "1ere": "1re",
    "euro": "€", "euros": "€", "dollar": "$", "dollars": "$", "&": "et", "pourcent": "%",
}  # fmt: skip
_TITLES = {
    "dr": "docteur", "drs": "docteurs", "pr": "professeur", "st": "saint", "ste": "sainte",
    "sts": "saints", "stes": "saintes",
}  # fmt: skip
"""Before a word, but not after a number."""
_UNITS = {
    "kilomètre": "km", "mètre": "m", "centimètre": "cm", "millimètre": "mm", "kilogramme": "kg",
    "kilo": "kg", "gramme": "g", "litre": "l", "heure": "h", "minute": "min", "degré": "°",
}  # fmt: skip
"""After a number, in the singular or the plural."""
_PHRASES: dict[tuple[str, ...], str] = {
    ("n", "°"): "numéro",
    ("jésus", "christ"): "jc",
}
_SPEED = (("km", "kilomètre", "kilomètres"), ("à", "par"), ("heure", "h"))
_SIDES = {"av": "avant", "ap": "après", "apr": "après"}
"""Before J.-C."""

_INITIALS = re.compile(
    r"(?<![\w.])(?:[^\W\d_]\.[\s-]*)+[^\W\d_]\.(?!\w)|(?<![\w.])(?:[^\W\d_]\.)+[^\W\d_](?![\w'])"
)
_MISTER = re.compile(r"(?<![\w.])(mm?)\.\s+(?=[^\W\d_]{2})")
_LARGE_ORDINAL = re.compile(r"(?<!\w)([IVX]+)(er|re|ère|ere|e|è|i?[èe]me|ᵉʳ|ʳᵉ|ᵉ)(?!\w)")
_SMALL_ORDINAL = re.compile(r"([ivx]{2,}|[0-9]+)(?:e|è|i?[èe]me)")
_ROMAN = re.compile(r"(X{0,3})(IX|IV|V?I{0,3})")
_VALUES = {"I": 1, "IV": 4, "V": 5, "IX": 9, "X": 10}
_CLOCK = re.compile(r"0?([0-9]|1[0-9]|2[0-4])(?:h([0-5][0-9])?(?:min)?|:([0-5][0-9]))")
_MEASURE = re.compile(r"([0-9]+(?:,[0-9]+)?)(km|cm|mm|kg|min)")
"""A number and its unit in one word; not 5g or 5m, which have other meanings too."""
_MINUTES = re.compile(r"[0-5][0-9]")


def ordinals(text: str) -> str:
    """Write ordinals in Roman capitals with digits, while capitals still tell VIe from vie."""
    return _LARGE_ORDINAL.sub(_in_digits, text)


def _in_digits(found: re.Match[str]) -> str:
    number, first = _value(found[1]), found[2] in ("er", "re", "ère", "ere", "ᵉʳ", "ʳᵉ")
    if number is None or first != (number == 1):
        return found[0]
    if not first:
        return f"{number}e"
    return "1er" if found[2] in ("er", "ᵉʳ") else "1re"


def _value(roman: str) -> int | None:
    """Give the number from 1 to 39 that a Roman numeral stands for; None for another text."""
    found = _ROMAN.fullmatch(roman.upper())
    if found is None or not roman:
        return None
    tens, units = found.groups()
    rest = units if units in _VALUES else units.lstrip("V")
    return 10 * len(tens) + (_VALUES[units] if units in _VALUES else 5 * ("V" in units) + len(rest))


def without_points(folded: str) -> str:
    """Join initials, U.R.S.S. and J.-C., and spell M. and MM. before a name."""
    joined = _INITIALS.sub(lambda found: re.sub(r"[\s.-]", "", found[0]) + " ", folded)
    return _MISTER.sub(_mister, joined)


def _mister(found: re.Match[str]) -> str:
    before = found.string[: found.start()].split()
    if before and _counts(before[-1]):
        return found[0]
    return "monsieur " if found[1] == "m" else "messieurs "


def spelt(words: Sequence[str]) -> list[str]:
    """Give words their one spelling, from the first to the last."""
    done: list[str] = []
    left = [part for word in words for part in _parts(word)]
    while left:
        taken, spelling = _next(done[-1] if done else "", left)
        done += spelling
        left = left[taken:]
    return done


def _parts(word: str) -> list[str]:
    """Split a time or a measure, and write an ordinal or a word in its one spelling."""
    if clock := _CLOCK.fullmatch(word):
        minutes = clock[2] or clock[3]
        return [clock[1], "h", *([minutes] if minutes and minutes != "00" else [])]
    if measure := _MEASURE.fullmatch(word):
        return [measure[1], measure[2]]
    if (ordinal := _SMALL_ORDINAL.fullmatch(word)) and word != "vie":
        number = ordinal[1] if ordinal[1].isdigit() else _value(ordinal[1])
        return [word if number is None else f"{number}e"]
    return [_WORDS.get(word, word)]


def _next(before: str, left: list[str]) -> tuple[int, list[str]]:
    """Spell what comes next: how many words it takes, and what they become."""
    word, *others = left
    after = others[0] if others else ""
    counted = _counts(before)
    for phrase, spelling in _PHRASES.items():
        if tuple(left[: len(phrase)]) == phrase:
            return len(phrase), [spelling]
    if all(one in kind for one, kind in zip(left, _SPEED, strict=False)) and len(left) > 2:
        return 3, ["km", "h"]
    if counted and word == "pour" and after in ("cent", "mille"):
        return 2, ["%" if after == "cent" else "‰"]
    if after == "jc" and word in _SIDES:
        return 1, [_SIDES[word]]
    if word == "no" and after[:1].isdigit():
        return 1, ["numéro"]
    if after[:1].isalpha() and word in _TITLES and not counted:
        return 1, [_TITLES[word]]
    if counted and word.removesuffix("s") in _UNITS:
        return 1, [_UNITS[word.removesuffix("s")]]
    if before == "h" and _MINUTES.fullmatch(word) and (after in ("min", "minutes") or word == "00"):
        return 1 + (after in ("min", "minutes")), [] if word == "00" else [word]
    return 1, [word]


def _counts(word: str) -> bool:
    return word in COUNTS or word[-1:].isdigit()
