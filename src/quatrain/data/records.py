"""Records: what all sources hold, what was rejected and why, and which part is held out.

Not for encoding them (encode.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from quatrain.config import DataConfig
from quatrain.data.aside import Aside
from quatrain.data.columns import (
    SHAPES,
    Row,
    check_columns,
    meanings,
    readings,
    refuse_preferences,
    same_names,
)
from quatrain.data.embedded import is_embedded
from quatrain.data.headers import looks_like_a_record
from quatrain.data.lines import RawRow
from quatrain.data.parse import Outcome, Rejection, parse_row
from quatrain.data.read import read_rows, refuse_missing
from quatrain.data.spool import Spool
from quatrain.errors import DataError
from quatrain.files import at_home, write_text
from quatrain.progress import working
from quatrain.text.conversation import Conversation, Document
from quatrain.words import Sentence, recorded, say, tell

T = TypeVar("T", Conversation, Document)
_PEEK = 100
"""Rows among which the first of a known shape tells the file's."""
_SHOWN = 5
_FEW = 3
"""How many bad records are tolerated however small the file is."""
_TABLES = (".csv", ".tsv", ".xlsx")
TOLD_EVERY = 100_000
"""The number of records between two progress messages in the log."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Records:
    """What some sources hold, in their order."""

    conversations: list[Conversation] | Spool[Conversation] = field(default_factory=list)
    documents: list[Document] | Spool[Document] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was assumed while reading: a shape, an encoding, a sheet."""

    @property
    def total(self) -> int:
        """Records that were seen, good or not."""
        return len(self) + len(self.rejected)

    @property
    def bad_fraction(self) -> float:
        """The share of records that were rejected."""
        return len(self.rejected) / self.total if self.total else 0.0

    def __len__(self) -> int:
        return len(self.conversations) + len(self.documents)

    def __iter__(self) -> Iterator[Conversation | Document]:
        yield from self.conversations
        yield from self.documents

    def where(self, marks: Sequence[bool]) -> Records:
        """Take the good records that are marked, in the order of iteration."""
        number = len(self.conversations)
        return Records(
            _where(self.conversations, marks[:number]), _where(self.documents, marks[number:])
        )

    def add(self, outcome: Outcome) -> None:
        """Put a record where it belongs."""
        if isinstance(outcome, Conversation):
            self.conversations.append(outcome)
        elif isinstance(outcome, Document):
            self.documents.append(outcome)
        else:
            self.rejected.append(outcome)


def _where(items: list[T] | Spool[T], marks: Sequence[bool]) -> list[T] | Spool[T]:
    if isinstance(items, Spool):
        return items.where(marks)
    return list(itertools.compress(items, marks))


def load_records(
    sources: Sequence[str],
    config: DataConfig,
    directory: Path | None = None,
    records: Records | None = None,
) -> Records:
    """Read and parse sources; say what was assumed, and stop when too many records are bad.

    Args:
        sources: paths and names on the Hub.
        config: shape, columns, limit (the first so many good records) and the tolerance.
        directory: where `rejected.jsonl` is written, also when this stops.
        records: an empty one to be filled, in a file or in memory; None is in memory.
    """
    records = Records() if records is None else records
    opened: Source | None = None
    with working("progress.reading") as work:
        for number, (source, outcome) in enumerate(outcomes(sources, config, records.notes), 1):
            if source is not opened and config.shape == "auto":
                shape = Sentence.of("notes.shape", source=source.name, shape=source.shape)
                records.notes.append(shape)
            opened = source
            records.add(outcome)
            work.advance()
            if number % TOLD_EVERY == 0:
                logger.info(say("log.read", count=number))
    if directory is not None:
        write_rejected(directory / "rejected.jsonl", records.rejected)
    _refuse_too_many_bad(records, sources, config, directory)
    if not all(map(is_embedded, sources)):  # of ours there is nothing to say
        for note in records.notes:
            if getattr(note, "key", "") != "notes.shape":
                logger.info(tell(note))
    if records.rejected:
        first, number = records.rejected[0], len(records.rejected)
        about = {"total": records.total, "location": first.location, "reason": first.reason}
        logger.warning(say("log.bad_aside", number=number, **about))
    return records


def tolerated(bad: int, total: int, fraction: float) -> bool:
    """Say whether a run goes on without its bad records.

    They may be a share of all, or else three, unless none may be or they are most of all.
    """
    return bad <= fraction * total or (fraction > 0 and bad <= _FEW and 2 * bad <= total)


def holdout(records: Records, fraction: float, seed: int) -> tuple[Records, Records]:
    """Split into (training, held out) so that no group is on both sides.

    Groups are ranked by a hash of seed and group; the first `fraction` of them, and at least one,
    are held out. Neither the order of records nor the machine matters.
    """
    ranks = [_rank(record.group, seed) for record in records]
    groups = sorted(set(ranks))
    if len(groups) < 2:
        raise DataError("Q326.groups", fraction=fraction, groups=len(groups))
    number = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    held = [rank < groups[number] for rank in ranks]
    kept = records.where([not one for one in held])
    kept.rejected, kept.notes = records.rejected, records.notes
    return kept, records.where(held)


def write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    """Write one object a line: location, reason (with its key and values), excerpt."""
    lines = (
        {"location": item.location, "reason": item.reason, **recorded(item.reason),
         "excerpt": item.excerpt}
        for item in rejected
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))


@dataclass(frozen=True, slots=True)
class Source:
    """A source that was opened, and what its first rows say of it."""

    name: str
    shape: str
    columns: dict[str, str]
    """What each column of the first rows means; `""` for those kept as fields."""
    rows: Iterator[RawRow]


def open_source(name: str, config: DataConfig, notes: list[str]) -> Source:
    """Open a source and guess its shape.

    Raises:
        DataError: Q320 to Q322 and Q325 for what cannot be read or guessed.
    """
    rows = read_rows(name, config, notes)
    first = list(itertools.islice(rows, _PEEK))
    for row in first:
        if found := _same_names(row, config, config.shape):
            meaning, one, other = found
            raise DataError("Q322.same_names", source=name, meaning=meaning, one=one, other=other)
    shape = _shape(name, first, config)
    seen = dict.fromkeys(
        column for row in first if isinstance(row.value, dict) for column in row.value
    )
    known = meanings(seen, config.columns, shape)
    columns = {column: known.get(column, "") for column in seen}
    return Source(name, shape, columns, itertools.chain(first, _sure(rows, config, shape)))


def _same_names(row: RawRow, config: DataConfig, shape: str) -> tuple[str, str, str] | None:
    if not isinstance(row.value, dict):
        return None
    return same_names(row.value, config.columns, shape)


def _sure(rows: Iterator[RawRow], config: DataConfig, shape: str) -> Iterator[RawRow]:
    """Turn rows of which two columns could have one meaning into bad ones."""
    for row in rows:
        if found := _same_names(row, config, shape):
            meaning, one, other = found
            flaw = Sentence.of("reasons.same_names", meaning=meaning, one=one, other=other)
            yield RawRow(row.location, None, flaw)
        else:
            yield row


def outcomes(
    sources: Sequence[str], config: DataConfig, notes: list[str]
) -> Iterator[tuple[Source, Outcome]]:
    """Yield the records of sources, with their source, up to data.limit good ones.

    Args:
        sources: paths and names on the Hub.
        config: shape, columns and limit.
        notes: gets what was assumed, and what is not learnt, of each source.
    """
    refuse_missing(sources)
    notes += twice(sources)
    good = 0
    for name in sources:
        source, aside = open_source(name, config, notes), Aside()
        for row in source.rows:
            for outcome in parse_row(row, source.shape, config.columns, aside, config):
                yield source, outcome
                good += not isinstance(outcome, Rejection)
                if config.limit is not None and good >= config.limit:
                    notes += aside.notes(name)
                    notes.append(Sentence.of("notes.limit", limit=config.limit))
                    return
        notes += aside.notes(name)


def twice(sources: Sequence[str]) -> Iterator[Sentence]:
    """Say which sources stand for what another has too: a file, or one in a folder."""
    places = [Path(os.path.realpath(at_home(source))) for source in sources]
    for number, place in enumerate(places):
        earlier = places[:number]
        inside = any(one in place.parents for one in places if one.is_dir())
        if place.exists() and (place in earlier or inside):
            yield Sentence.of("notes.twice", source=sources[number])


def _shape(source: str, first: Sequence[RawRow], config: DataConfig) -> str:
    """Tell the shape by the first row of a known one; several readings are for the user to choose.

    Raises:
        DataError: Q322 or Q325.
    """
    values = [row.value for row in first if row.value is not None]
    rows = [value for value in values if isinstance(value, dict)]
    if values and config.columns:
        check_columns(source, config.columns, set[str]().union(*rows))
    refuse_preferences(source, rows, config.columns)
    shapes = (_shape_of_row(source, value, config) for value in values)
    shape = next((shape for shape in shapes if shape), None)
    if config.shape != "auto":
        return config.shape
    if shape is None and values:
        raise _unknown_shape(source, next(row for row in first if row.value is not None))
    return shape or "text"  # no row can be read: each is rejected, whatever the shape


def _shape_of_row(source: str, value: Row | str, config: DataConfig) -> str | None:
    if isinstance(value, str):
        return "text"
    if not set(config.columns.values()) <= set(value):
        return None
    ways = readings(value, config.columns, config.shape)
    if len(ways) > 1:
        told = tuple(way.told() for way in ways)
        raise DataError("Q322.readings", source=source, number=len(ways), ways=told)
    return ways[0].shape if ways else None


def _unknown_shape(source: str, row: RawRow) -> DataError:
    names = list(row.value) if isinstance(row.value, dict) else []
    given = ", ".join(names) or Sentence.of("errors.no_columns")
    table = row.location.rpartition(":")[0].lower().endswith(_TABLES)
    if table and looks_like_a_record(names):
        return DataError("Q322.no_header", source=source, columns=given)
    more = Sentence.of("errors.in_a_table") if table else ""
    return DataError("Q322.shape", source=source, columns=given, shapes=", ".join(SHAPES),
                     more=more)  # fmt: skip


def _refuse_too_many_bad(
    records: Records, sources: Sequence[str], config: DataConfig, directory: Path | None
) -> None:
    if not records.total:
        named = ", ".join(sources) or Sentence.of("errors.no_source")
        raise DataError("Q323.nothing", sources=named)
    bad = len(records.rejected)
    if len(records) and tolerated(bad, records.total, config.max_bad_fraction):
        return
    shown = [Sentence.of("errors.at", location=item.location, reason=item.reason)
             for item in records.rejected[:_SHOWN]]  # fmt: skip
    if more := len(records.rejected[_SHOWN:]):
        shown.append(Sentence.of("errors.more", number=more))
    listed = directory and Sentence.of("errors.listed", path=directory / "rejected.jsonl")
    raise DataError(
        "Q323.rejected",
        number=len(records.rejected),
        total=records.total,
        share=records.bad_fraction,
        allowed=config.max_bad_fraction,
        shown=tuple(shown),
        listed=listed or "",
    )


def _rank(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=16).digest()
