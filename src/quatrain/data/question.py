"""Question: when two questions, prompts or records are the same, whatever their typography.

One key serves the holdout, the leaks that a run counts, and what an inspection finds. What does
not count:

    case, NFC or NFD, compatibility forms    E (+ U+0301) = É, ﬁ = fi, ligatures: cœur = coeur
    spaces of all kinds, and hidden signs    NBSP and narrow NBSP, a soft hyphen
    the shape of apostrophes and dashes      l’eau = l'eau, 1939–1945 = 1939 - 1945
    quotation marks                          « Paris » = "Paris" = Paris
    the space before a sign, final signs     Où ? = Où? = où

Not for scoring answers (text/french.py).
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

from quatrain.text.conversation import Conversation, Document
from quatrain.text.french import fold

_LONGEST_KEY = 120
_WHOLE_FILE = 1 << 20
_QUOTES = '"“”„‟«»‹›'
_LINES = "—―"
"""Dashes that `fold` leaves, since no word has them."""
_SIGNS = "?!:;,.%)"
_FINAL = " ?!.:;,"


def folded(text: str) -> str:
    """Undo the differences of encoding, case and letter forms, and leave all else."""
    upright = text.replace("\u00b4", "'")  # which NFKC would take for a space and an accent
    return fold(unicodedata.normalize("NFKC", upright).casefold())


def group_key(text: str) -> str:
    """Make one key of texts that differ in case, typography or final punctuation only.

    A long text is replaced by its hash, so that a million contexts need little memory; one of a
    whole file is hashed as it is, since its words are more than memory holds.
    """
    if len(text) > _WHOLE_FILE:
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    plain = " ".join(folded(text).split())
    key = _untypeset(plain)
    key = key.rstrip(_FINAL) or key or plain
    if len(key) <= _LONGEST_KEY:
        return key
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _untypeset(text: str) -> str:
    """Leave out quotation marks, and the spaces around dashes and before signs."""
    for sign in _LINES:
        text = text.replace(sign, "-")
    for quote in _QUOTES:
        if quote in text:
            inner = {"«": "« ", "»": " »", "‹": "‹ ", "›": " ›"}.get(quote, quote)
            text = text.replace(inner, "").replace(quote, "")
    text = f" {text} ".replace(" '", " ").replace("' ", " ")
    text = text.replace(" -", "-").replace("- ", "-")
    for sign in _SIGNS:
        text = text.replace(f" {sign}", sign)
    return text.strip()


@dataclass(frozen=True, slots=True)
class Marks:
    """A record as numbers of 64 bits, which are equal where texts have one key."""

    asked: int
    """All that precedes the last answer, system messages left out: what an exam asks."""
    said: int
    """The last answer, or a document's text."""
    whole: int
    """Both; records of equal numbers are duplicates."""


def mark(text: str) -> int:
    """Give equal numbers of 64 bits to texts of one key."""
    return _number(group_key(text))


def marks(record: Conversation | Document) -> Marks:
    """Mark a record."""
    if isinstance(record, Document):
        text = mark(record.text)
        return Marks(text, text, text)
    before = [mark(m.content) for m in record.messages[:-1] if m.role != "system"]
    asked, said = _joined(before), mark(record.messages[-1].content)
    return Marks(asked, said, _joined([asked, said]))


def taught(record: Conversation | Document) -> list[int]:
    """Mark each prompt to which training on a record teaches an answer, as `Marks.asked` does.

    A dialogue of two answers teaches both: it leaks an exam that asks its first question alone.
    """
    if isinstance(record, Document):
        return [mark(record.text)]
    prompts, before = list[int](), list[int]()
    for message in record.messages:
        if message.role == "assistant" and message.learnt:
            prompts.append(_joined(before))
        if message.role != "system":
            before.append(mark(message.content))
    return prompts


def _joined(turns: list[int]) -> int:
    return turns[0] if len(turns) == 1 else _number(" ".join(map(str, turns)))


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
