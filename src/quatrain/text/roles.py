"""The rules of a conversation's turns: who speaks, in which order, and that they say something.

    system?  user  assistant  user  assistant ...      training ends with the assistant,
                                                       asking ends with the user

Not for wording turns as tokens (text/chat.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from quatrain.errors import DataError
from quatrain.text.conversation import Message, Role

ROLES: tuple[str, ...] = get_args(Role)


def check(
    messages: Sequence[Message], *, ends_with: Literal["user", "assistant"], source: str = ""
) -> None:
    """Make sure that a conversation can be trained on, or answered.

    An empty system message is allowed: it counts as none.

    Raises:
        DataError: a rule is broken; it names `source` and the message's place, from 1.
    """
    place = f"{source}: " if source else ""
    for number, message in enumerate(messages, start=1):
        _check_message(message, f"{place}message {number}")
    _check_order([message.role for message in messages], place)
    last = messages[-1].role if messages else "nothing"
    if last != ends_with:
        purpose = "to train on" if ends_with == "assistant" else "to answer"
        remedy = "Add the answer." if ends_with == "assistant" else "Add a question."
        raise DataError(
            "Q309",
            f"{place}the conversation ends with {last}; one {purpose} ends with {ends_with}",
            remedy if messages else "Add a question and its answer, or leave the record out.",
        )


def _check_message(message: Message, place: str) -> None:
    if message.role not in ROLES:
        raise DataError(
            "Q306",
            f"{place} has the role {message.role!r}; roles are {', '.join(ROLES)}",
            "Rename the role, or leave the record out.",
        )
    if message.role != "system" and not message.content.strip():
        raise DataError(
            "Q307",
            f"{place} ({message.role}) is empty; users and assistants must say something",
            "Fill it in, or leave the record out.",
        )


def _check_order(roles: list[Role], place: str) -> None:
    """Check that user and assistant take turns after at most one system message."""
    if "system" in roles[1:]:
        number = 1 + roles.index("system", 1)
        raise DataError(
            "Q308",
            f"{place}message {number} is a system message; only the first may be",
            "Join the system messages into the first.",
        )
    turns = roles[1:] if roles[:1] == ["system"] else roles
    for index, role in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if role != expected:
            number = 1 + index + len(roles) - len(turns)
            raise DataError(
                "Q308",
                f"{place}message {number} is the {role}'s, {expected} was expected; they take "
                "turns, and the user begins",
                "Join turns of one speaker, or leave the record out.",
            )
