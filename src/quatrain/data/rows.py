"""Rows on disk: packed tokens, their mask and their documents, memory-mapped and sealed.

    manifest.json   schema, counts, and each file's size and SHA-256 (quatrain.files)
    ids.bin         int32 [R, T]   token ids, little-endian
    mask.bin        uint8 [R, T]   1 where the token is a target: its prediction is trained
    documents.bin   int32 [D]      the documents' lengths, row after row
    offsets.bin     int64 [R + 1]  row r has documents[offsets[r]:offsets[r + 1]]

The mask is not shifted: that is done once, in training. Not for choosing a row's records (pack.py).

Shapes: R rows, T block_size, D documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from quatrain.data.pack import pack, padded
from quatrain.errors import DataError
from quatrain.files import MANIFEST, new_directory, read_manifest
from quatrain.words import Sentence

SCHEMA = 1
ID_TYPE = np.dtype("<i4")
MASK_TYPE = np.dtype("u1")
OFFSET_TYPE = np.dtype("<i8")
Packing = Literal["best_fit", "padded"]
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Block:
    """Encoded records, end to end."""

    ids: npt.NDArray[np.int32]
    """Token ids, [N]."""
    mask: npt.NDArray[np.bool_]
    """True on target tokens, [N]."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each record; their sum is N."""

    @classmethod
    def of(
        cls,
        ids: Sequence[int] | npt.NDArray[np.int32],
        mask: Sequence[bool] | npt.NDArray[np.bool_],
    ) -> Block:
        """Make a block of one record."""
        assert len(ids) == len(mask), "a mask says one thing a token"
        return cls(np.asarray(ids, np.int32), np.asarray(mask, np.bool_), np.array([len(ids)]))


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what the model reads, what it is judged on, and where documents end."""

    ids: npt.NDArray[np.int32]
    """Token ids, [T]."""
    mask: npt.NDArray[np.bool_]
    """True on target tokens, [T]."""
    segments: list[int]
    """The documents' lengths; what they leave of T is padding."""
    num_used: int
    """How many positions hold a document's token; what follows is padding."""


class Rows:
    """A directory of rows, read from the disk as they are asked for."""

    def __init__(self, directory: Path) -> None:
        """Open without reading the files through; `quatrain.files.damage` does that."""
        self.directory = directory
        self.manifest = _manifest(directory)
        self.block_size = int(self.manifest["block_size"])
        self.packing: Packing = self.manifest["packing"]
        self.pad_id = int(self.manifest["pad_id"])
        shape = (int(self.manifest["rows"]), self.block_size)
        self._ids = _map(directory / "ids.bin", ID_TYPE, shape)
        self._mask = _map(directory / "mask.bin", MASK_TYPE, shape)
        self._offsets = _map(directory / "offsets.bin", OFFSET_TYPE, (shape[0] + 1,))
        self._documents = _map(directory / "documents.bin", ID_TYPE, (int(self._offsets[-1]),))

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Row:
        """Copy row `index` out of the file."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        begin, end = self._offsets[index], self._offsets[index + 1]
        documents: list[int] = self._documents[begin:end].tolist()
        num_used = sum(documents)
        mask = np.array(self._mask[index], dtype=np.bool_)
        ids = np.array(self._ids[index], dtype=np.int32)
        return Row(ids, mask, documents, num_used)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each document, row after row, [D]."""
        return np.asarray(self._documents)

    @property
    def num_targets(self) -> int:
        """Target tokens in all rows."""
        return int(self.manifest["targets"])

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, padding left out."""
        return int(self.manifest["tokens"])


def write_rows(
    directory: Path,
    blocks: Iterable[Block],
    *,
    block_size: int,
    packing: Packing,
    pad_id: int,
    manifest: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Rows:
    """Pack encoded records into rows, and give the directory its name once it is whole.

    Args:
        directory: what is written; an older one is replaced at the very end.
        blocks: encoded records, none longer than block_size. Read once, streamed through a
            file, so that they need not fit in memory. What they raise passes through and leaves
            nothing behind.
        block_size: positions in a row.
        packing: best_fit, or padded for one record a row.
        pad_id: the id that fills a row's end.
        manifest: what the manifest says besides; read after the last block was drawn.
        texts: files to seal along with the rows, by name.
    """
    sealed: dict[str, Any] = {}
    with new_directory(directory, sealed) as temporary:
        lengths, num_targets = _spool(temporary, blocks)
        arrange = pack if packing == "best_fit" else padded
        rows = arrange(lengths, block_size)
        for name, dtype, fill in (("ids", ID_TYPE, pad_id), ("mask", MASK_TYPE, 0)):
            spool = temporary / f"spool-{name}"
            with (temporary / f"{name}.bin").open("wb") as file:
                _write(file, spool, dtype, fill, rows, lengths, block_size)
            spool.unlink()
        _write_documents(temporary, rows, lengths)
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        sealed |= {
            "schema": SCHEMA,
            "block_size": block_size,
            "packing": packing,
            "pad_id": pad_id,
            "rows": len(rows),
            "documents": len(lengths),
            "tokens": int(lengths.sum()),
            "targets": num_targets,
            **(manifest or {}),
        }
    return Rows(directory)


def _spool(directory: Path, blocks: Iterable[Block]) -> tuple[npt.NDArray[np.int64], int]:
    """Lay all records end to end in `spool-ids` and `spool-mask`; return lengths and targets."""
    lengths = [np.empty(0, dtype=np.int64)]
    num_targets = 0
    ids_path, mask_path = directory / "spool-ids", directory / "spool-mask"
    with ids_path.open("wb") as ids_file, mask_path.open("wb") as mask_file:
        for block in blocks:
            firsts = np.cumsum(block.lengths) - block.lengths
            assert not block.mask[firsts].any(), "nothing predicts a document's first token"
            ids_file.write(block.ids.astype(ID_TYPE).tobytes())
            mask_file.write(block.mask.astype(MASK_TYPE).tobytes())
            lengths.append(block.lengths)
            num_targets += int(np.count_nonzero(block.mask))
    return np.concatenate(lengths), num_targets


def _write(
    file: BinaryIO,
    spool: Path,
    dtype: np.dtype[Any],
    fill: int,
    rows: Sequence[npt.NDArray[np.int64]],
    lengths: npt.NDArray[np.int64],
    block_size: int,
) -> None:
    """Write each row: its records' values in turn, then the fill. The spool's map ends with this.

    (Windows removes no file that is mapped.)
    """
    values = _map(spool, dtype, (int(lengths.sum()),))
    firsts = np.cumsum(lengths) - lengths
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[begin : begin + _ROWS_AT_ONCE]
        order = np.concatenate(some)
        sizes = lengths[order]
        used = np.array([lengths[indices].sum() for indices in some])
        inside = np.arange(block_size) < used[:, None]
        shifts = firsts[order] - (np.cumsum(sizes) - sizes)
        table = np.full((len(some), block_size), fill, dtype=dtype)
        table[inside] = values[np.repeat(shifts, sizes) + np.arange(sizes.sum())]
        file.write(table.tobytes())


def _write_documents(
    directory: Path, rows: Sequence[npt.NDArray[np.int64]], lengths: npt.NDArray[np.int64]
) -> None:
    offsets = np.zeros(len(rows) + 1, dtype=OFFSET_TYPE)
    offsets[1:] = np.cumsum([len(indices) for indices in rows])
    order = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    (directory / "offsets.bin").write_bytes(offsets.tobytes())
    (directory / "documents.bin").write_bytes(lengths[order].astype(ID_TYPE).tobytes())


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Map a file as an array; an empty file cannot be mapped and gives an empty array."""
    wanted = int(np.prod(shape)) * dtype.itemsize
    size = path.stat().st_size if path.is_file() else -1
    if size != wanted:
        key = "reasons.row_size" if size >= 0 else "reasons.row_file"
        raise _damaged(path.parent, Sentence.of(key, file=path.name, size=size, written=wanted))
    if not wanted:
        return np.empty(shape, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _manifest(directory: Path) -> dict[str, Any]:
    manifest = read_manifest(directory)
    if manifest is None:
        raise _damaged(directory, Sentence.of("reasons.unreadable", file=MANIFEST))
    if manifest.get("schema") != SCHEMA:
        raise DataError(
            "Q305.schema", given=manifest.get("schema"), known=SCHEMA, directory=directory
        )
    return manifest


def _damaged(directory: Path, what: str) -> DataError:
    return DataError("Q305.damaged", directory=directory, what=what)
