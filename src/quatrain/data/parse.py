"""Parse: a raw row becomes Conversations or Documents, or a Rejection that says why not.

    alpaca     a question, perhaps a context, an answer, under any of their names (columns.py);
               perhaps system, and history: [[question, answer], ...]; or prompt and completion as
               lists of turns
    messages   messages: [{role, content}]
    sharegpt   conversations: [{from: human | gpt | system, value}], [{human, assistant}] ...
    squad      an article of paragraphs (PIAF, FQuAD), or a row of context, question, answers
    text       text, or a line or file of plain text

Not for reading files (read.py) nor for the prompt's wording (text/chat.py).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quatrain.config import DataConfig
from quatrain.data.answers import golds_of, has_no_answer, listed, unique
from quatrain.data.aside import Aside
from quatrain.data.columns import Named, Row, named, readings
from quatrain.data.json_rows import kind_of
from quatrain.data.lines import RawRow
from quatrain.data.question import group_key
from quatrain.data.turns import Turns, read_turns
from quatrain.data.values import (
    MEDIA,
    Unfit,
    count_typed,
    decoded,
    excerpt,
    is_nothing,
    is_text,
    text_of,
)
from quatrain.errors import DataError
from quatrain.text.chat import user_content
from quatrain.text.conversation import Conversation, Document, Message, Role
from quatrain.words import Sentence


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is not used."""

    location: str
    reason: str
    excerpt: str = ""


_MEDIA = frozenset(MEDIA)

Outcome = Conversation | Document | Rejection


@dataclass(frozen=True, slots=True)
class _Manner:
    """How rows are read, and where what is not learnt of them is counted."""

    aside: Aside
    config: DataConfig


def parse_row(
    row: RawRow,
    shape: str,
    columns: Mapping[str, str],
    aside: Aside | None = None,
    config: DataConfig | None = None,
) -> Iterator[Outcome]:
    """Turn one raw row into its records, at least one: each is good, or says why it is not.

    Args:
        row: what was read.
        shape: one of the shapes.
        columns: data.columns.
        aside: counts what good records hold and no run learns.
        config: says what becomes of calls of tools, and of questions without an answer.
    """
    if row.value is None:
        yield Rejection(row.location, row.error or Sentence.of("reasons.row"))
        return
    manner = _Manner(aside or Aside(), config or DataConfig())
    try:
        for outcome in _PARSERS[shape](named(row.value, columns, shape), row.location, manner):
            if not isinstance(outcome, Rejection):
                said = list(_said(outcome))
                _refuse_media(row.value, said)
                manner.aside.look(said)
            yield outcome
    except (Unfit, DataError) as error:
        yield Rejection(row.location, error.message, excerpt(row.value))


def _said(record: Conversation | Document) -> Iterable[str]:
    if isinstance(record, Document):
        return (record.text,)
    return (message.content for message in record.messages)


def _refuse_media(row: Row | str, said: list[str]) -> None:
    """Refuse a record whose text points to what a column shows: its answer would be learnt blindly.

    Raises:
        Unfit: a text has <image> or its like, and a column holds it.
    """
    if isinstance(row, str) or _MEDIA.isdisjoint(row):
        return
    for name in MEDIA:
        sign = f"<{name.rstrip('s')}>"
        if not is_nothing(row.get(name)) and any(sign in text for text in said):
            raise Unfit("reasons.media", name=name)


def guess_shape(value: Row | str, columns: Mapping[str, str]) -> str | None:
    """Tell a row's shape from its keys, or None when they are of no shape."""
    if isinstance(value, str):
        return "text"
    if not set(columns.values()) <= set(value):
        return None
    return next((way.shape for way in readings(value, columns)), None)


def _alpaca(row: Row, location: str, manner: _Manner) -> Iterator[Outcome]:
    if _is_turns(row.get("question")) or _is_turns(row.get("answer")):
        yield _prompted(row, location, manner)
        return
    question = _text(row, "question", "instruction")
    context = _text(row, "context", "input", needed=False)
    golds = golds_of(row.get("answers"))
    silent = has_no_answer(row, golds)
    if not silent and (row.get("answer") is not None or not golds):
        golds = unique([_text(row, "answer", "output"), *golds])
    before = _history(row)
    first = before[0].content if before else question
    said = _no_answer(manner) if silent else golds[0]
    last = (Message("user", user_content(question, context)), Message("assistant", said))
    turns = Turns((*_system(row), *before, *last), typed=_typed(row))
    messages = turns.settled(manner.aside, examined=True)
    manner.aside.unanswered += silent
    fields = _fields(row, _ALPACA_COLUMNS)
    manner.aside.see(columns=_filled(fields))
    yield Conversation(messages, golds, group_key(context or first), location, fields)


_ALPACA_COLUMNS = ("question", "context", "answer", "answers", "is_impossible", "system",
                   "history")  # fmt: skip


def _no_answer(manner: _Manner) -> str:
    """Take what is said where nothing answers.

    Raises:
        Unfit: data.no_answer is empty.
    """
    if not manner.config.no_answer.strip():
        raise Unfit("reasons.no_answer")
    return manner.config.no_answer


def _typed(row: Row) -> int:
    """Count the numbers and booleans among a row's question, context and answers."""
    cells = [row.get(name) for name in ("question", "context", "answer")]
    golds = row.get("answers")
    return count_typed(cells if golds is None else [*cells, *listed(golds)])


def _is_turns(value: Any) -> bool:
    """Whether a cell holds turns; text that looks like a list of them is text."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _prompted(row: Row, location: str, manner: _Manner) -> Conversation:
    """Read a prompt and a completion as turns: what the prompt says is context alone."""
    prompt = _either(row, "question", "instruction", "user", manner)
    completion = _either(row, "answer", "output", "assistant", manner)
    context = tuple(
        replace(message, learnt=message.role != "assistant") for message in prompt.messages
    )
    turns = Turns(
        (*_history(row), *context, *completion.messages),
        prompt.keys + completion.keys,
        completion.asking,
        prompt.typed + completion.typed,
    )
    return _conversation(turns, row, location, ("question", "answer", "history"), manner)


def _either(row: Row, name: str, alias: str, role: Role, manner: _Manner) -> Turns:
    """Take a cell that is a list of turns, or the text of one."""
    value = row.get(name)
    if _is_turns(value):
        assert isinstance(value, list)
        return read_turns(value, manner.config.tools == "text")
    text = _text(row, name, alias)
    return Turns((Message(role, text),), typed=count_typed([value]))


def _system(row: Row) -> tuple[Message, ...]:
    """Begin with a system column's text; an empty one is none."""
    if not isinstance(row.get("system"), str | None):
        raise Unfit("reasons.text", name="system", kind=kind_of(row["system"]))
    text = _text(row, "system", needed=False)
    return (Message("system", text),) if text else ()


def _history(row: Row) -> list[Message]:
    """Take earlier turns, which are learnt as the last one is."""
    pairs = decoded(row.get("history"))
    if pairs is None or pairs == "":
        return []
    if not isinstance(pairs, list):
        raise Unfit("reasons.list", name="history", kind=kind_of(pairs))
    messages = []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_text, pair)):
            raise Unfit("reasons.history", number=number)
        question, answer = (text_of(text, "history") for text in pair)
        messages += [Message("user", question), Message("assistant", answer)]
    return messages


def _messages(row: Row, location: str, manner: _Manner) -> Iterator[Outcome]:
    turns = read_turns(_list(row, "messages"), manner.config.tools == "text")
    yield _conversation(turns, row, location, ("messages",), manner)


def _conversation(
    turns: Turns, row: Row, location: str, columns: tuple[str, ...], manner: _Manner
) -> Conversation:
    """Make a conversation of the turns that stand in some columns."""
    golds = golds_of(row.get("answers"))
    opened = replace(turns, messages=_opened(turns.messages, row))
    messages = opened.settled(manner.aside, examined=bool(golds))
    first_question = next(message.content for message in messages if message.role == "user")
    fields = _fields(row, (*columns, "answers", "system"))
    manner.aside.see(columns=_filled(fields))
    golds = unique([messages[-1].content, *golds])
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


def _squad(row: Row, location: str, manner: _Manner) -> Iterator[Outcome]:
    if "paragraphs" not in row:
        yield _squad_question(row, _text(row, "context"), location, row, manner)
        return
    for number, paragraph in enumerate(_list(row, "paragraphs"), 1):
        where = f"{location}.{number}"
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            reason = Sentence.of("reasons.paragraph")
            yield Rejection(where, reason, excerpt(paragraph))
            continue
        for index, qa in enumerate(paragraph["qas"], 1):
            yield _squad_item(qa, paragraph, f"{where}.{index}", row, manner)


def _squad_item(qa: Any, paragraph: Row, location: str, article: Row, manner: _Manner) -> Outcome:
    try:
        if not isinstance(qa, dict):
            raise Unfit("reasons.question", kind=kind_of(qa))
        return _squad_question(qa, _text(paragraph, "context"), location, article, manner)
    except (Unfit, DataError) as error:
        return Rejection(location, error.message, excerpt(qa))


def _squad_question(qa: Row, context: str, location: str, row: Row, manner: _Manner) -> Outcome:
    """Read a question; its title, its system text and some fields stand in the row."""
    question, golds = _text(qa, "question"), golds_of(qa.get("answers"))
    silent = has_no_answer(qa, golds)
    if not silent and not golds:
        raise Unfit("reasons.no_answer")
    said = _no_answer(manner) if silent else golds[0]
    last = (Message("user", user_content(question, context)), Message("assistant", said))
    turns = Turns((*_system(row), *last), typed=_typed(qa))
    messages = turns.settled(manner.aside, examined=True)
    manner.aside.unanswered += silent
    title = row.get("title")
    named = isinstance(title, str) and title.strip()
    group = group_key(str(title) if named else context)
    fields = {**_fields(row, _SQUAD_COLUMNS), **_fields(qa, _SQUAD_COLUMNS)}
    if named:
        fields["title"] = title
    manner.aside.see(columns=_filled(fields))
    return Conversation(messages, golds, group, location, fields)


_SQUAD_COLUMNS = ("question", "context", "answers", "title", "is_impossible", "paragraphs",
                  "system")  # fmt: skip


def _document(row: Row, location: str, manner: _Manner) -> Iterator[Outcome]:
    text = _text(row, "text")
    if len(row) > 1:
        manner.aside.see(columns=_filled(_fields(row, ("text",))))
    yield Document(text, group_key(text), location)


_PARSERS: dict[str, Callable[[Row, str, _Manner], Iterator[Outcome]]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _messages,
    "squad": _squad,
    "text": _document,
}


def _text(row: Row, name: str, alias: str = "", needed: bool = True) -> str:
    """Take a column that must be text, and not blank when it is needed."""
    value = row.get(name)
    own = row.own if isinstance(row, Named) else {}
    label = own.get(name, name)
    if alias and label in (name, alias):
        label = f"{name} ({alias})"
    if value is None and not needed:
        return ""
    if name not in row:
        raise Unfit(
            "reasons.no_column", name=label, known=", ".join(sorted(map(str, own.values() or row)))
        )
    text = text_of(value, label)
    if needed and not text.strip():
        raise Unfit("reasons.empty", name=label)
    return text if text.strip() else ""


def _list(row: Row, name: str) -> list[Any]:
    value = decoded(row.get(name))
    label = row.own.get(name, name) if isinstance(row, Named) else name
    if not isinstance(value, list):
        raise Unfit("reasons.list", name=label, kind=kind_of(value))
    if not value:
        raise Unfit("reasons.empty_list", name=label)
    return value


def _fields(row: Row, used: tuple[str, ...]) -> Row:
    """Keep the other columns, as values that JSON can hold."""
    return {str(name): _plain(cell) for name, cell in row.items() if name not in used}


def _filled(fields: Row) -> Iterator[str]:
    return (name for name, value in fields.items() if not is_nothing(value))


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
