"""Encode: records become token ids and masks, a block at a time, and everything is counted.

A conversation longer than a row is set aside whole, so that no answer is ever cut; a document
longer than a row becomes pieces. Not for the prompt's wording (text/chat.py) nor for rows.

    document  "Un. Deux. Trois."  block_size 6   ->   bos Un.   bos Deux.   bos Trois. end
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from quatrain.data.records import Records
from quatrain.errors import DataError
from quatrain.text.chat import ChatFormat, Encoded
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import Tokenizer

T = TypeVar("T")
Pair = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]

CONTROL_LIKE = re.compile(r"<\|[^|\s]{1,64}\|>|</?s>|\[/?INST\]")
"""What looks like a control token of some model; as content it is encoded as the text it is."""
_BOUNDARIES = (r"(?<=\n)", r"(?<=[.!?…»])(?=\s)", r"(?<=\s)(?=\S)", r"(?<=.)(?=.)")
"""Where a document may be cut, best first: after a line, a sentence, a word, a character."""
_ROUNDING = 64
_BLOCK = 1 << 18
"""Characters whose token lists exist at one time: a token takes some 200 bytes meanwhile."""
_LONG = 16
"""Characters a token; a document with more than so many is taken for longer than a row."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A conversation that is set aside, since its answer would be cut."""

    index: int
    """Its place among the conversations."""
    location: str
    tokens: int


@dataclass(slots=True)
class Counts:
    """What was encoded."""

    conversations: int = 0
    documents: int = 0
    pieces: int = 0
    """Parts of documents that did not fit in a row."""
    tokens: int = 0
    targets: int = 0
    control_like: int = 0
    """Records whose text looks like a control token; it is encoded as the text that it is."""
    longest: int = 0
    """Tokens of the longest conversation, set aside or not."""
    too_long: list[TooLong] = field(default_factory=list)


class Encoder:
    """Turns records into ids and masks, counting."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat: ChatFormat,
        block_size: int,
        task: Literal["sft", "pretrain"],
    ) -> None:
        """In `sft` answers are targets, in `pretrain` every token but a record's first is."""
        self.tokenizer, self.chat, self.block_size = tokenizer, chat, block_size
        self.task = task
        self.counts = Counts()

    def stream(self, records: Records) -> Iterator[Pair]:
        """Encode conversations, then documents, each as one or several (ids, mask)."""
        index = 0
        for block in blocks(records.conversations, characters):
            encoded = self.chat.encode_conversations(block, self.tokenizer)
            for conversation, pair in zip(block, encoded, strict=True):
                yield from self._conversation(index, conversation, pair)
                index += 1
        longest = _LONG * self.block_size
        for texts in blocks((document.text for document in records.documents), len):
            short = [text for text in texts if len(text) <= longest]
            pairs = iter(self.chat.encode_documents(short, self.tokenizer))
            for text in texts:
                yield from self._document(text, next(pairs) if len(text) <= longest else None)

    def _conversation(
        self, index: int, conversation: Conversation, encoded: Encoded
    ) -> Iterator[Pair]:
        counts, size = self.counts, len(encoded.ids)
        counts.conversations += 1
        counts.control_like += any(CONTROL_LIKE.search(m.content) for m in conversation.messages)
        counts.longest = max(counts.longest, size)
        if size > self.block_size:
            counts.too_long.append(TooLong(index, conversation.source, size))
            return
        mask = np.asarray(encoded.mask, dtype=np.bool_)
        yield self._counted(encoded.ids, _all_but_first(size) if self.task == "pretrain" else mask)

    def _document(self, text: str, encoded: Encoded | None) -> Iterator[Pair]:
        self.counts.documents += 1
        self.counts.control_like += CONTROL_LIKE.search(text) is not None
        if encoded is not None and len(encoded.ids) <= self.block_size:
            yield self._counted(encoded.ids, np.asarray(encoded.mask, dtype=np.bool_))
            return
        num_pieces = 0
        for ids in self._pieces(text):
            num_pieces += 1
            yield self._counted(ids, _all_but_first(len(ids)))
        self.counts.pieces += num_pieces if num_pieces > 1 else 0

    def _counted(self, ids: Sequence[int], mask: npt.NDArray[np.bool_]) -> Pair:
        self.counts.tokens += len(ids)
        self.counts.targets += int(mask.sum())
        return np.asarray(ids, dtype=np.int32), mask

    def _pieces(self, text: str) -> Iterator[Sequence[int]]:
        """Cut a document into pieces: each begins like a document, the last alone ends like one."""
        begin = [self.tokenizer.control_id(self.chat.begin)] if self.chat.begin else []
        end = self.tokenizer.control_id(self.chat.end_of_text)
        room = self.block_size - len(begin) - 1
        pieces = cut(text, room, self.tokenizer)
        held = next(pieces, [])
        for piece in pieces:
            yield [*begin, *held]
            held = piece
        if held:
            yield [*begin, *held, end]


def cut(text: str, room: int, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Cut a text into pieces of at most `room` tokens, at the best boundaries, losing nothing."""
    held: list[str] = []
    held_size = 0
    units = (unit for part in parts(text) for unit in _units(part, room, tokenizer))
    for unit, size in units:
        if held and held_size + size > room:
            yield from _encoded(held, room, tokenizer)
            held, held_size = [], 0
        held.append(unit)
        held_size += size
    if held:
        yield from _encoded(held, room, tokenizer)


def parts(text: str) -> Iterator[str]:
    """Cut a text into parts that take little memory to encode: after a line, or else a space."""
    start = 0
    while len(text) - start > _BLOCK:
        limit = start + _BLOCK
        end = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
        yield text[start:end]
        start = end
    yield text[start:]


def blocks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items until they have _BLOCK characters; a larger one stands alone."""
    block: list[T] = []
    held = 0
    for item in items:
        if block and held + size(item) > _BLOCK:
            yield block
            block, held = [], 0
        block.append(item)
        held += size(item)
    if block:
        yield block


def characters(conversation: Conversation) -> int:
    """Count the characters of all turns."""
    return sum(len(message.content) for message in conversation.messages)


def _units(text: str, room: int, tokenizer: Tokenizer, level: int = 0) -> Iterator[tuple[str, int]]:
    """Split a text at lines and sentences, and a sentence that is too long further down."""
    assert level < len(_BOUNDARIES), "a character has more tokens than a row"
    units = [unit for unit in re.split(_BOUNDARIES[level], text, flags=re.DOTALL) if unit]
    for unit, ids in zip(units, tokenizer.encode_batch(units), strict=True):
        if len(ids) > room or (level == 0 and len(ids) > room // 8):
            yield from _units(unit, room, tokenizer, level + 1)
        elif ids:
            yield unit, len(ids)


def _encoded(units: list[str], room: int, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Encode units joined; should they have more tokens joined than apart, halve them."""
    ids = tokenizer.encode("".join(units))
    if len(ids) <= room:
        yield ids
        return
    assert len(units) > 1, "a unit fits by itself"
    half = len(units) // 2
    yield from _encoded(units[:half], room, tokenizer)
    yield from _encoded(units[half:], room, tokenizer)


def refuse_cuts(counts: Counts, block_size: int, max_cut_fraction: float) -> None:
    """Stop when too many conversations are longer than a row."""
    number = len(counts.too_long)
    if not number or number <= max_cut_fraction * counts.conversations:
        return
    first = counts.too_long[0]
    enough = -(-counts.longest // _ROUNDING) * _ROUNDING
    raise DataError(
        "Q324.cut",
        number=number,
        conversations=counts.conversations,
        block_size=block_size,
        first=first.location,
        tokens=first.tokens,
        max_cut_fraction=max_cut_fraction,
        enough=enough,
    )


def refuse_no_targets(counts: Counts, block_size: int) -> None:
    """Stop when there is nothing to learn."""
    if not counts.targets:
        raise DataError(
            "Q303.no_targets",
            block_size=block_size,
            conversations=counts.conversations,
            too_long=len(counts.too_long),
            documents=counts.documents,
        )


def _all_but_first(size: int) -> npt.NDArray[np.bool_]:
    mask = np.ones(size, dtype=np.bool_)
    mask[0] = False
    return mask
