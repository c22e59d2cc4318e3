"""Plausible: how likely a text in a European language is to have these letters at these places.

Bytes of an old encoding mean something in all of them; only one meaning is a text. Not for reading
files (encodings.py).
"""

from __future__ import annotations

from collections.abc import Iterable

IMPOSSIBLE = -20.0
_RARE, _MISPLACED, _ALONE, _BEGINS_LINE = -5.0, -4.0, -2.0, 0.75
_FREQUENCIES = {
    -0.5: "é",
    -1.0: "èàêç’",
    -1.5: "ùûîôâëïœÉ«»…–—\u00a0\u202f“”¿¡",
    -2.0: "äöüßñáíóúãõåøæÀÇÈÊÔÎŒÂÙÛËÏìòýÄÖÜÁÅØÍÓÚÑŸšž€°",
    -3.0: "ÿÃÕÆÌÒÝðþÐÞŠŽ²³½¼¾£§©®™·ºªµ×÷±‘„‹›†•ğışłąęśćżźńőűčřě",
}
_WEIGHTS = {letter: weight for weight, letters in _FREQUENCIES.items() for letter in letters}
_WITHIN_WORDS = "’·\u00ad\u00a0\u202f"
_ENDS_WORDS = "àùìò"
_WORDS_OF_ONE_LETTER = "àÀéÉèÈôÔóÓåÅöÖáÁòìíÍúÚæ"


def score(words: Iterable[str]) -> float:
    """Sum the logarithms of what the characters beyond ASCII weigh; 0 is what ASCII alone has."""
    return sum(score_of(word) for word in words)


def score_of(word: str) -> float:
    """Weigh one word, which may have punctuation around it, and a line feed before.

    "élève"  ->  -2.0      "lÈtÈ"  ->  -12.0      "‚t‚"  ->  -10.0
    """
    total = 0.0
    for index, letter in enumerate(word):
        if letter.isascii():
            continue
        before = word[index - 1] if index else " "
        after = word[index + 1] if index + 1 < len(word) else " "
        if not letter.isprintable() and letter not in "\u00a0\u202f\u00ad":
            total += IMPOSSIBLE
        else:
            total += _WEIGHTS.get(letter, _RARE)
            total += _place_of_letter(before, letter, after) if letter.isalpha() else (
                _place_of_sign(before, letter, after))  # fmt: skip
    return total


def _place_of_letter(before: str, letter: str, after: str) -> float:
    if before == "\n" and after.islower():
        return _BEGINS_LINE if letter.isupper() else _ALONE
    if letter.isupper() and (before.islower() or (after.islower() and before.isalpha())):
        return _MISPLACED
    if letter.islower() and before.isupper() and after.isupper():
        return _MISPLACED
    if letter.islower() and after.isupper():
        return _MISPLACED
    if letter in _ENDS_WORDS and after.isalpha():
        return _ALONE
    if before.isdigit() or after.isdigit():
        return _ALONE
    alone = not before.isalpha() and not after.isalpha()
    return _ALONE if alone and letter not in _WORDS_OF_ONE_LETTER else 0.0


def _place_of_sign(before: str, letter: str, after: str) -> float:
    if before.isalpha() and after.isalpha():
        return 0.0 if letter in _WITHIN_WORDS else _MISPLACED
    if letter.isnumeric() and after.isalpha():
        return _MISPLACED
    return _ALONE if letter == "…" and before == after == " " else 0.0
