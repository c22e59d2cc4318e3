"""Survey: one pass over sources that keeps a few numbers a record, and a bounded sample.

What a million records leave behind is some 200 bytes each, whatever their length: where each is,
how long, and marks of what it says (similar.py). Not for judging what was found (inspect.py).
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from quatrain.config import DataConfig
from quatrain.data.aside import CONTROL_LIKE
from quatrain.data.encode import characters
from quatrain.data.language import is_lossy, markup, mojibake
from quatrain.data.parse import Rejection
from quatrain.data.question import Marks, marks, taught
from quatrain.data.records import Source, outcomes
from quatrain.data.similar import HeldOut, Sketches
from quatrain.text.chat import CONTEXT_SEPARATOR
from quatrain.text.conversation import Conversation, Document, Message
from quatrain.text.french import normalise
from quatrain.words import Sentence

SHOWN = 5
"""Places that a finding names."""
_BLOCK = 1000
_KEPT_REJECTIONS = 1000
_MOST_NAMES = 1000
_SAMPLE_RECORDS, _SAMPLE_CHARACTERS = 20_000, 6_000_000
_LONGEST_SAMPLED = 20_000
_SHORT_ANSWER = 80
_HEADER = 32
_SHAPE_WITH_ANSWERS_INSIDE = "squad"


class Places:
    """Where each record is, as `file:line`; some 20 bytes a record."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")

    def add(self, location: str) -> None:
        """Append the next record's place."""
        self._text += location.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))

    def __getitem__(self, index: int) -> str:
        begin = self._ends[index - 1] if index else 0
        return self._text[begin : self._ends[index]].decode("utf-8", "surrogateescape")


class Sample:
    """Records kept evenly, by a hash of their number, as many as the bounds allow."""

    def __init__(self) -> None:
        self.records: dict[int, Conversation | Document] = {}
        self.whole = True
        """Whether every record is in it."""
        self._characters = 0
        self._halvings = 0

    def add(self, index: int, record: Conversation | Document) -> None:
        """Keep a record, or not; when there are too many, every second one goes."""
        if not self._keeps(index):
            return
        if isinstance(record, Document) and len(record.text) > _LONGEST_SAMPLED:
            record = Document(record.text[:_LONGEST_SAMPLED], record.group, record.source)
            self.whole = False
        size = size_of(record)
        if size > _LONGEST_SAMPLED:
            self.whole = False
            return
        self.records[index] = record
        self._characters += size
        while self._characters > _SAMPLE_CHARACTERS or len(self.records) > _SAMPLE_RECORDS:
            self._halvings += 1
            self.whole = False
            self.records = {i: kept for i, kept in self.records.items() if self._keeps(i)}
            self._characters = sum(map(size_of, self.records.values()))

    def _keeps(self, index: int) -> bool:
        mixed = (index * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1)
        return (mixed ^ (mixed >> 29)) % (1 << self._halvings) == 0

    def texts(self) -> Iterator[str]:
        """Yield what the sampled records say."""
        for record in self.records.values():
            yield from said(record)


@dataclass
class Sighting:
    """Something that was seen in records: how many have it, and where the first are."""

    count: int = 0
    places: list[str] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    """What exactly was seen."""

    def see(self, place: str, names: Sequence[str] = ()) -> None:
        """Count a record."""
        self.count += 1
        if len(self.places) < SHOWN:
            self.places.append(place)
        self.names.update(n for n in names if n in self.names or len(self.names) < _MOST_NAMES)


class Survey:
    """What one side, training or held out, consists of."""

    def __init__(self, held_out: HeldOut | None = None, collect: HeldOut | None = None) -> None:
        """Look for leaks of `held_out`; or, on the held-out side, fill `collect`."""
        self.sources: list[Source] = []
        self.notes: list[str] = []
        self.conversations = self.documents = self.turns = self.rejected = 0
        self.rejections: list[Rejection] = []
        self.reasons: Counter[str] = Counter()
        self.places, self.sample, self.sketches = Places(), Sample(), Sketches()
        self.control, self.garbled, self.lost = Sighting(), Sighting(), Sighting()
        self.markup = Sighting()
        self.outside, self.asked, self.shared = Sighting(), Sighting(), Sighting()
        self.with_context = 0
        """Records of the shape whose answers stand in the context."""
        self.leaked: set[int] = set()
        """Held-out records of which something is here."""
        self.answer_texts: dict[int, str] = {}
        self.unanswered = set[int]()
        """Marks of what is said where a question has no answer."""
        self._held_out, self._collect = held_out, collect
        self._sizes, self._most, self._answers = array("Q"), array("Q"), array("I")
        self._wholes, self._questions, self._said = array("Q"), array("Q"), array("Q")

    def read(self, sources: Sequence[str], config: DataConfig) -> Survey:
        """Go through the sources once."""
        found = outcomes(sources, config, self.notes)
        while block := list(islice(found, _BLOCK)):
            records = []
            for source, outcome in block:
                if not self.sources or self.sources[-1] is not source:
                    self.sources.append(source)
                if isinstance(outcome, Rejection):
                    self._reject(outcome)
                else:
                    self._take(outcome, source.shape)
                    records.append(outcome)
            self._compare(records)
        return self

    def __len__(self) -> int:
        return self.conversations + self.documents

    def _reject(self, rejection: Rejection) -> None:
        self.rejected += 1
        if len(self.rejections) < _KEPT_REJECTIONS:
            self.rejections.append(rejection)
        reason = rejection.reason
        self.reasons[reason if reason in self.reasons or len(self.reasons) < _MOST_NAMES
                     else Sentence.of("reasons.others")] += 1  # fmt: skip

    def _take(self, record: Conversation | Document, shape: str) -> None:
        index, texts, known = len(self), said(record), marks(record)
        self.places.add(record.source)
        self.sample.add(index, record)
        self._sizes.append(sum(map(len, texts)))
        self._most.append(sum(map(_most_tokens, texts)))
        if isinstance(record, Conversation):
            self.conversations += 1
            self.turns += len(record.messages)
            self._take_answer(record, shape, known)
        else:
            self.documents += 1
            self._answers.append(0)
        self._wholes.append(known.whole)
        self._questions.append(known.asked)
        self._said.append(known.said)
        self._look_at(record.source, texts)

    def _take_answer(self, record: Conversation, shape: str, known: Marks) -> None:
        *before, answer = record.messages
        self._answers.append(min(len(answer.content), 2**32 - 1))
        if not record.has_answer:
            self.unanswered.add(known.said)
        if len(answer.content) <= _SHORT_ANSWER and len(self.answer_texts) < _SAMPLE_RECORDS:
            self.answer_texts.setdefault(known.said, answer.content)
        if shape == _SHAPE_WITH_ANSWERS_INSIDE and record.has_answer:
            self.with_context += 1
            context = before[-1].content.partition(CONTEXT_SEPARATOR)[2]
            if not any(_stands_in(gold, context) for gold in record.answers):
                self.outside.see(record.source)

    def _look_at(self, place: str, texts: Sequence[str]) -> None:
        """Look for control tokens, HTML, text decoded wrongly, and characters that were lost."""
        if names := [name for text in texts for name in CONTROL_LIKE.findall(text)]:
            self.control.see(place, names)
        if found := next(filter(None, map(mojibake, texts)), None):
            self.garbled.see(place, [found])
        if tag := next(filter(None, map(markup, texts)), None):
            self.markup.see(place, [tag])
        if any(map(is_lossy, texts)):
            self.lost.see(place)

    def _compare(self, records: Sequence[Conversation | Document]) -> None:
        """Take note of what a block says; look for held-out text in it."""
        self.sketches.add([gist(record) for record in records])
        first = len(self) - len(records)
        texts = ["\n".join(spoken(record)) for record in records]
        if self._collect is not None:
            self._collect.add(self._questions[first:].tolist(), texts)
        if self._held_out is None or not records:
            return
        shared = self._held_out.shared(texts)
        for index, record in enumerate(records):
            held = map(self._held_out.asked, taught(record))
            if leaks := {one for one in held if one is not None}:
                self.asked.see(record.source)
                self.leaked |= leaks
            if index in shared:
                self.shared.see(record.source)
                self.leaked |= shared[index]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Characters of each record."""
        return np.array(self._sizes, dtype=np.int64)

    @property
    def most_tokens(self) -> npt.NDArray[np.int64]:
        """A number of tokens that no tokenizer exceeds, for each record."""
        return np.array(self._most, dtype=np.int64)

    @property
    def answer_sizes(self) -> npt.NDArray[np.int64]:
        """Characters of each conversation's last answer; 0 for documents."""
        return np.array(self._answers, dtype=np.int64)

    @property
    def wholes(self) -> npt.NDArray[np.uint64]:
        """Marks of whole records."""
        return np.frombuffer(self._wholes.tobytes(), dtype=np.uint64)

    @property
    def questions(self) -> npt.NDArray[np.uint64]:
        """Marks of what precedes the last answer, system messages left out."""
        return np.frombuffer(self._questions.tobytes(), dtype=np.uint64)

    @property
    def answers(self) -> npt.NDArray[np.uint64]:
        """Marks of last answers."""
        return np.frombuffer(self._said.tobytes(), dtype=np.uint64)


def said(record: Conversation | Document) -> list[str]:
    """List the texts of a record."""
    if isinstance(record, Document):
        return [record.text]
    return [message.content for message in record.messages]


def spoken(record: Conversation | Document) -> list[str]:
    """List the texts of a record but for the system's, which many records share."""
    if isinstance(record, Document):
        return [record.text]
    return [message.content for message in record.messages if message.role != "system"]


def gist(record: Conversation | Document) -> str:
    """Take what makes a record itself: its questions without their contexts, and its answers."""
    if isinstance(record, Document):
        return record.text
    return "\n".join(map(_without_context, record.messages))


def _without_context(message: Message) -> str:
    if message.role == "system":
        return ""
    if message.role == "user":
        return message.content.partition(CONTEXT_SEPARATOR)[0]
    return message.content


def size_of(record: Conversation | Document) -> int:
    """Count the characters of a record."""
    return len(record.text) if isinstance(record, Document) else characters(record)


def _most_tokens(text: str) -> int:
    """Bound a message's tokens: a token has a byte at least, and its header some more.

    A tokenizer composes characters first (NFC), which at worst makes three of one.
    """
    size = len(text.encode())
    return _HEADER + (size if unicodedata.is_normalized("NFC", text) else 3 * size)


def _stands_in(answer: str, context: str) -> bool:
    return answer in context or normalise(answer) in normalise(context)
