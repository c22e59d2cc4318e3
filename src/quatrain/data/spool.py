"""Spool: records that lie in a temporary file while they wait, so that memory need not hold them.

The file has no name, or loses it with the process. Not for what is kept (rows.py).
"""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from quatrain.files import TEMPORARY_MARK
from quatrain.text.conversation import Conversation, Document, Message

T = TypeVar("T", Conversation, Document)
_BUFFER = 1 << 18
"""Bytes that wait to be written, and that are read at one time."""


class Spool(Sequence[T]):
    """A list of records that holds sixteen bytes of each in memory, and the rest in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begin an empty list in an empty file, which the caller closes."""
        self._file, self._written, self._end = file, 0, 0
        self._begins, self._sizes = array("q"), array("q")
        self._waiting: list[bytes] = []

    def append(self, record: T) -> None:
        """Put a record at the end."""
        written = marshal.dumps(_plain(record))
        self._waiting.append(written)
        self._begins.append(self._end)
        self._sizes.append(len(written))
        self._end += len(written)
        if self._end - self._written > _BUFFER:
            self._write()

    def _write(self) -> None:
        """Bring what waits into the file."""
        if self._waiting:
            self._file.seek(self._written)
            self._file.writelines(self._waiting)
            self._waiting.clear()
            self._written = self._end

    def where(self, marks: Sequence[bool]) -> Spool[T]:
        """Give the marked records as a list of their own, read from the same file.

        Nothing may be appended to it: the file goes on with this one.
        """
        self._write()
        chosen: Spool[T] = Spool(self._file)
        chosen._begins = array("q", compress(self._begins, marks))
        chosen._sizes = array("q", compress(self._sizes, marks))
        chosen._written = chosen._end = self._end
        return chosen

    def __len__(self) -> int:
        return len(self._begins)

    def __iter__(self) -> Iterator[T]:
        self._write()
        return map(self._read, self._begins, self._sizes)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        self._write()
        if isinstance(index, slice):
            return list(map(self._read, self._begins[index], self._sizes[index]))
        return self._read(self._begins[index], self._sizes[index])

    def _read(self, begin: int, size: int) -> T:
        self._file.seek(begin)
        record: T = _record(marshal.loads(self._file.read(size)))
        return record


@contextmanager
def temporary_spool(directory: Path) -> Iterator[Spool[Any]]:
    """Give an empty Spool in a file of `directory`, which goes however this ends."""
    prefix = f".spool{TEMPORARY_MARK}"
    with tempfile.TemporaryFile(buffering=_BUFFER, prefix=prefix, dir=directory) as file:
        yield Spool(file)


def _plain(record: Conversation | Document) -> tuple[Any, ...]:
    if isinstance(record, Document):
        return record.text, record.group, record.source
    messages = [(one.role, one.content, one.learnt) for one in record.messages]
    return messages, record.answers, record.group, record.source, record.fields


def _record(plain: tuple[Any, ...]) -> Any:
    if len(plain) == 3:
        return Document(*plain)
    messages, *rest = plain
    return Conversation(tuple([Message(*message) for message in messages]), *rest)
