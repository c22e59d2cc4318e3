"""Turns: a list of role and content becomes messages, and says which answers are learnt.

    weight, loss_scale           1 learns a turn, 0 has it as context alone (OpenAI, ms-swift)
    train, training, trainable   true or false, likewise (axolotl)
    loss                         either spelling (ms-swift)
    masked                       the reverse of train

Any other key is refused where training without it would teach something else, or else counted, to
be said once a file (aside.py). Not for the order of turns (text/roles.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from quatrain.data.aside import Aside
from quatrain.data.json_rows import kind_of
from quatrain.text.conversation import Message, Role
from quatrain.text.roles import check
from quatrain.words import Sentence

_SHAREGPT: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_TOOL_ROLES = {"tool", "function", "ipython", "observation", "tool_call", "tool_response"}
_TOOL_ROLES |= {"tool_calls", "function_call", "function_response"}
_TOOL_KEYS = ("tool_calls", "tool_call", "function_call")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_UNCLEAR = ("mask", "loss_mask", "train_detail", "training_detail")
"""Keys that programs read in opposite ways, or that learn a part of a turn."""
_NUMBERS, _FLAGS = ("weight", "loss_scale", "loss"), ("train", "training", "trainable", "loss")
_MASKED = "masked"
_SHOWN = 40


class Unfit(ValueError):
    """A row, or a part of one, breaks a rule; the message is the rejection's reason."""

    def __init__(self, key: str, /, **values: object) -> None:
        super().__init__(key)
        self.message = Sentence.of(key, **values)


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of one record."""

    messages: tuple[Message, ...]
    keys: tuple[str, ...] = ()
    """Keys that are not used, one for each turn that has it."""
    asking: int = 0
    """Turns of others than the assistant that ask to be learnt."""

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
        return kept


def read_messages(turns: Sequence[Any]) -> Turns:
    """Read turns of `role` and `content`."""
    return _read(turns, "role", "content", renamed=False)


def read_sharegpt(turns: Sequence[Any]) -> Turns:
    """Read turns of `from` and `value`."""
    return _read(turns, "from", "value", renamed=True)


def _read(turns: Sequence[Any], role_key: str, text_key: str, renamed: bool) -> Turns:
    messages, keys, asking = list[Message](), list[str](), 0
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unfit("reasons.message", kind=kind_of(turn))
        _refuse_keys(turn)
        role = _role(turn.get(role_key), role_key, renamed)
        content = turn.get(text_key)
        if not isinstance(content, str):
            raise Unfit("reasons.text", name=text_key, kind=kind_of(content))
        learnt = _learnt(turn)
        asking += role != "assistant" and learnt is True
        known = (role_key, text_key, *_SWITCHES)
        keys += [str(k) for k, value in turn.items() if k not in known and not _is_nothing(value)]
        messages.append(Message(role, content, role != "assistant" or learnt is not False))
    return Turns(tuple(messages), tuple(keys), asking)


def _role(name: Any, role_key: str, renamed: bool) -> Role:
    """Read a role's name; one of `messages` is checked with all others (text/roles.py)."""
    if isinstance(name, str) and name in _TOOL_ROLES:
        raise Unfit("reasons.tool_role", name=name)
    role: Any = _SHAREGPT.get(name) if renamed and isinstance(name, str) else name
    if not isinstance(role, str):
        raise Unfit("reasons.role", field=role_key, name=name, known=", ".join(_SHAREGPT))
    return cast(Role, role)


def _refuse_keys(turn: dict[str, Any]) -> None:
    for keys, reason in ((_TOOL_KEYS, "tool_key"), (_MEDIA, "media"), (_UNCLEAR, "unclear_key")):
        for key in keys:
            if not _is_nothing(turn.get(key)):
                raise Unfit(f"reasons.{reason}", name=key)


def _learnt(turn: dict[str, Any]) -> bool | None:
    """Say what a turn's switches say of it, or None where it has none.

    Raises:
        Unfit: a switch has a value that means nothing, or two contradict each other.
    """
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


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})
