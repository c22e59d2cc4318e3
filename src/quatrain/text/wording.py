r"""How turns are worded: the fields of a chat format, and the text that they give.

    begin  header_start role header_end after_header  content  end_of_turn after_turn  ...

`after_header`, `after_turn`, the names of roles and what frames a system message are text, the
others are control tokens. An empty string leaves that piece out. Not for ids (text/chat.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from quatrain.rules import Broken
from quatrain.text.conversation import Message
from quatrain.words import Sentence


class Wording(BaseModel):
    """What stands around the contents of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    begin: str = "<|begin_of_text|>"
    """Once, before everything."""
    header_start: str = "<|header_start|>"
    """Before each role's name."""
    header_end: str = "<|header_end|>"
    """After each role's name."""
    after_header: str = "\n\n"
    """Text between header and content."""
    end_of_turn: str = "<|eot|>"
    """Closes each message; the model learns to say it."""
    after_turn: str = ""
    """Text between messages."""
    end_of_text: str = "<|end_of_text|>"
    """Closes a document of pretraining."""
    stop: tuple[str, ...] = ("<|end_of_text|>", "<|eom|>", "<|eot|>")
    """Generation stops at any of these."""
    pad: str = "<|finetune_right_pad|>"
    """Fills rows; never closes a turn. Masks go by position, so no meaning hangs on it."""
    default_system: str = ""
    """The whole system message of conversations that have none, to the letter; an empty one of
    theirs counts as one."""
    before_system: str = ""
    """Text before a conversation's own system message, such as a date."""
    after_system: str = ""
    """Text after a conversation's own system message."""
    system_role: str = "system"
    user_role: str = "user"
    assistant_role: str = "assistant"

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        empty = [
            name
            for name in ("header_start", "end_of_turn", "end_of_text", "pad")
            if not getattr(self, name)
        ]
        if empty:
            raise Broken([Sentence.of("rules.chat.empty", fields=", ".join(empty))])
        unstopped = {self.end_of_turn, self.end_of_text} - set(self.stop)
        if unstopped:
            raise Broken([Sentence.of("rules.chat.stop", missing=", ".join(sorted(unstopped)))])
        if self.pad == self.end_of_turn:
            raise Broken([Sentence.of("rules.chat.pad", pad=self.pad)])
        return self

    def role_name(self, role: str) -> str:
        """Spell a role as the format does."""
        name: str = getattr(self, f"{role}_role")
        return name

    def header(self, role: str) -> str:
        """Write what precedes a role's content, as one string for templates."""
        return self.header_start + self.role_name(role) + self.header_end + self.after_header

    def control_tokens(self) -> tuple[str, ...]:
        """Name every control token that the format needs, each once."""
        names = (
            self.begin,
            self.header_start,
            self.header_end,
            self.end_of_turn,
            self.end_of_text,
            *self.stop,
            self.pad,
        )
        return tuple(dict.fromkeys(name for name in names if name))

    def said(self, messages: Sequence[Message]) -> Iterator[Message]:
        """Give each turn as it is said, without whitespace around what somebody wrote.

        An empty system message is left out; where there is none the default is said.
        """
        if self.default_system and messages[0].role != "system":
            yield Message("system", self.default_system)
        for message in messages:
            text = message.content.strip()
            if message.role == "system" and text:
                text = self.before_system + text + self.after_system
            if text:
                as_it_is = text == message.content
                yield message if as_it_is else Message(message.role, text, message.learnt)

    def written(self, messages: Sequence[Message]) -> str:
        """Write a conversation as one string, as the exported template does.

        One that ends with the user gets the header of the answer.
        """
        turns = [
            self.header(turn.role) + turn.content + self.end_of_turn + self.after_turn
            for turn in self.said(messages)
        ]
        answer = self.header("assistant") if messages[-1].role == "user" else ""
        return self.begin + "".join(turns) + answer

    def longest_system(self) -> int:
        """Bound the bytes that the format itself adds to a conversation's system message."""
        framed = len(self.before_system.encode()) + len(self.after_system.encode())
        return max(framed, len(self.default_system.encode()))
