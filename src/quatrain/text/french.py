"""French normalising: two answers are the same when their normal forms are. Not for model input.

What does not count:
    case, NFC or NFD, soft hyphens       Évry = évry (accents themselves count: ou, où)
    quotes and punctuation               « Paris ». = Paris
    the shape of apostrophe and hyphen   l’eau = l'eau, Jean-Paul = Jean‑Paul = Jean Paul
    ligatures                            cœur = coeur
    the articles le la les l' un une     l'eau = eau; le as a pronoun goes too
    a leading partitive or plural        du pain, de la mie, de l'eau, des amis = pain, ...
    thousands spaces, decimal sign       1 000 = 1000, 3.5 = 3,5 (1.000.000 = 1000000)
    the space before a symbol            5 % = 5%
    abbreviations, units, times          U.R.S.S. = URSS, 14h30 = 14:30 (shorthand.py)

What does count:
    the preposition de, d'               verre d'eau is not verre eau; du, des, de la, de l'
                                         become de inside: port de la ville = port de ville
    the preposition à                    au, aux become à: au marché = à le marché
    un, une after a number word          cent un is not cent; vingt et un is not vingt
    signs and separators of numbers      -5 is not 5, 3,5 is not 35, 1/2 is not 12
    symbols                              5 % is not 5, C++ is not C

Elisions are split and given their e: qu'il = que il. Other apostrophes stay: aujourd'hui,
prud'homme, quelqu'un, presqu'île. Number words are left as they are.
A text of which nothing would remain keeps its articles ("Le"), or its signs ("?").
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from quatrain.text.shorthand import ordinals, spelt, without_points

ELIDED_ARTICLE = "l'"
ELISIONS = frozenset(
    ["l", "d", "qu", "j", "n", "s", "c", "m", "t", "jusqu", "lorsqu", "puisqu", "quoiqu"]
)
ARTICLES = frozenset(["le", "la", "les", "un", "une", ELIDED_ARTICLE])
CONTRACTIONS = {"du": "de", "des": "de", "au": "à", "aux": "à"}
NUMBER_WORDS = frozenset(
    "vingt vingts trente quarante cinquante soixante septante huitante octante nonante cent cents "
    "mille million millions milliard milliards virgule moins numéro".split()
)
SYMBOLS = frozenset("%‰°#&@")
NUMBER_SEPARATORS = frozenset(".,:/")

_APOSTROPHES = "\u2019\u2018\u02bc\u2032\u00b4\uff07"
_HYPHENS = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_FOLDED = (
    dict.fromkeys(_APOSTROPHES, "'")
    | dict.fromkeys(_HYPHENS, "-")
    | {"ᵉ": "e", "ʳ": "r", "ᵐ": "m", "º": "°", "ᵒ": "°", "№": "n°"}
    | {"œ": "oe", "æ": "ae", "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"}
)
_THOUSANDS_BY_POINTS = re.compile(r"-?[0-9]{1,3}(,[0-9]{3}){2,}")
_FIRST_GROUP = re.compile(r"-?[0-9]{1,3}")
_NEXT_GROUP = re.compile(r"[0-9]{3}")
_LAST_GROUP = re.compile(r"[0-9]{3}(,[0-9]+)?")


def normalise(text: str) -> str:
    """Give the normal form of a text: its tokens, joined by single spaces.

        "« L’Élysée », 1 000 m²"  ->  "élysée 1000 m²"

    Applying it twice changes nothing. Only a text without a visible character gives "".
    """
    return " ".join(tokens(text))


def tokens(text: str) -> list[str]:
    """Give the words, numbers and symbols by which a text is compared.

    Leaving words out may join others that have a shorter spelling, so this repeats until stable.
    """
    found = _once(ordinals(unicodedata.normalize("NFC", text)))
    while (again := _once(" ".join(found))) != found:
        found = again
    return found


def _once(text: str) -> list[str]:
    folded = fold(text)
    words = _split_elisions(_spaced(without_points(folded)).split())
    kept = _join_thousands(_drop_articles(spelt(words)))
    return kept or words or folded.split() or text.split()


def overlap(found: Sequence[str], gold: Sequence[str]) -> float:
    """Give the F1 of two token lists: 2 x shared / (sum of lengths); 1 for two empty ones."""
    if not found or not gold:
        return float(not found and not gold)
    shared = (Counter(found) & Counter(gold)).total()
    return 2 * shared / (len(found) + len(gold))


def fold(text: str) -> str:
    """Undo differences of encoding, case and letter forms; drop invisible characters."""
    for sign in set(text):
        if unicodedata.category(sign) == "Cf":
            text = text.replace(sign, "")
    lowered = unicodedata.normalize("NFC", text).lower()
    for sign in _FOLDED.keys() & set(lowered):
        lowered = lowered.replace(sign, _FOLDED[sign])
    return unicodedata.normalize("NFC", lowered)


def _spaced(folded: str) -> str:
    """Replace each sign that is not part of a word by a space; put spaces around symbols."""
    padded = f" {folded} "
    pieces = []
    for i, sign in enumerate(folded, start=1):
        pieces.append(_piece(padded, i, sign))
    return "".join(pieces)


def _piece(padded: str, i: int, sign: str) -> str:
    """Choose what replaces the i-th sign: itself, itself between spaces, a comma or a space."""
    category = unicodedata.category(sign)
    before, after = padded[i - 1], padded[i + 1]
    if category[0] in "LNM":
        return sign
    if sign == "-":  # a sign of a number, or what joins two words
        return " -" if after.isdigit() and not _in_word(before) else " "
    if sign == "'":
        return _apostrophe(padded, i)
    if sign in NUMBER_SEPARATORS and before.isdigit() and after.isdigit():
        return "," if sign == "." else sign
    if category in ("Sc", "Sm") or sign in SYMBOLS:
        return f" {sign} "
    return " "


def _in_word(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LNM"


def _apostrophe(padded: str, i: int) -> str:
    """Keep an apostrophe inside a word; let an elision end its own word."""
    if _ends_elision(padded, i):
        return "' "
    return "'" if _in_word(padded[i - 1]) and _in_word(padded[i + 1]) else " "


def _ends_elision(padded: str, i: int) -> bool:
    """Say whether the apostrophe at i ends an elision: twice in d'l'eau, never in rock'n'roll.

    An earlier one that follows no word only opens a quotation: 'l'eau'.
    """
    start = i
    while _in_word(padded[start - 1]):
        start -= 1
    if padded[start:i] not in ELISIONS:
        return False
    quoted = padded[start - 1] == "'" and not _in_word(padded[start - 2])
    return padded[start - 1] != "'" or quoted or _ends_elision(padded, start - 1)


def _split_elisions(words: list[str]) -> list[str]:
    """Give each elided word its e back, except l', which may be le or la."""
    return [
        word[:-1] + "e" if word.endswith("'") and word != ELIDED_ARTICLE else word for word in words
    ]


def _drop_articles(words: list[str]) -> list[str]:
    """Drop the articles; decisions look at the words kept so far, so a second pass agrees."""
    kept: list[str] = []
    for word, following in zip(words, [*words, ""][1:], strict=True):
        partitive = word in ("du", "des") or (word == "de" and following in ("la", ELIDED_ARTICLE))
        if partitive and not kept:
            continue
        if word in ARTICLES and not (word in ("un", "une") and _after_number(kept)):
            continue
        kept.append(CONTRACTIONS.get(word, word))
    return kept


def _after_number(kept: list[str]) -> bool:
    words = kept[:-1] if kept[-1:] == ["et"] else kept
    return bool(words) and words[-1] in NUMBER_WORDS


def _join_thousands(words: list[str]) -> list[str]:
    """Join the groups of three digits of one number: 1 234 567,8 and 1.234.567 alike."""
    joined: list[str] = []
    open_number = False
    for word in words:
        if open_number and _LAST_GROUP.fullmatch(word):
            joined[-1] += word
            open_number = _NEXT_GROUP.fullmatch(word) is not None
            continue
        by_points = _THOUSANDS_BY_POINTS.fullmatch(word) is not None
        joined.append(word.replace(",", "") if by_points else word)
        open_number = _FIRST_GROUP.fullmatch(word) is not None
    return joined
