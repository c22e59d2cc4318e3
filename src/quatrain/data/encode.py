"""Encode: turn records into token ids and masks, in blocks, with statistics.

A conversation longer than a row is left out completely, so that no answer is ever cut; a document
longer than a row becomes pieces. Not for the prompt's wording (text/chat.py) nor for rows.

    document  "Un. Deux. Trois."  block_size 6   ->   bos Un.   bos Deux.   bos Trois. end
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from quatrain.data.aside import CONTROL_LIKE
from quatrain.data.question import mark, marks
from quatrain.data.records import Records
from quatrain.data.rows import Block
from quatrain.errors import DataError
from quatrain.text.chat import ChatFormat, EncodedBlock
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import Tokenizer

T = TypeVar("T")
U = TypeVar("U")

_BOUNDARIES = (r"(?<=\n)", r"(?<=[.!?…»])(?=\s)", r"(?<=\s)(?=\S)", r"(?<=.)(?=.)")
"""Where a document may be split, best first: after a line, a sentence, a word, a character."""
_ROUNDING = 64
_BLOCK = 1 << 18
"""Characters to encode at a time: a token takes some 200 bytes meanwhile."""
_LONG = 16
"""Characters per token above which a document is assumed to be longer than a row."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A conversation that is left out because its answer would be cut."""

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
    duplicates: int = 0
    """Records that repeat an earlier one, apart from typography."""
    unanswered: int = 0
    """Conversations whose last question has no answer."""
    several_turns: int = 0
    """Conversations with more than one question."""
    control_like: int = 0
    """Records with text that looks like a control token; it is encoded as ordinary text."""
    longest: int = 0
    """Tokens of the longest conversation, set aside or not."""
    too_long: list[TooLong] = field(default_factory=list)


class Encoder:
    """Encodes records into ids and masks, and keeps statistics."""

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
        self._seen = set[int]()

    def stream(self, records: Records) -> Iterator[Block]:
        """Encode conversations, then documents, each as one record or several.

        Conversations are not checked again: parsing did that.
        """
        yield from self._conversations(records.conversations)
        yield from self._documents(document.text for document in records.documents)

    def _conversations(self, conversations: Iterable[Conversation]) -> Iterator[Block]:
        def encode(block: list[Conversation]) -> EncodedBlock:
            return self.chat.encode_block(block, self.tokenizer)

        for block, encoded in ahead(encode, blocks(conversations, characters)):
            for conversation in block:
                texts = [message.content for message in conversation.messages]
                self.counts.unanswered += not conversation.has_answer
                asked = sum(one.role == "user" for one in conversation.messages)
                self.counts.several_turns += asked > 1
                self._look_at(texts, marks(conversation).whole)
            yield self._counted(self._those_that_fit(block, encoded))

    def _those_that_fit(self, block: list[Conversation], encoded: EncodedBlock) -> Block:
        """Set conversations longer than a row aside, and say what is a target in the others."""
        counts, lengths = self.counts, np.array(encoded.lengths, dtype=np.int64)
        ids = np.frombuffer(encoded.ids, dtype=np.int32)
        mask = np.frombuffer(encoded.mask, dtype=np.bool_)
        fit = lengths <= self.block_size
        for index in np.flatnonzero(~fit).tolist():
            place = counts.conversations + index
            location = block[index].source
            counts.too_long.append(TooLong(place, location, encoded.lengths[index]))
        counts.conversations += len(block)
        counts.longest = max(counts.longest, *encoded.lengths)
        if not fit.all():
            kept = np.repeat(fit, lengths)
            ids, mask, lengths = ids[kept], mask[kept], lengths[fit]
        return Block(ids, _all_but_firsts(lengths) if self.task == "pretrain" else mask, lengths)

    def _documents(self, texts: Iterable[str]) -> Iterator[Block]:
        longest = _LONG * self.block_size

        def encode(block: list[str]) -> list[list[int]]:
            short = [text for text in block if len(text) <= longest]
            return [one.ids for one in self.chat.encode_documents(short, self.tokenizer)]

        for block, encoded in ahead(encode, blocks(texts, len)):
            all_ids, held = iter(encoded), list[Sequence[int]]()
            for text in block:
                self.counts.documents += 1
                self._look_at([text], mark(text))
                ids = next(all_ids) if len(text) <= longest else None
                if ids is not None and len(ids) <= self.block_size:
                    held.append(ids)
                    continue
                if held:
                    yield self._counted(_whole(held))
                    held = []
                yield from self._cut(text)
            if held:
                yield self._counted(_whole(held))

    def _cut(self, text: str) -> Iterator[Block]:
        num_pieces = 0
        for ids in self._pieces(text):
            num_pieces += 1
            yield self._counted(_whole([ids]))
        self.counts.pieces += num_pieces if num_pieces > 1 else 0

    def _look_at(self, texts: Sequence[str], whole: int) -> None:
        """Count what a record's texts hold; `whole` marks them (a collision: one in 10^7 runs)."""
        self.counts.control_like += any(map(CONTROL_LIKE.search, texts))
        self.counts.duplicates += whole in self._seen
        self._seen.add(whole)

    def _counted(self, block: Block) -> Block:
        self.counts.tokens += len(block.ids)
        self.counts.targets += int(np.count_nonzero(block.mask))
        return block

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
        added = size(item)
        if block and held + added > _BLOCK:
            yield block
            block, held = [], 0
        block.append(item)
        held += added
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
    """Encode units joined; if that gives more tokens than apart, halve them."""
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


def ahead(function: Callable[[T], U], items: Iterable[T]) -> Iterator[tuple[T, U]]:
    """Give each item with its result, while a thread already works on the next one."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[T, Future[U]] | None = None
        for item in items:
            done, waiting = waiting, (item, pool.submit(function, item))
            if done is not None:
                yield done[0], done[1].result()
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _whole(all_ids: Sequence[Sequence[int]]) -> Block:
    """Make a block of documents, of which all but the first token is a target."""
    lengths = np.array([len(ids) for ids in all_ids], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(all_ids), dtype=np.int32, count=int(lengths.sum()))
    return Block(ids, _all_but_firsts(lengths), lengths)


def _all_but_firsts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    mask = np.ones(lengths.sum(), dtype=np.bool_)
    mask[np.cumsum(lengths) - lengths] = False
    return mask
