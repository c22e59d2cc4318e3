r"""The chat format: how conversations become ids and a loss mask, here and nowhere else.

Training, asking and every export use one ChatFormat, stored with the model. Control tokens are
placed by name, and each content is encoded on its own, so content never becomes a control token.
For Llama 4, with `1` where the loss counts:

    <begin> <header_start> user <header_end> \n\n Bonjour ! <eot>        0 0 0 0 0 0 0 0
            <header_start> assistant <header_end> \n\n Salut . <eot>       0 0 0 0 1 1 1

Content is stripped, as in the exported template: a newline at its start would merge with the "\n\n"
before it, and the ids would depend on who joined the text.
Differs from Llama 4: its own template strips the system message only, and so gives other ids for
user or assistant content with whitespace around it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from quatrain.files import write_json, write_text
from quatrain.rules import problems_of
from quatrain.text.conversation import Conversation, Message
from quatrain.text.roles import ROLES, check
from quatrain.text.template import chat_template
from quatrain.text.tokenizer import Tokenizer
from quatrain.text.tokenizer_files import broken, read_object
from quatrain.text.wording import Wording
from quatrain.words import Sentence

__all__ = [
    "CHATML",
    "CONTEXT_SEPARATOR",
    "LLAMA3",
    "LLAMA4",
    "ChatFormat",
    "Encoded",
    "EncodedBlock",
    "check",
    "user_content",
]

CHAT_FORMAT_FILE = "chat_format.json"
TEMPLATE_FILE = "chat_template.jinja"
CONTEXT_SEPARATOR = "\n\n"
"""Between a question and its context."""

_MAX_FORMAT_BYTES = 2**20


def user_content(question: str, context: str | None = None) -> str:
    """Join a question and its context, in training and asking; a blank context counts as none."""
    if context is None or not context.strip():
        return question
    return question + CONTEXT_SEPARATOR + context


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each one whether the model is trained to say it."""

    ids: list[int]
    mask: list[bool]


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """Encoded conversations, end to end and in little memory."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    """Token ids, [N], of four bytes each."""
    mask: bytearray = field(default_factory=bytearray)
    """1 where the model is trained to say the token, else 0; [N]."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of each conversation; their sum is N."""

    def __iter__(self) -> Iterator[Encoded]:
        """Give each conversation."""
        begin = 0
        for end in accumulate(self.lengths):
            mask = [learned == 1 for learned in self.mask[begin:end]]
            yield Encoded(self.ids[begin:end].tolist(), mask)
            begin = end


class ChatFormat(Wording):
    """A chat format as a value, and the ids that it gives."""

    def encode_conversation(self, conversation: Conversation, tokenizer: Tokenizer) -> Encoded:
        """Encode a conversation to train on; see `encode_conversations`."""
        return self.encode_conversations([conversation], tokenizer)[0]

    def encode_conversations(
        self, conversations: Iterable[Conversation], tokenizer: Tokenizer
    ) -> list[Encoded]:
        """Encode conversations to train on; the mask covers each learnt answer and its end of turn.

        Raises:
            DataError: turns break a rule of `check`.
            CheckpointError: the tokenizer lacks control tokens of this format; it names them.
        """
        conversations = list(conversations)
        for conversation in conversations:
            check(conversation.messages, ends_with="assistant", source=conversation.source)
        return list(self.encode_block(conversations, tokenizer))

    def encode_block(
        self, conversations: Iterable[Conversation], tokenizer: Tokenizer
    ) -> EncodedBlock:
        """Encode conversations that passed `check`, end to end; see `encode_conversations`."""
        said = [list(self.said(conversation.messages)) for conversation in conversations]
        texts = [turn.content for turns in said for turn in turns]
        contents = iter(tokenizer.encode_arrays(texts))
        pieces, block = _Pieces.of(self, tokenizer), EncodedBlock()
        for turns in said:
            pieces.add(block, [(turn, next(contents)) for turn in turns])
        return block

    def encode_prompt(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Encode what comes before the answer: the ids with which a training example begins."""
        check(messages, ends_with="user")
        said = list(self.said(messages))
        contents = tokenizer.encode_arrays([turn.content for turn in said])
        pieces, block = _Pieces.of(self, tokenizer), EncodedBlock()
        pieces.add(block, zip(said, contents, strict=True))
        return [*block.ids, *pieces.headers["assistant"]]

    def encode_answer(self, answer: str, tokenizer: Tokenizer) -> list[int]:
        """Encode what the assistant learns to say after a prompt: an answer, and its end."""
        return [*tokenizer.encode(answer), tokenizer.control_id(self.end_of_turn)]

    def encode_document(self, text: str, tokenizer: Tokenizer) -> Encoded:
        """Encode a text to pretrain on; see `encode_documents`."""
        return self.encode_documents([text], tokenizer)[0]

    def encode_documents(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded]:
        """Encode texts to pretrain on; the mask covers all ids but the first."""
        control = tokenizer.require(self.control_tokens(), needed_by="the chat format")
        begin = [control[self.begin]] if self.begin else []
        end = control[self.end_of_text]
        all_ids = [[*begin, *ids, end] for ids in tokenizer.encode_batch(texts)]
        return [Encoded(ids, [False] + [True] * (len(ids) - 1)) for ids in all_ids]

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Find the ids at which generation stops."""
        return frozenset(tokenizer.require(self.stop, needed_by="the chat format").values())

    def pad_id(self, tokenizer: Tokenizer) -> int:
        """Find the id that fills rows."""
        return tokenizer.require([self.pad], needed_by="the chat format")[self.pad]

    def chat_template(self) -> str:
        """Write the same format as a Jinja template, for other programs."""
        return chat_template(self)

    def save(self, directory: Path) -> None:
        """Write `chat_format.json` and `chat_template.jinja`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / CHAT_FORMAT_FILE, self.model_dump(mode="json"))
        write_text(directory / TEMPLATE_FILE, self.chat_template())

    @classmethod
    def load(cls, directory: Path) -> ChatFormat:
        """Read `chat_format.json`; the template is never read back.

        Raises:
            CheckpointError: the file is missing, too large, or breaks a rule.
        """
        path = Path(directory) / CHAT_FORMAT_FILE
        value = read_object(path, _MAX_FORMAT_BYTES)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            reason = Sentence.of("reasons.rules", problems=problems_of(error))
            raise broken(path, reason) from error

    def adapted_to(self, tokenizer: Tokenizer) -> ChatFormat:
        """Leave out what a tokenizer lacks, as far as the format can do without it.

        Stop tokens that do not exist cannot occur. Without a padding token, or if that is the one
        that ends a turn, the end of text fills rows: masks go by position.
        """
        has = tokenizer.has_control
        end_of_text = self.end_of_text if has(self.end_of_text) else self.end_of_turn
        spare = [name for name in (self.pad, tokenizer.names.pad, end_of_text) if name]
        pads = [name for name in spare if has(name) and name != self.end_of_turn]
        stops = {name for name in self.stop if has(name)} | {self.end_of_turn, end_of_text}
        return self.model_copy(
            update={
                "begin": self.begin if self.begin and has(self.begin) else "",
                "end_of_text": end_of_text,
                "stop": tuple(sorted(stops)),
                "pad": pads[0] if pads else self.header_start,
            }
        )


LLAMA4 = ChatFormat()
"""Llama 4's format, and that of models made here."""

LLAMA3 = ChatFormat(
    header_start="<|start_header_id|>",
    header_end="<|end_header_id|>",
    end_of_turn="<|eot_id|>",
    stop=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    pad="<|finetune_right_pad_id|>",
)
"""The format of Llama 3.1 and later, without its date line."""

CHATML = ChatFormat(
    begin="",
    header_start="<|im_start|>",
    header_end="",
    after_header="\n",
    end_of_turn="<|im_end|>",
    after_turn="\n",
    end_of_text="<|endoftext|>",
    stop=("<|im_end|>", "<|endoftext|>"),
    pad="<|endoftext|>",
)
"""The format of Qwen and many others, without a default system message."""


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The fixed parts of a format as ids, encoded once for each tokenizer."""

    begin: array[int]
    headers: dict[str, array[int]]
    after_content: array[int]

    @classmethod
    def of(cls, chat: ChatFormat, tokenizer: Tokenizer) -> _Pieces:
        """Give those of a format, which are made once."""
        known = _known.setdefault(tokenizer, {})
        if chat not in known:
            known[chat] = cls._made(chat, tokenizer)
        return known[chat]

    @classmethod
    def _made(cls, chat: ChatFormat, tokenizer: Tokenizer) -> _Pieces:
        """Look up the control tokens; encode the text between any two of them as one piece."""
        control = tokenizer.require(chat.control_tokens(), needed_by="the chat format")

        def header(role: str) -> list[int]:
            start = [control[chat.header_start]]
            name = chat.role_name(role)
            if not chat.header_end:
                return start + tokenizer.encode(name + chat.after_header)
            middle = [*tokenizer.encode(name), control[chat.header_end]]
            return start + middle + tokenizer.encode(chat.after_header)

        after_turn = tokenizer.encode(chat.after_turn)
        return cls(
            begin=array("i", [control[chat.begin]] if chat.begin else []),
            headers={role: array("i", header(role)) for role in ROLES},
            after_content=array("i", [control[chat.end_of_turn], *after_turn]),
        )

    def add(self, block: EncodedBlock, turns: Iterable[tuple[Message, array[int]]]) -> None:
        """Add a conversation to a block: turns with their encoded contents, and the mask."""
        ids, mask, before = block.ids, block.mask, len(block.ids)
        ids += self.begin
        for message, content in turns:
            ids += self.headers[message.role]
            if message.role == "assistant" and message.learnt:
                mask += bytes(len(ids) - len(mask)) + b"\1" * (len(content) + 1)
            ids += content
            ids += self.after_content
        mask += bytes(len(ids) - len(mask))
        block.lengths.append(len(ids) - before)


_known: WeakKeyDictionary[Tokenizer, dict[ChatFormat, _Pieces]] = WeakKeyDictionary()
