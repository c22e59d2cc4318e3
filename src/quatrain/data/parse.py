"""Parse: a raw row becomes Conversations or Documents, or a Rejection that says why not.

    alpaca     instruction, input, output; or question, context, answer; or question, réponse
    messages   messages: [{role, content}]
    sharegpt   conversations: [{from: human | gpt | system, value}]
    squad      an article of paragraphs (PIAF, FQuAD), or a row of context, question, answers
    text       text, or a line or file of plain text

Not for reading files (read.py) nor for the prompt's wording (text/chat.py).
"""

from __future__ import annotations

import datetime
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from quatrain.data.json_rows import kind_of
from quatrain.data.lines import RawRow
from quatrain.errors import DataError
from quatrain.text.chat import check, user_content
from quatrain.text.conversation import Conversation, Document, Message, Role
from quatrain.words import Sentence

SHAPES = ("alpaca", "messages", "sharegpt", "squad", "text")
MEANINGS = ("question", "context", "answer", "answers", "text")
"""What data.columns can name."""
_ALIASES = {
    "question": ("question", "instruction"),
    "context": ("context", "input"),
    "answer": ("answer", "output", "réponse", "reponse"),
    "answers": ("answers", "gold"),
    "text": ("text",),
    "messages": ("messages",),
    "conversations": ("conversations",),
}
_SHAREGPT: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_EXCERPT = 120
_LONGEST_GROUP = 120
_WHOLE_FILE = 1 << 20

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not used."""

    location: str
    reason: str
    excerpt: str = ""


Outcome = Conversation | Document | Rejection


class _Unfit(ValueError):
    """A row, or a part of one, breaks a rule; the message is the rejection's reason."""

    def __init__(self, key: str, /, **values: object) -> None:
        super().__init__(key)
        self.message = Sentence.of(key, **values)


def parse_row(row: RawRow, shape: str, columns: Mapping[str, str]) -> Iterator[Outcome]:
    """Turn one raw row into its records, at least one: each is good, or says why it is not."""
    if row.value is None:
        yield Rejection(row.location, row.error or Sentence.of("reasons.row"))
        return
    try:
        named = _named(row.value, columns)
        yield from _PARSERS[shape](named, row.location)
    except (_Unfit, DataError) as error:
        yield Rejection(row.location, error.message, excerpt(row.value))


def guess_shape(value: Row | str, columns: Mapping[str, str]) -> str | None:
    """Tell a row's shape from its keys, or None when they are of no shape."""
    try:
        keys = set(_named(value, columns))
    except _Unfit:
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


def group_key(text: str) -> str:
    """Make one key of texts that differ in case, spaces or final punctuation only.

    A long text is replaced by its hash, so that a million contexts need little memory; one of a
    whole file is hashed as it is, since its words are more than memory holds.
    """
    if len(text) > _WHOLE_FILE:
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    folded = folded.rstrip(" ?!.…:;,") or folded
    if len(folded) <= _LONGEST_GROUP:
        return folded
    return hashlib.blake2b(folded.encode(), digest_size=16).hexdigest()


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
            raise _Unfit("reasons.no_named_column", column=column, meaning=meaning)
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


def _alpaca(row: Row, location: str) -> Iterator[Outcome]:
    question = _text(row, "question", "instruction")
    context = _text(row, "context", "input", needed=False)
    golds = _golds(row.get("answers"))
    if row.get("answer") is not None or not golds:
        golds = _unique([_text(row, "answer", "output"), *golds])
    messages = (Message("user", user_content(question, context)), Message("assistant", golds[0]))
    check(messages, ends_with="assistant")
    group = group_key(context or question)
    yield Conversation(messages, golds, group, location, _fields(row, _ALPACA_COLUMNS))


_ALPACA_COLUMNS = ("question", "context", "answer", "answers")


def _messages(row: Row, location: str) -> Iterator[Outcome]:
    turns = _list(row, "messages")
    messages = tuple(_message(turn, "role", "content", _identity) for turn in turns)
    yield _conversation(messages, row, location, "messages")


def _sharegpt(row: Row, location: str) -> Iterator[Outcome]:
    turns = _list(row, "conversations")
    messages = tuple(_message(turn, "from", "value", _SHAREGPT.get) for turn in turns)
    yield _conversation(messages, row, location, "conversations")


def _conversation(
    messages: tuple[Message, ...], row: Row, location: str, column: str
) -> Conversation:
    check(messages, ends_with="assistant")
    golds = _unique([messages[-1].content, *_golds(row.get("answers"))])
    first_question = next(message.content for message in messages if message.role == "user")
    fields = _fields(row, (column, "answers"))
    return Conversation(messages, golds, group_key(first_question), location, fields)


def _message(turn: Any, role_key: str, text_key: str, role_of: Callable[[str], Any]) -> Message:
    if not isinstance(turn, dict):
        raise _Unfit("reasons.message", kind=kind_of(turn))
    name, content = turn.get(role_key), turn.get(text_key)
    role = role_of(name) if isinstance(name, str) else None
    if role is None:
        raise _Unfit("reasons.role", field=role_key, name=name, known=", ".join(_SHAREGPT))
    if not isinstance(content, str):
        raise _Unfit("reasons.text", name=text_key, kind=kind_of(content))
    return Message(role, content)


def _identity(name: str) -> str:
    return name


def _squad(row: Row, location: str) -> Iterator[Outcome]:
    if "paragraphs" not in row:
        title = row.get("title")
        yield from _squad_question(row, _text(row, "context"), title, location, row)
        return
    title, extra = row.get("title"), _fields(row, ("paragraphs", "title"))
    for number, paragraph in enumerate(_list(row, "paragraphs"), 1):
        where = f"{location}.{number}"
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            reason = Sentence.of("reasons.paragraph")
            yield Rejection(where, reason, excerpt(paragraph))
            continue
        for index, qa in enumerate(paragraph["qas"], 1):
            yield from _squad_item(qa, paragraph, title, f"{where}.{index}", extra)


def _squad_item(
    qa: Any, paragraph: Row, title: Any, location: str, extra: Row
) -> Iterator[Outcome]:
    try:
        if not isinstance(qa, dict):
            raise _Unfit("reasons.question", kind=kind_of(qa))
        yield from _squad_question(qa, _text(paragraph, "context"), title, location, extra)
    except (_Unfit, DataError) as error:
        yield Rejection(location, error.message, excerpt(qa))


def _squad_question(
    qa: Row, context: str, title: Any, location: str, extra: Row
) -> Iterator[Outcome]:
    question, golds = _text(qa, "question"), _golds(qa.get("answers"))
    if not golds:
        raise _Unfit("reasons.no_answer")
    messages = (Message("user", user_content(question, context)), Message("assistant", golds[0]))
    check(messages, ends_with="assistant")
    named = isinstance(title, str) and title.strip()
    group = group_key(str(title) if named else context)
    fields = {**_fields(extra, _SQUAD_COLUMNS), **_fields(qa, _SQUAD_COLUMNS)}
    if named:
        fields["title"] = title
    yield Conversation(messages, golds, group, location, fields)


_SQUAD_COLUMNS = ("question", "context", "answer", "answers", "title", "is_impossible")


def _document(row: Row, location: str) -> Iterator[Outcome]:
    text = _text(row, "text")
    yield Document(text, group_key(text), location)


_PARSERS: dict[str, Callable[[Row, str], Iterator[Outcome]]] = {
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
        raise _Unfit("reasons.no_column", name=label, known=", ".join(sorted(map(str, row))))
    if not isinstance(value, str):
        raise _Unfit("reasons.text", name=label, kind=kind_of(value))
    if needed and not value.strip():
        raise _Unfit("reasons.empty", name=label)
    return value if value.strip() else ""


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    if not isinstance(value, list):
        raise _Unfit("reasons.list", name=name, kind=kind_of(value))
    if not value:
        raise _Unfit("reasons.empty_list", name=name)
    return value


def _golds(value: Any) -> tuple[str, ...]:
    """Gather gold answers: a list of texts, SQuAD's list of objects, or its object of lists."""
    if value is None:
        return ()
    if isinstance(value, dict):
        value = value.get("text", [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _Unfit("reasons.list", name="answers", kind=kind_of(value))
    texts: list[str] = []
    for item in items:
        text = item.get("text") if isinstance(item, dict) else item
        if not isinstance(text, str):
            raise _Unfit("reasons.answers", kind=kind_of(text))
        if text.strip():
            texts.append(text)
    return _unique(texts)


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _fields(row: Row, used: tuple[str, ...]) -> Row:
    """Keep the other columns, as values that JSON can hold."""
    return {str(name): _plain(cell) for name, cell in row.items() if name not in used}


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
