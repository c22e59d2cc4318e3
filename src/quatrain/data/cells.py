"""Cells: what a spreadsheet displays for a value, given the number format of its cell.

    25 %            0.25     "0 %"              36 013      36013    "#,##0"
    01001           1001     "00000"            13 juil. 98 35989    "d mmm yy"

A format is read as the file has it, with the point and the comma of English; what is shown has the
signs and names of the sheet's language. Not for reading workbooks (workbook.py).
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import NamedTuple

Value = int | float | datetime.date | datetime.time | datetime.timedelta
Language = Callable[[], str]
"""Gives `fr` or `en`; asked only where it matters."""

_TOKEN = re.compile(
    r"""(?P<literal>"[^"]*"|\\.) | (?P<nothing>_.|\*.) | (?P<bracket>\[[^\]]*\])
    | (?P<half>AM/PM|A/P)
    | (?P<general>General|Standard) | (?P<date>y+|m+|d+|h+|s+|e+(?![+-])) | (?P<exponent>E[+-])
    | (?P<digit>[0#?]) | (?P<point>\.) | (?P<comma>,) | (?P<percent>%) | (?P<slash>/) | (?P<text>@)
    | (?P<other>.)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BETWEEN_SECTIONS = re.compile(r'("[^"]*"|\\.|_.|\*.|\[[^\]]*\])|;', re.DOTALL)
_CONDITION = re.compile(r"\[(<=|>=|<>|<|>|=)(-?[\d.]+)\]")
_COLOUR = re.compile(r"\[(black|blue|cyan|green|magenta|red|white|yellow|color ?\d+)\]", re.I)
_MONEY = re.compile(r"\[\$([^\]-]*)(?:-([^\]]*))?\]")
_ELAPSED = re.compile(r"\[(h+|m+|s+)\]", re.I)
_PLAIN = re.compile(r"[ 1-9\-+/():!^&'~{}<>=$€£¥\u00a0\u202f°,.;%]")
_SHORT_DATES = {"fr": "dd/mm/yyyy", "en": "m/d/yyyy"}
_SYSTEM = {
    "f800": {"fr": "dddd d mmmm yyyy", "en": "dddd, mmmm d, yyyy"},
    "f400": {"fr": "hh:mm:ss", "en": "h:mm:ss AM/PM"},
}
_SYSTEM |= {"x-sysdate": _SYSTEM["f800"], "x-systime": _SYSTEM["f400"]}
_BUILT_IN = {"mm-dd-yy": "", "m/d/yy h:mm": " h:mm"}
"""The format name for the reader's short date."""
_SIGNS = {"fr": (",", "\u202f"), "en": (".", ",")}
_EPOCH = datetime.datetime(1899, 12, 30)
_NAMES = {
    "fr": (
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
        "lun. mar. mer. jeu. ven. sam. dim.",
    ),
    "en": (
        "January February March April May June July August September October November December",
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "Mon Tue Wed Thu Fri Sat Sun",
    ),
}


class _Unknown(Exception):
    """A number format that is not supported."""


class _Token(NamedTuple):
    kind: str
    text: str


def truth(value: bool, language: Language) -> str:
    """Write true or false as a spreadsheet does."""
    return {"fr": ("FAUX", "VRAI"), "en": ("FALSE", "TRUE")}[language()][value]


def shown(value: Value, code: str, language: Language) -> str | None:
    """Write a number, a date or a time by a format; None where the format is not known.

    Args:
        value: the cell's value; a truth value is none of them.
        code: its number format, as the file has it.
        language: whose signs and names are used where the format names none.
    """
    try:
        if code in _BUILT_IN:
            code = _SHORT_DATES[language()] + _BUILT_IN[code]
        tokens, explicit = _section(value, code)
        if any(token.kind in ("date", "elapsed") for token in tokens):
            text = _date(value, tokens, language)
        else:
            text = _number(_serial(value), tokens, language, explicit)
    except (_Unknown, OverflowError, ValueError, ArithmeticError):
        return None
    text = text.strip()
    return text or None


def plain(value: Value, language: Language) -> str:
    """Write a value without a format: a number with its digits, a date in ISO 8601."""
    if isinstance(value, int | float):
        return _general(Decimal(repr(value)), language)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return str(value)


def _section(value: Value, code: str) -> tuple[list[_Token], bool]:
    """Choose the section of a format for a value, and say whether it writes the sign itself."""
    sections = _BETWEEN_SECTIONS.sub(lambda match: match[1] or "\0", code).split("\0")
    number = _serial(value)
    conditions = [_CONDITION.search(one) for one in sections]
    if any(conditions):
        for one, condition in zip(sections, conditions, strict=True):
            if condition is None or _holds(number, condition):
                return _tokens(_CONDITION.sub("", one)), False
        raise _Unknown
    numeric = sections[:3]
    if number < 0 and len(numeric) > 1:
        return _tokens(numeric[1]), True
    if number == 0 and len(numeric) > 2:
        return _tokens(numeric[2]), True
    return _tokens(numeric[0]), False


def _holds(number: Decimal, condition: re.Match[str]) -> bool:
    sign, bound = condition[1], Decimal(condition[2])
    return {"<": number < bound, "<=": number <= bound, ">": number > bound,
            ">=": number >= bound, "=": number == bound, "<>": number != bound}[sign]  # fmt: skip


def _tokens(section: str) -> list[_Token]:
    """Split a section into its parts; colours, fillings and widths are ignored."""
    found: list[_Token] = []
    for match in _TOKEN.finditer(section):
        kind, text = str(match.lastgroup), match[0]
        if kind == "literal":
            found.append(_Token(kind, text[1:-1] if text[0] == '"' else text[1:]))
        elif kind == "bracket":
            found += _bracket(text)
        elif kind == "other":
            if not _PLAIN.match(text):
                raise _Unknown
            found.append(_Token("literal", text))
        elif kind != "nothing":
            found.append(_Token(kind, text))
    return found


def _bracket(text: str) -> list[_Token]:
    if elapsed := _ELAPSED.fullmatch(text):
        return [_Token("elapsed", elapsed[1].lower())]
    if _COLOUR.fullmatch(text):
        return []
    money = _MONEY.fullmatch(text)
    if money is None:
        raise _Unknown
    sign, place = money[1], (money[2] or "").lower()
    return [_Token("literal", sign)] if sign else [_Token("locale", place)]


def _serial(value: Value) -> Decimal:
    """Give the number that stands for a value in the file."""
    if isinstance(value, int | float):
        return Decimal(repr(value))
    if isinstance(value, datetime.timedelta):
        return Decimal(value / datetime.timedelta(days=1))
    return Decimal((_moment(value) - _EPOCH) / datetime.timedelta(days=1))


def _moment(value: Value) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time())
    if isinstance(value, datetime.time):
        return datetime.datetime.combine(_EPOCH.date(), value)
    since = value if isinstance(value, datetime.timedelta) else datetime.timedelta(days=value)
    return _EPOCH + since


def _date(value: Value, tokens: Sequence[_Token], language: Language) -> str:
    """Write a date or a time; m is minutes beside hours or seconds, and months elsewhere."""
    moment = _moment(value) + datetime.timedelta(milliseconds=500)
    elapsed = moment - _EPOCH
    parts = [token for token in tokens if token.kind in ("date", "elapsed")]
    place = next((token.text for token in tokens if token.kind == "locale"), "")
    if place in _SYSTEM:
        return _date(value, _tokens(_SYSTEM[place][language()]), language)
    half = any(token.kind == "half" for token in tokens)
    texts, position, skipped = [], -1, False
    for index, token in enumerate(tokens):
        if token.kind in ("date", "elapsed"):
            position += 1
            around = [parts[n].text[0].lower() for n in (position - 1, position + 1)
                      if 0 <= n < len(parts)]  # fmt: skip
            before, after = (around[:1] if position else []), around[-1:]
            minutes = token.text[0].lower() == "m" and ("h" in before or "s" in after)
            if token.kind == "elapsed":
                texts.append(_elapsed(elapsed, token.text))
            else:
                texts.append(_part(moment, token.text.lower(), minutes, half, place, language))
        elif token.kind == "half":
            texts.append("AM" if moment.hour < 12 else "PM")
        elif token.kind in ("literal", "slash", "comma", "point"):
            skipped = token.kind == "point" and tokens[index + 1 :][:1] == [_Token("digit", "0")]
            texts.append("" if skipped else token.text)
        elif token.kind not in ("locale", "text", "digit") or (
            token.kind == "digit" and not skipped
        ):
            raise _Unknown
    return "".join(texts)


def _elapsed(since: datetime.timedelta, text: str) -> str:
    unit = {"h": 3600, "m": 60, "s": 1}[text[0]]
    return str(int(since.total_seconds()) // unit).zfill(len(text))


def _part(
    moment: datetime.datetime, text: str, minutes: bool, half: bool, place: str, language: Language
) -> str:
    kind, size = text[0], len(text)
    if kind == "y":
        return f"{moment.year:04}" if size > 2 else f"{moment.year % 100:02}"
    if kind in "md" and size > 2 and not minutes:
        return _name(moment, kind, size, place, language)
    hour = (moment.hour % 12 or 12) if half else moment.hour
    number = {"m": moment.minute if minutes else moment.month, "d": moment.day, "h": hour,
              "s": moment.second}.get(kind)  # fmt: skip
    if number is None:
        raise _Unknown
    return str(number).zfill(min(size, 2))


def _name(moment: datetime.datetime, kind: str, size: int, place: str, language: Language) -> str:
    months, short_months, days, short_days = _NAMES[_language_of(place, language)]
    if kind == "d":
        return (short_days if size == 3 else days).split()[moment.weekday()]
    name = (short_months if size == 3 else months).split()[moment.month - 1]
    return name[0].upper() if size == 5 else name


def _language_of(place: str, language: Language) -> str:
    """Find the language that a format names by number or code; by default, that of the sheet."""
    code = place.split(",")[0]
    if not code or code.startswith("x-"):
        return language()
    if code[:2] in _NAMES and not re.fullmatch("[0-9a-f]+", code):
        return code[:2]
    if re.fullmatch("[0-9a-f]+", code):
        primary = int(code, 16) & 0x3FF
        if primary == 0x00:
            return language()
        if primary in (0x0C, 0x09):
            return "fr" if primary == 0x0C else "en"
    raise _Unknown


def _number(number: Decimal, tokens: list[_Token], language: Language, explicit: bool) -> str:
    kinds = [token.kind for token in tokens]
    if "half" in kinds or kinds.count("point") > 1 or kinds.count("slash") > 1:
        raise _Unknown
    sign = "-" if number < 0 and not explicit else ""
    size = abs(number)
    if "general" in kinds or "text" in kinds:
        texts = [_general(size, language) if token.kind in ("general", "text") else
                 token.text for token in tokens if token.kind != "locale"]  # fmt: skip
        return sign + "".join(texts)
    if "digit" not in kinds:
        return "".join(token.text for token in tokens if token.kind == "literal")
    size *= 100 ** kinds.count("percent")
    if "slash" in kinds:
        return sign + _fraction(size, tokens)
    if "exponent" in kinds:
        return sign + _scientific(size, tokens, language)
    text = _fixed(size, tokens, language)
    return sign + text if re.search("[1-9]", text) else text


def _general(number: Decimal, language: Language) -> str:
    """Write a number with the digits of a wide cell: eleven signs, and all of a whole number."""
    if number == number.to_integral_value():
        return f"{number:.0f}" if abs(number) < 10**16 else f"{float(number):.6G}"
    small = abs(number) < 1
    if abs(number) < Decimal("1e-4"):
        text = f"{float(number):.6G}"
    else:
        whole = len(str(int(abs(number))))
        text = f"{_rounded(number, 9 if small else max(0, 10 - whole))}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace(".", _SIGNS[language()][0])


def _rounded(number: Decimal, digits: int) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)


def _fixed(size: Decimal, tokens: Sequence[_Token], language: Language) -> str:
    """Fill the digits of a format from the point outwards."""
    kinds = [token.kind for token in tokens]
    digits = [index for index, kind in enumerate(kinds) if kind == "digit"]
    if not digits:
        raise _Unknown
    point = kinds.index("point") if "point" in kinds else len(tokens)
    before = [index for index in digits if index < point]
    after = [index for index in digits if index > point]
    commas = [index for index, kind in enumerate(kinds) if kind == "comma"]
    grouped = bool(before) and any(before[0] < index < before[-1] for index in commas)
    thousands = next(n for n in itertools.count() if digits[-1] + n + 1 not in commas)
    size = _rounded(size / 1000**thousands, len(after))
    whole, _, decimals = f"{size:f}".partition(".")
    group = _SIGNS[language()][1] if grouped else ""
    filled = _whole(whole.lstrip("0"), tokens, before, group)
    filled |= _decimals(decimals, tokens, after)
    if point < len(tokens):
        filled[point] = _SIGNS[language()][0]
    return "".join(filled.get(index, "" if token.kind in ("comma", "locale") else token.text)
                   for index, token in enumerate(tokens))  # fmt: skip


def _whole(
    digits: str, tokens: Sequence[_Token], places: Sequence[int], group: str
) -> dict[int, str]:
    """Give each place before the point its digit, and the first one all that are left."""
    filled, count = {}, 0
    for place in reversed(places):
        first = place == places[0]
        taken, digits = (digits, "") if first else (digits[-1:], digits[:-1])
        if not taken:
            taken = "0" if tokens[place].text == "0" else ""
        text = ""
        for digit in reversed(taken):
            separated = bool(group) and count and count % 3 == 0
            text, count = digit + (group if separated else "") + text, count + 1
        filled[place] = text
    return filled


def _decimals(digits: str, tokens: Sequence[_Token], places: Sequence[int]) -> dict[int, str]:
    filled, needed = {}, False
    for place, digit in reversed(list(zip(places, digits, strict=True))):
        needed = needed or digit != "0" or tokens[place].text == "0"
        filled[place] = digit if needed else ""
    return filled


def _scientific(size: Decimal, tokens: Sequence[_Token], language: Language) -> str:
    at = next(index for index, token in enumerate(tokens) if token.kind == "exponent")
    mantissa, exponent = tokens[:at], tokens[at + 1 :]
    point = next((i for i, token in enumerate(mantissa) if token.kind == "point"), at)
    step = max(1, sum(token.kind == "digit" for token in mantissa[:point]))
    decimals = sum(token.kind == "digit" for token in mantissa[point:])
    power = (size.adjusted() // step) * step if size else 0
    if _rounded(size.scaleb(-power), decimals) >= 10**step:
        power += step
    sign = "-" if power < 0 else "+" if tokens[at].text[1] == "+" else ""
    width = sum(token.kind == "digit" for token in exponent)
    rest = "".join(token.text for token in exponent if token.kind == "literal")
    return f"{_fixed(size.scaleb(-power), mantissa, language)}E{sign}{abs(power):0{width}}{rest}"


def _fraction(size: Decimal, tokens: Sequence[_Token]) -> str:
    """Write a fraction with a denominator of so many digits, or the one that the format names."""
    code = "".join(token.text for token in tokens if token.kind in ("digit", "slash", "literal"))
    match = re.fullmatch(r"(?:([0#?]+) +)?([0#?]+) ?/ ?([0#?]+|[1-9]\d*)\s*", code)
    if match is None:
        raise _Unknown
    whole = int(size) if match[1] else 0
    rest = Fraction(size) - whole
    if match[3].strip("0#?"):
        denominator = int(match[3])
        numerator = round(rest * denominator)
    else:
        rest = rest.limit_denominator(10 ** len(match[3]) - 1)
        numerator, denominator = rest.numerator, rest.denominator
    if match[1] and numerator == denominator:
        whole, numerator = whole + 1, 0
    if match[1] and numerator == 0:
        return str(whole)
    return f"{whole} {numerator}/{denominator}" if whole else f"{numerator}/{denominator}"
