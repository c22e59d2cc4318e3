"""The rules of a conversation's turns: who speaks, in which order, and that no turn is empty.

    system?  user  assistant  user  assistant ...      training ends with the assistant,
                                                       asking ends with the user

Not for wording turns as tokens (text/chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from quatrain.errors import DataError
from quatrain.text.conversation import Message, Role
from quatrain.words import Sentence

ROLES: tuple[str, ...] = get_args(Role)
_WRONG_END = {
    "assistant": ("Q309.to_train_on", "Q309.nothing_to_train_on"),
    "user": ("Q309.to_answer", "Q309.nothing_to_answer"),
}
"""Keys for a conversation with messages, and for one without."""


def check(
    messages: Sequence[Message], *, ends_with: Literal["user", "assistant"], source: str = ""
) -> None:
    """Check that a conversation can be trained on, or answered.

    An empty system message is allowed: it counts as none.

    Raises:
        DataError: a rule is broken; it names `source` and the message's place, from 1.
    """
    place = f"{source}: " if source else ""
    for number, message in enumerate(messages, start=1):
        role = message.role
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise DataError("Q306.role", place=place, number=number, role=role, known=known)
        if role != "system" and not message.content.strip():
            raise DataError("Q307.empty", place=place, number=number, role=role)
    _check_order([message.role for message in messages], place)
    last = messages[-1].role if messages else Sentence.of("errors.nothing")
    if last != ends_with:
        something, nothing = _WRONG_END[ends_with]
        raise DataError(something if messages else nothing, place=place, last=last)


def _check_order(roles: list[Role], place: str) -> None:
    """Check that user and assistant take turns after at most one system message."""
    if "system" in roles[1:]:
        number = 1 + roles.index("system", 1)
        raise DataError("Q308.system", place=place, number=number)
    turns = roles[1:] if roles[:1] == ["system"] else roles
    for index, role in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if role != expected:
            number = 1 + index + len(roles) - len(turns)
            raise DataError("Q308.turn", place=place, number=number, role=role, expected=expected)
