"""Parse: a raw row becomes Conversations or Documents, or a Rejection that says why not.

    alpaca     instruction, input, output; or question, context, answer; or question, réponse;
               perhaps system, and history: [[question, answer], ...]
    messages   messages: [{role, content}]
    sharegpt   conversations: [{from: human | gpt | system, value}]
    squad      an article of paragraphs (PIAF, FQuAD), or a row of context, question, answers
    text       text, or a line or file of plain text

Not for reading files (read.py) nor for the prompt's wording (text/chat.py).
"""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from quatrain.data.aside import Aside
from quatrain.data.json_rows import kind_of
from quatrain.data.lines import RawRow
from quatrain.data.question import group_key
from quatrain.data.turns import Turns, Unfit, read_messages, read_sharegpt
from quatrain.errors import DataError
from quatrain.text.chat import user_content
from quatrain.text.conversation import Conversation, Document, Message
from quatrain.words import Sentence

SHAPES = ("alpaca", "messages", "sharegpt", "squad", "text")
MEANINGS = ("question", "context", "answer", "answers", "text", "system", "history")
"""What data.columns can name."""
_ALIASES = {
    "question": ("question", "instruction"),
    "context": ("context", "input"),
    "answer": ("answer", "output", "réponse", "reponse"),
    "answers": ("answers", "gold"),
    "text": ("text",),
    "system": ("system", "system_prompt"),
    "history": ("history",),
    "messages": ("messages",),
    "conversations": ("conversations",),
}
_EXCERPT = 120

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not used."""

    location: str
    reason: str
    excerpt: str = ""


Outcome = Conversation | Document | Rejection


def parse_row(
    row: RawRow, shape: str, columns: Mapping[str, str], aside: Aside | None = None
) -> Iterator[Outcome]:
    """Turn one raw row into its records, at least one: each is good, or says why it is not.

    What good ones hold and no run learns is counted in `aside`.
    """
    if row.value is None:
        yield Rejection(row.location, row.error or Sentence.of("reasons.row"))
        return
    try:
        named = _named(row.value, columns)
        yield from _PARSERS[shape](named, row.location, Aside() if aside is None else aside)
    except (Unfit, DataError) as error:
        yield Rejection(row.location, error.message, excerpt(row.value))


def guess_shape(value: Row | str, columns: Mapping[str, str]) -> str | None:
    """Tell a row's shape from its keys, or None when they are of no shape."""
    try:
        keys = set(_named(value, columns))
    except Unfit:
        return None
    if "messages" in keys or "conversations" in keys:
        return "messages" if "messages" in keys else "sharegpt"
    if "paragraphs" in keys or {"question", "context", "answers"} <= keys:
        return "squad"
    if "question" in keys and keys & {"answer", "answers"}:
        return "alpaca"
    return "text" if "text" in keys else None


def check_columns(columns: Mapping[str, str], seen: set[str]) -> None:
    """Refuse a mapping of columns that means nothing, or that names a column the file lacks."""
    if unknown := set(columns) - set(MEANINGS):
        raise DataError("Q325.meaning", given=sorted(unknown)[0], known=", ".join(MEANINGS))
    for meaning, column in columns.items():
        if column not in seen:
            raise DataError(
                "Q325.column", meaning=meaning, column=column, columns=", ".join(sorted(seen))
            )


def excerpt(value: Any) -> str:
    """Show the beginning of a row, on one line."""
    text = value if isinstance(value, str) else repr(value)
    return " ".join(text[:_EXCERPT].split())


def meanings(names: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Say which of a file's columns has which meaning, by its alias or by data.columns."""
    chosen = dict(zip(columns.values(), columns, strict=True))
    folded = {unicodedata.normalize("NFC", name).strip().casefold(): name for name in names}
    for meaning, aliases in _ALIASES.items():
        found = (folded[alias] for alias in aliases if alias in folded)
        free = next((name for name in found if name not in chosen), None)
        if meaning not in columns and free is not None:
            chosen[free] = meaning
    return chosen


def _named(value: Row | str, columns: Mapping[str, str]) -> Row:
    """Give columns the names of their meanings; other columns keep theirs."""
    if isinstance(value, str):
        return {"text": value}
    for meaning, column in columns.items():
        if column not in value:
            raise Unfit("reasons.no_named_column", column=column, meaning=meaning)
    names = _names_for(tuple(value), tuple(columns.items()))
    return dict(zip(names, value.values(), strict=True))


@lru_cache(maxsize=16)
def _names_for(names: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Name columns by their meanings, once for all rows that have the same ones."""
    chosen = meanings(names, dict(columns))
    taken = set(chosen.values())
    return tuple(
        chosen.get(name) or (f"{name} (column)" if name in taken else name) for name in names
    )


def _alpaca(row: Row, location: str, aside: Aside) -> Iterator[Outcome]:
    question = _text(row, "question", "instruction")
    context = _text(row, "context", "input", needed=False)
    golds = _golds(row.get("answers"))
    if row.get("answer") is not None or not golds:
        golds = _unique([_text(row, "answer", "output"), *golds])
    before = _history(row)
    first = before[0].content if before else question
    last = (Message("user", user_content(question, context)), Message("assistant", golds[0]))
    messages = Turns((*_system(row), *before, *last)).settled(aside, examined=True)
    fields = _fields(row, _ALPACA_COLUMNS)
    aside.see(columns=_filled(fields))
    yield Conversation(messages, golds, group_key(context or first), location, fields)


_ALPACA_COLUMNS = ("question", "context", "answer", "answers", "system", "history")


def _system(row: Row) -> tuple[Message, ...]:
    """Begin with a system column's text; an empty one is none."""
    text = _text(row, "system", needed=False)
    return (Message("system", text),) if text else ()


def _history(row: Row) -> list[Message]:
    """Take earlier turns, which are learnt as the last one is."""
    pairs = row.get("history")
    if pairs is None or pairs == "":
        return []
    if not isinstance(pairs, list):
        raise Unfit("reasons.list", name="history", kind=kind_of(pairs))
    messages = []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise Unfit("reasons.history", number=number)
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def _messages(row: Row, location: str, aside: Aside) -> Iterator[Outcome]:
    turns = read_messages(_list(row, "messages"))
    yield _conversation(turns, row, location, "messages", aside)


def _sharegpt(row: Row, location: str, aside: Aside) -> Iterator[Outcome]:
    turns = read_sharegpt(_list(row, "conversations"))
    yield _conversation(turns, row, location, "conversations", aside)


def _conversation(turns: Turns, row: Row, location: str, column: str, aside: Aside) -> Conversation:
    golds = _golds(row.get("answers"))
    opened = replace(turns, messages=_opened(turns.messages, row))
    messages = opened.settled(aside, examined=bool(golds))
    first_question = next(message.content for message in messages if message.role == "user")
    fields = _fields(row, (column, "answers", "system"))
    aside.see(columns=_filled(fields))
    golds = _unique([messages[-1].content, *golds])
    return Conversation(messages, golds, group_key(first_question), location, fields)


def _opened(messages: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """Put a system column's text first; a system turn of another text contradicts it."""
    system = _system(row)
    if not system or messages[0].role != "system":
        return (*system, *messages)
    said = messages[0].content.strip()
    if said and said != system[0].content.strip():
        raise Unfit("reasons.two_systems")
    return (*system, *messages[1:])


def _squad(row: Row, location: str, aside: Aside) -> Iterator[Outcome]:
    if "paragraphs" not in row:
        yield _squad_question(row, _text(row, "context"), location, row, aside)
        return
    for number, paragraph in enumerate(_list(row, "paragraphs"), 1):
        where = f"{location}.{number}"
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            reason = Sentence.of("reasons.paragraph")
            yield Rejection(where, reason, excerpt(paragraph))
            continue
        for index, qa in enumerate(paragraph["qas"], 1):
            yield _squad_item(qa, paragraph, f"{where}.{index}", row, aside)


def _squad_item(qa: Any, paragraph: Row, location: str, article: Row, aside: Aside) -> Outcome:
    try:
        if not isinstance(qa, dict):
            raise Unfit("reasons.question", kind=kind_of(qa))
        return _squad_question(qa, _text(paragraph, "context"), location, article, aside)
    except (Unfit, DataError) as error:
        return Rejection(location, error.message, excerpt(qa))


def _squad_question(qa: Row, context: str, location: str, row: Row, aside: Aside) -> Outcome:
    """Read a question; its title, its system text and some fields stand in the row."""
    question, golds = _text(qa, "question"), _golds(qa.get("answers"))
    if not golds:
        raise Unfit("reasons.no_answer")
    last = (Message("user", user_content(question, context)), Message("assistant", golds[0]))
    messages = Turns((*_system(row), *last)).settled(aside, examined=True)
    title = row.get("title")
    named = isinstance(title, str) and title.strip()
    group = group_key(str(title) if named else context)
    fields = {**_fields(row, _SQUAD_COLUMNS), **_fields(qa, _SQUAD_COLUMNS)}
    if named:
        fields["title"] = title
    aside.see(columns=_filled(fields))
    return Conversation(messages, golds, group, location, fields)


_SQUAD_COLUMNS = ("question", "context", "answer", "answers", "title", "is_impossible",
                  "paragraphs", "system")  # fmt: skip


def _document(row: Row, location: str, aside: Aside) -> Iterator[Outcome]:
    text = _text(row, "text")
    if len(row) > 1:
        aside.see(columns=_filled(_fields(row, ("text",))))
    yield Document(text, group_key(text), location)


_PARSERS: dict[str, Callable[[Row, str, Aside], Iterator[Outcome]]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "squad": _squad,
    "text": _document,
}


def _text(row: Row, name: str, alias: str = "", needed: bool = True) -> str:
    """Take a column that must be text, and not blank when it is needed."""
    value = row.get(name)
    label = f"{name} ({alias})" if alias else name
    if value is None and not needed:
        return ""
    if name not in row:
        raise Unfit("reasons.no_column", name=label, known=", ".join(sorted(map(str, row))))
    if not isinstance(value, str):
        raise Unfit("reasons.text", name=label, kind=kind_of(value))
    if needed and not value.strip():
        raise Unfit("reasons.empty", name=label)
    return value if value.strip() else ""


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise Unfit("reasons.list", name=name, kind=kind_of(value))
    if not value:
        raise Unfit("reasons.empty_list", name=name)
    return value


def _golds(value: Any) -> tuple[str, ...]:
    """Gather gold answers: a list of texts, SQuAD's list of objects, or its object of lists."""
    if value is None:
        return ()
    if isinstance(value, dict):
        value = value.get("text", [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise Unfit("reasons.list", name="answers", kind=kind_of(value))
    texts: list[str] = []
    for item in items:
        text = item.get("text") if isinstance(item, dict) else item
        if not isinstance(text, str):
            raise Unfit("reasons.answers", kind=kind_of(text))
        if text.strip():
            texts.append(text)
    return _unique(texts)


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _fields(row: Row, used: tuple[str, ...]) -> Row:
    """Keep the other columns, as values that JSON can hold."""
    return {str(name): _plain(cell) for name, cell in row.items() if name not in used}


def _filled(fields: Row) -> Iterator[str]:
    return (name for name, value in fields.items() if value not in (None, "", [], {}))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
