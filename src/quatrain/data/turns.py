"""Turns: a list of turns becomes messages, and says which answers are learnt.

    {role, content}, {from, value}            one turn
    {human, assistant}, {input, output} ...   a question and its answer, perhaps with a system text

    weight, loss_scale           1 learns a turn, 0 has it as context alone (OpenAI, ms-swift)
    train, training, trainable   true or false, likewise (axolotl)
    loss                         either spelling (ms-swift)
    output_with_loss             true or false, likewise (xtuner)
    masked                       the reverse of train

Any other key is refused where training without it would teach something else, or else counted, to
be said once a file (aside.py). Not for the order of turns (text/roles.py), nor for how the calls of
tools are written (tools.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from quatrain.data import tools
from quatrain.data.aside import Aside
from quatrain.data.json_rows import kind_of
from quatrain.data.values import (
    MEDIA,
    Unfit,
    content_of,
    count_typed,
    is_nothing,
    keys_of_parts,
)
from quatrain.text.conversation import Message, Role
from quatrain.text.roles import check

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
}
_TOOL_ROLES = tools.CALLING | tools.ANSWERING
_PAIRS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("input", "output"),
    ("question", "answer"),
    ("instruction", "output"),
    ("prompt", "response"),
)
"""Keys of a turn that is a question and its answer."""
_UNCLEAR = ("mask", "loss_mask", "train_detail", "training_detail")
"""Keys that programs read in opposite ways, or that learn a part of a turn."""
_NUMBERS = ("weight", "loss_scale", "loss")
_FLAGS = ("train", "training", "trainable", "loss", "output_with_loss")
_MASKED = "masked"
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of one record."""

    messages: tuple[Message, ...]
    keys: tuple[str, ...] = ()
    """Keys that are not used, one for each turn that has it."""
    asking: int = 0
    """Turns of others than the assistant that ask to be learnt."""
    typed: int = 0
    """Texts that the file has as numbers or booleans."""

    def settled(self, aside: Aside, examined: bool) -> tuple[Message, ...]:
        """Check the messages, leave out those behind the last learnt answer, and count.

        Args:
            aside: gets the counts.
            examined: whether the record lists right answers to its last question.

        Raises:
            DataError: a turn is out of order or says nothing.
            Unfit: no answer is learnt, or right answers are listed for one that is not.
        """
        check(self.messages, ends_with="assistant")
        answers = [i for i, message in enumerate(self.messages) if message.role == "assistant"]
        learnt = [index for index in answers if self.messages[index].learnt]
        if not learnt:
            raise Unfit("reasons.nothing_learnt")
        kept = self.messages[: learnt[-1] + 1]
        if examined and len(kept) < len(self.messages):
            raise Unfit("reasons.examined_unlearnt")
        aside.see(keys=self.keys)
        aside.context += sum(index < learnt[-1] for index in answers) + 1 - len(learnt)
        aside.left_out += len(self.messages) - len(kept)
        aside.asking += self.asking
        aside.typed += self.typed
        return kept


def read_turns(turns: Sequence[Any], tools_as_text: bool = False) -> Turns:
    """Read a list of turns, each of role and content, of from and value, or a pair.

    Args:
        turns: what the file holds.
        tools_as_text: write calls of tools as text, rather than refuse them.
    """
    reading = _Reading(tools_as_text)
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unfit("reasons.message", kind=kind_of(turn))
        reading.read(turn)
    return Turns(tuple(reading.messages), tuple(reading.keys), reading.asking, reading.typed)


@dataclass(slots=True)
class _Reading:
    """The turns of one record, as they are read."""

    tools_as_text: bool
    messages: list[Message] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    asking: int = 0
    typed: int = 0
    open_to_more: bool = False
    """Whether the last message was written for a tool, and one of its speaker's may go on."""

    def read(self, turn: dict[str, Any]) -> None:
        """Take one turn."""
        _refuse_keys(turn, () if self.tools_as_text else tools.CALL_KEYS)
        role_key, text_key = _key(turn, "role", "from"), _key(turn, "content", "value")
        if role_key is None and text_key is None:
            for question, answer in _PAIRS:
                if question in turn and answer in turn:
                    self._take_pair(turn, question, answer)
                    return
        role_key = role_key or ("from" if text_key == "value" else "role")
        text_key = text_key or ("value" if role_key == "from" else "content")
        self._see_keys(turn, role_key, text_key, *tools.CALL_KEYS)
        self._take(turn, turn.get(role_key), role_key, text_key)
        if isinstance(turn.get(text_key), list):
            self.keys += keys_of_parts(turn[text_key])

    def _take(self, turn: dict[str, Any], name: Any, role_key: str, text_key: str) -> None:
        said, learnt = turn.get(text_key), _learnt(turn)
        if isinstance(name, str) and name in _TOOL_ROLES:
            if not self.tools_as_text:
                raise Unfit("reasons.tool_role", name=name)
            calling = name in tools.CALLING
            text = tools.calls_of(said) if calling else tools.response_of(_joined(said, text_key))
            self._add("assistant" if calling else "user", text, learnt, for_tool=True)
            return
        role = _role(name, role_key)
        calls = self.tools_as_text and [
            turn[key] for key in tools.CALL_KEYS if not is_nothing(turn.get(key))
        ]
        if calls and role != "assistant":
            raise Unfit("reasons.tool_key", name=_first_call_key(turn))
        text = "" if calls and said is None else content_of(said, text_key)
        self.typed += count_typed([said])
        if calls:
            text = "\n".join([*([text] if text.strip() else []), *map(tools.calls_of, calls)])
        self._add(role, text, learnt, for_tool=bool(calls))

    def _take_pair(self, turn: dict[str, Any], question: str, answer: str) -> None:
        self._see_keys(turn, question, answer, "system")
        if not is_nothing(turn.get("system")):
            self._add("system", content_of(turn["system"], "system"), None)
        self._add("user", content_of(turn[question], question), None)
        self._add("assistant", content_of(turn[answer], answer), _learnt(turn))
        self.typed += count_typed([turn[question], turn[answer]])

    def _see_keys(self, turn: dict[str, Any], *known: str) -> None:
        used = (*known, *_SWITCHES)
        self.keys += [
            str(k) for k, value in turn.items() if k not in used and not is_nothing(value)
        ]

    def _add(self, role: Role, text: str, learnt: bool | None, for_tool: bool = False) -> None:
        """Put a message at the end; what is said to or by a tool joins its speaker's last turn."""
        self.asking += role != "assistant" and learnt is True
        message = Message(role, text, role != "assistant" or learnt is not False)
        last = self.messages[-1] if self.messages else None
        if last is not None and last.role == role and (for_tool or self.open_to_more):
            if last.learnt != message.learnt:
                raise Unfit("reasons.joined_turns")
            self.messages[-1] = replace(last, content=f"{last.content}\n{text}")
            self.open_to_more = True
            return
        self.messages.append(message)
        self.open_to_more = for_tool


def _joined(said: Any, name: str) -> Any:
    """Join the parts of what a tool says; any other list is its answer."""
    of_text = isinstance(said, list) and all(isinstance(p, dict) and "type" in p for p in said)
    return content_of(said, name) if of_text else said


def _key(turn: dict[str, Any], *names: str) -> str | None:
    """Find which of two keys a turn has."""
    there = [name for name in names if name in turn]
    if len(there) > 1:
        there = [name for name in there if turn[name] is not None] or there[:1]
    if len(there) > 1:
        raise Unfit("reasons.two_keys", names=tuple(there))
    return there[0] if there else None


def _role(name: Any, role_key: str) -> Role:
    """Read a role's name; one of `role` is checked with all others (text/roles.py)."""
    role: Any = _ROLES.get(name) if isinstance(name, str) else None
    if role is None and role_key == "role":
        role = name
    if not isinstance(role, str):
        raise Unfit("reasons.role", field=role_key, name=name, known=", ".join(_ROLES))
    return cast(Role, role)


def _first_call_key(turn: dict[str, Any]) -> str:
    return next(key for key in tools.CALL_KEYS if not is_nothing(turn.get(key)))


def _refuse_keys(turn: dict[str, Any], calls: Sequence[str]) -> None:
    if _REFUSED.isdisjoint(turn):
        return
    for keys, reason in ((calls, "tool_key"), (MEDIA, "media"), (_UNCLEAR, "unclear_key")):
        for key in keys:
            if not is_nothing(turn.get(key)):
                raise Unfit(f"reasons.{reason}", name=key)


def _learnt(turn: dict[str, Any]) -> bool | None:
    """Say what a turn's switches say of it, or None where it has none.

    Raises:
        Unfit: a switch has a value that means nothing, or two contradict each other.
    """
    if _ALL_SWITCHES.isdisjoint(turn):
        return None
    said = {key: _switch(key, turn[key]) for key in _SWITCHES if turn.get(key) is not None}
    if len(set(said.values())) > 1:
        raise Unfit("reasons.switches", names=tuple(said))
    return next(iter(said.values()), None)


def _switch(key: str, value: Any) -> bool:
    if isinstance(value, bool):
        if key in _FLAGS:
            return value
        if key == _MASKED:
            return not value
    elif key in _NUMBERS and isinstance(value, int | float) and value in (0, 1):
        return value == 1
    rule = "weight" if key in _NUMBERS else "flag"
    shown = json.dumps(value, ensure_ascii=False, default=str)[:_SHOWN]
    raise Unfit(f"reasons.{rule}", name=key, value=shown)


_SWITCHES = tuple(dict.fromkeys([*_NUMBERS, *_FLAGS, _MASKED]))
_ALL_SWITCHES = frozenset(_SWITCHES)
_REFUSED = frozenset((*tools.CALL_KEYS, *MEDIA, *_UNCLEAR))
