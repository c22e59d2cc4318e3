"""Answers: the gold answers of a row, and whether its question is marked as unanswerable.

    ["Paris", "Lutèce"], [{"text": ...}], {"text": [...], ...}    gold answers
    [], {"text": [], ...}, is_impossible: true                    no answer
    null, {}, [" "]                                               the answer is missing

Not for the text that is learnt when there is no answer (parse.py).
"""

from __future__ import annotations

from typing import Any

from quatrain.data.columns import Row
from quatrain.data.json_rows import kind_of
from quatrain.data.values import Unfit, decoded, excerpt, is_nothing, is_text, text_of, truth_of


def golds_of(value: Any) -> tuple[str, ...]:
    """Gather gold answers: a list of texts, SQuAD's list of objects, or its object of lists."""
    texts: list[str] = []
    for text in listed(value):
        if not is_text(text):
            raise Unfit("reasons.answers", kind=kind_of(text))
        if (said := text_of(text, "answers")).strip():
            texts.append(said)
    return unique(texts)


def listed(value: Any) -> list[Any]:
    """List the answers in a cell, of any type."""
    value = decoded(value)
    if isinstance(value, dict):
        value = value.get("text", [])
    items = [] if value is None else [value] if is_text(value) else value
    if not isinstance(items, list):
        raise Unfit("reasons.list", name="answers", kind=kind_of(value))
    return [item.get("text") if isinstance(item, dict) else item for item in items]


def unique(texts: list[str]) -> tuple[str, ...]:
    """Remove repeated texts, keeping the order."""
    return tuple(dict.fromkeys(texts))


def has_no_answer(row: Row, golds: tuple[str, ...]) -> bool:
    """Tell whether a question has no answer: it is marked so, or lists none.

    Raises:
        Unfit: the mark and the list contradict each other.
    """
    if "is_impossible" not in row and row.get("answers") is None:
        return False
    impossible, answered = _flag(row, "is_impossible"), not is_nothing(row.get("answer"))
    if impossible and (golds or answered):
        raise Unfit("reasons.impossible")
    if impossible is False and not golds and not answered:
        raise Unfit("reasons.possible")
    held = decoded(row.get("answers"))
    if isinstance(held, dict):
        held = decoded(held.get("text"))
    return bool(impossible) or (held == [] and not answered)


def _flag(row: Row, name: str) -> bool | None:
    """Read a column of true and false, which a table may have as text; None where it is empty."""
    value = row.get(name)
    if is_nothing(value):
        return None
    found = truth_of(value)
    if found is None:
        raise Unfit("reasons.flag", name=name, value=excerpt(value))
    return found
