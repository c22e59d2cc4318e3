"""Columns: the meaning of a file's columns, from their names or data.columns, and the shape.

    instruction, input, output     one reading: alpaca
    prompt, completion, messages   two readings: an error asks the user to choose
    instruction, output, text      one reading: text was made from the others

Not for what the cells hold (values.py, turns.py).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from typing import Any

from quatrain.data.values import Unfit, decoded, is_nothing, truth_of
from quatrain.errors import DataError

SHAPES = ("alpaca", "messages", "sharegpt", "squad", "text")
MEANINGS = (
    "question", "context", "answer", "answers", "messages", "text", "system", "history",
)  # fmt: skip
"""What data.columns can name."""
_ASKS = ("question", "instruction", "consigne")
_INPUTS = ("input", "entrée", "entree")
"""The context of an instruction; without one, the question."""
_ALIASES = {
    "question": (*_ASKS, "prompt", "query"),
    "context": ("context", "contexte", *_INPUTS),
    "answer": ("answer", "output", "response", "completion", "réponse", "reponse", "sortie"),
    "answers": ("answers", "gold", "réponses", "reponses"),
    "text": ("text",),
    "system": ("system", "system_prompt", "système", "systeme"),
    "history": ("history",),
}
_TEXTS = ("passage", "texte", "extrait", "document", "paragraphe")
"""Columns that are the context of a question unless another one is called so."""
_TURNS = {
    "messages": "messages",
    "conversations": "sharegpt",
    "conversation": "sharegpt",
    "dialogue": "messages",
    "dialog": "messages",
}
"""Columns that hold turns, and the shape of each."""
_USED = {
    "alpaca": ("question", "context", "answer", "answers", "system", "history"),
    "messages": ("messages", "answers", "system"),
    "sharegpt": ("messages", "answers", "system"),
    "squad": ("question", "context", "answers", "system"),
    "text": ("text",),
}
"""The meanings that each shape reads; other columns are kept as fields."""
_TALK = {"conversation", "dialogue", "dialog"}
_TOGETHER = {
    ("question", "answer"), ("question", "réponse"), ("question", "reponse"),
    ("question", "response"), ("instruction", "output"), ("instruction", "response"),
    ("prompt", "completion"), ("prompt", "response"), ("query", "response"), ("input", "output"),
    ("consigne", "réponse"), ("consigne", "reponse"), ("consigne", "sortie"),
    ("instruction", "sortie"), ("entrée", "sortie"), ("entree", "sortie"),
}  # fmt: skip
"""Column names that programs write together."""
_BY_HAND = tuple(
    (question, answer)
    for question, answers in {
        "questions": ("réponses", "reponses", "answers"), "q": ("r", "a", "rép", "rep"),
        "demande": ("réponse", "reponse"), "demandes": ("réponses", "reponses"),
    }.items()
    for answer in answers
)  # fmt: skip
"""Headings that people write together; read where nothing else is known."""
_PREFERENCES = (("chosen", "rejected"), ("rejected_response",), ("rejected_messages",),
                ("kto_tag",))  # fmt: skip
_MARKED = ("prompt", "completion", "label")

Row = dict[str, Any]
Columns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One way in which the columns of a file can be read."""

    shape: str
    columns: Columns = ()
    """Pairs of a meaning and the file's column."""

    def told(self) -> str:
        """Name the columns, and the setting that selects this reading."""
        asked = dict(self.columns)
        if self.shape == "squad":
            context = asked.get("context", "context")
            chosen = "" if context == "context" else f"data.columns.context={context} "
            return f"{context}, question, answers ({chosen}data.shape=squad)"
        names = " + ".join(column for _, column in self.columns)
        if self.shape == "alpaca" and not {"answer", "answers"} & set(asked):
            asked["answer"] = "COLUMN"
        return f"{names} ({' '.join(f'data.columns.{m}={column}' for m, column in asked.items())})"


class Named(dict[str, Any]):
    """A row with columns named by meaning, which also knows the file's own names."""

    def __init__(self, names: Iterable[str], row: Row) -> None:
        """Name the columns of `row`, in their order."""
        super().__init__(zip(names, row.values(), strict=True))
        self.own = dict(zip(self, row, strict=True))
        """The file's names, by the new ones."""


def check_columns(source: str, columns: Mapping[str, str], seen: set[str]) -> None:
    """Refuse a mapping with an unknown meaning, or with a column that a source does not have."""
    if unknown := set(columns) - set(MEANINGS):
        raise DataError("Q325.meaning", given=sorted(unknown)[0], known=", ".join(MEANINGS))
    for meaning, column in columns.items():
        if column not in seen:
            raise DataError(
                "Q325.column", source=source, meaning=meaning, column=column,
                columns=", ".join(sorted(seen)),
            )  # fmt: skip


def refuse_preferences(source: str, rows: Iterable[Row], columns: Mapping[str, str]) -> None:
    """Refuse a file of preferences between answers.

    One of whose columns data.columns names the answers is read.

    Raises:
        DataError: Q322.
    """
    if {"answer", "answers", "messages", "text"} & set(columns):
        return
    for row in rows:
        held = {name: row[column] for name, column in _folded(row).items()
                if not is_nothing(row[column])}  # fmt: skip
        found = next((names for names in _PREFERENCES if set(names) <= set(held)), ())
        if set(_MARKED) <= set(held) and truth_of(held["label"]) is not None:
            found = ("label",)
        if found:
            raise DataError("Q322.preferences", source=source, columns=", ".join(found))


def readings(row: Row, columns: Mapping[str, str], shape: str = "auto") -> list[Reading]:
    """List the possible readings of a row, limited to `shape` if one is named.

    Columns that hold nothing make no second way, and text is no dialogue of turns.
    """
    names = tuple(name for name, value in row.items() if not _is_talk(name, value))
    found = _of_shape(names, columns, shape)
    if len(found) < 2:
        return found
    filled = tuple(name for name, value in row.items() if _could_be_read(name, value))
    return _of_shape(filled, columns, shape) or found[:1]


def is_known(names: Iterable[str]) -> bool:
    """Tell whether columns of these names have a known shape."""
    return bool(_of_shape(tuple(names), {}, "auto"))


def same_names(row: Row, columns: Mapping[str, str], shape: str) -> tuple[str, str, str] | None:
    """Find two columns that differ in case or spaces alone, one of which would be read.

    {"Question": ..., "question": ..., "answer": ...}  ->  ("question", "Question", "question")
    """
    chosen = _folded(columns.values())
    pairs = [pair for pair in _alike(tuple(row)) if chosen.keys().isdisjoint(_folded(pair))]
    if not pairs:
        return None
    way = next(iter(readings(row, columns, shape)), None)
    known = meanings(row, columns, shape, way)
    used = _USED.get(way.shape if way else shape, ())
    for one, other in pairs:
        meaning = known.get(one) or known.get(other, "")
        if meaning in used:
            return meaning, one, other
    return None


def meanings(
    names: Iterable[str], columns: Mapping[str, str], shape: str, way: Reading | None = None
) -> dict[str, str]:
    """Say which of a file's columns has which meaning, by its alias or by data.columns.

    Args:
        names: the file's columns.
        columns: data.columns.
        shape: what the file is read as.
        way: the reading; by default the first of that shape.
    """
    chosen = dict(zip(columns.values(), columns, strict=True))
    way = way or next(iter(_of_shape(tuple(names), columns, shape)), None)
    if way is not None:
        chosen |= {column: meaning for meaning, column in way.columns if column not in chosen}
    folded = _free(names, chosen)
    for meaning, aliases in _ALIASES.items():
        free = next((folded[alias] for alias in aliases if alias in folded), None)
        if meaning not in chosen.values() and free is not None:
            chosen[free] = meaning
    return chosen


def named(value: Row | str, columns: Mapping[str, str], shape: str) -> Named:
    """Rename columns to their meanings; other columns keep their names.

    Raises:
        Unfit: the row lacks a column of data.columns, or can be read in several ways.
    """
    if isinstance(value, str):
        return Named(["text"], {"text": value})
    for meaning, column in columns.items():
        if column not in value:
            raise Unfit("reasons.no_named_column", column=column, meaning=meaning)
    pairs = tuple(columns.items())
    ways = _of_shape_once(tuple(value), pairs, shape)
    if len(ways) > 1:
        ways = tuple(readings(value, columns, shape))
        if len(ways) > 1:
            raise Unfit("reasons.readings", ways=tuple(way.told() for way in ways))
    names = _names_for(tuple(value), pairs, shape, ways[0] if ways else None)
    return Named(names, value)


@lru_cache(maxsize=16)
def _of_shape_once(names: tuple[str, ...], columns: Columns, shape: str) -> tuple[Reading, ...]:
    return tuple(_of_shape(names, dict(columns), shape))


@lru_cache(maxsize=16)
def _names_for(
    names: tuple[str, ...], columns: Columns, shape: str, way: Reading | None
) -> tuple[str, ...]:
    """Name columns by their meanings, once for all rows that have the same ones."""
    chosen = meanings(names, dict(columns), shape, way)
    taken = set(chosen.values())
    return tuple(
        chosen.get(name) or (f"{name} (column)" if name in taken else name) for name in names
    )


def _is_talk(name: str, value: Any) -> bool:
    """Say whether a column is called after talk and holds text, such as a dialogue to summarise."""
    called = name.strip().casefold() in _TALK
    return called and isinstance(value, str) and isinstance(decoded(value), str)


def _could_be_read(name: str, value: Any) -> bool:
    is_turns = name.strip().casefold() in _TURNS
    return isinstance(decoded(value), list) if is_turns else not is_nothing(value)


def _of_shape(names: tuple[str, ...], columns: Mapping[str, str], shape: str) -> list[Reading]:
    found = _readings(names, columns)
    alike = ("messages", "sharegpt") if shape in ("messages", "sharegpt") else (shape,)
    accepted = alike if "messages" in columns else (shape,)
    return [way for way in found if shape == "auto" or way.shape in accepted]


def _readings(names: tuple[str, ...], columns: Mapping[str, str]) -> list[Reading]:
    """List the ways in which columns of these names can be read."""
    if "messages" in columns:
        return [Reading("messages", (("messages", columns["messages"]),))]
    asked = {"question", "answer"} & set(columns)
    if "text" in columns and not asked:
        return [Reading("text", (("text", columns["text"]),))]
    folded = _free(names, columns.values())
    ways = [] if asked else _of_turns(folded)
    pairs = _of_pairs(folded, columns)
    if ways and not pairs and "instruction" in folded:
        pairs = [Reading("alpaca", (("question", folded["instruction"]),))]
    if "paragraphs" in folded and not asked:
        pairs = [Reading("squad")]
    if ways := ways + pairs:
        return ways
    if not columns and (pair := next((two for two in _BY_HAND if set(two) <= set(folded)), ())):
        texts = [name for name in ("context", "contexte", *_TEXTS) if name in folded][:1]
        by_hand = [("question", pair[0]), *(("context", one) for one in texts), ("answer", pair[1])]
        return [Reading("alpaca", tuple((kind, folded[name]) for kind, name in by_hand))]
    return [Reading("text", (("text", folded["text"]),))] if "text" in folded else []


def _of_turns(folded: Mapping[str, str]) -> list[Reading]:
    return [
        Reading(shape, (("messages", folded[name]),))
        for name, shape in _TURNS.items()
        if name in folded
    ]


def _of_pairs(folded: Mapping[str, str], columns: Mapping[str, str]) -> list[Reading]:
    """List which question, context and answer stand together."""
    answers = _candidates("answer", folded, columns)
    listed = _candidates("answers", folded, columns)[:1]
    questions = _candidates("question", folded, columns)
    contexts = _candidates("context", folded, columns)
    inputs = [name for name in contexts if name in _INPUTS]
    if "question" not in columns and not set(_ASKS) & set(questions):
        contexts = [name for name in contexts if name not in inputs]
        questions += inputs
    if questions and not contexts:
        contexts = [name for name in _TEXTS if name in folded]
    if set(_ASKS) & set(questions) and not {"completion", "response"} & set(answers):
        questions = [name for name in questions if name != "prompt"]  # the others, as one text
    if listed and not answers and contexts and set(questions) <= set(_ASKS):
        return [
            Reading("squad", (("context", columns.get("context") or folded[name]),))
            for name in contexts
        ]
    found = list(product(questions, contexts or [""], answers or listed))
    usual = [one for one in found if (one[0], one[2]) in _TOGETHER]
    kinds = ("question", "context", "answer" if answers else "answers")
    return [
        Reading("alpaca", tuple(
            (kind, columns.get(kind) or folded[name])
            for kind, name in zip(kinds, one, strict=True) if name
        ))
        for one in (usual if len(usual) > 1 else found)
    ]  # fmt: skip


def _candidates(meaning: str, folded: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    """List the aliases of a meaning that the file has; data.columns leaves one, by any name."""
    if meaning in columns:
        return [meaning]
    return [alias for alias in _ALIASES[meaning] if alias in folded]


@lru_cache(maxsize=64)
def _alike(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pair the names that differ in case or spaces alone."""
    if len(_folded(names)) == len(names):
        return ()
    return tuple(pair for pair in combinations(names, 2) if len(_folded(pair)) == 1)


def _free(names: Iterable[str], chosen: Iterable[str]) -> dict[str, str]:
    """Leave out the columns that were chosen, and what differs from them in case alone."""
    taken = _folded(chosen)
    return {folded: name for folded, name in _folded(names).items() if folded not in taken}


def _folded(names: Iterable[str]) -> dict[str, str]:
    return {_bare(str(name)): name for name in names}


def _bare(name: str) -> str:
    """Leave out case, and what ends a heading written by hand: "Question :" is question."""
    folded = unicodedata.normalize("NFC", name).strip().casefold()
    return folded.rstrip(" \u00a0\u202f:.?*") or folded
