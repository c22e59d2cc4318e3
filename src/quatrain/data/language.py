"""Language: recognise the languages of a sample, and wrongly decoded text.

Not for reading files (encodings.py detects their encoding) nor for repairing it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from quatrain.words import Sentence, catalogue

TOO_SHORT, UNSURE = "short", "unsure"
"""Codes for texts whose language cannot be recognised."""

_FEWEST_LETTERS = 20
_SURE = 0.5
_LONGEST = 2000
_CONTINUATION = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_SMALL, _CAPITAL = "a-zß-öø-ÿœ", "À-ÖØ-ÞŒŸŠŽ"
_MOJIBAKE = re.compile(
    rf"[ÂÃ][{_CONTINUATION}]|Å[\u0092\u0093\u00b8’“]|â[€‚„\u0080\u0082\u0084]|ï¿½"
    "|√[©®†¢™´ªß]|‚Ä[ôúùìî¶¢]|[├┬][®¿¬áéíóúñº»ïÇÉäëàèçÂ½¼┤┐ª]|ÔÇ"
    r"|[\u0080-\u0084\u0086-\u009f]"
    rf"|[{_SMALL}][{_CAPITAL}\u0370-\u03ff][{_SMALL}]"
    r"|(?<=[^\W\d_])[‚ƒ„†‡ˆ‰‹›˜¡¢£¤¥¦§¨¯¶¸¹¼½¾¿˘˙˚˝˛ˇ◊\u2500-\u259f](?=[^\W\d_])"
)
"""UTF-8 as Windows-1252, as MacRoman and as DOS reads it; then old encodings taken for each other:
control characters, and capitals or signs within words."""
_LOST = "\ufffd"


def languages(texts: Iterable[str]) -> dict[str, int] | None:
    """Count texts by language, most frequent first; None where py3langid is not installed.

    A short text has too few letters to tell, and is counted so.
    """
    identify = _identifier()
    if identify is None:
        return None
    found: Counter[str] = Counter()
    for text in texts:
        part = text[:_LONGEST]
        if sum(map(str.isalpha, part)) < _FEWEST_LETTERS:
            found[TOO_SHORT] += 1
        else:
            language, share = identify(part)
            found[language if share >= _SURE else UNSURE] += 1
    return dict(found.most_common())


def name_of(language: str) -> str:
    """Name a language, in English to a program; a rare one keeps its code."""
    known = language in catalogue("languages", "en")
    return Sentence.of(f"languages.{language}") if known else language


_MARKUP = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|em|strong|ul|ol|li|h[1-6]|table|t[rdh]|font)(?:\s[^<>]*)?/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|apos|[lr]aquo|[lr][sd]quo|hellip|euro|oelig|[mn]dash"
    r"|[a-z](?:acute|grave|circ|uml|cedil|tilde)|#\d{2,5}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)
"""What editors of websites write; code that is asked about may hold it rightly."""


def mojibake(text: str) -> str | None:
    """Find text that was read in another encoding: the first such place, with what is around it.

    "un Ã©lÃ¨ve"  ->  "un Ã©lÃ¨ve"      "l'élève à »"  ->  None
    """
    if text.isascii():
        return None
    found = _MOJIBAKE.search(text)
    return None if found is None else text[max(0, found.start() - 20) : found.end() + 20]


def markup(text: str) -> str | None:
    """Find a tag or a character as HTML writes it: the first one.

    "<p>Le 3&nbsp;mai</p>"  ->  "<p>"      "si a < b et c > d"  ->  None
    """
    if "<" not in text and "&" not in text:
        return None
    found = _MARKUP.search(text)
    return None if found is None else found[0]


def is_lossy(text: str) -> bool:
    """Say whether a text has U+FFFD, which stands where a character was lost for good."""
    return _LOST in text


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
