"""Read: a path or a name on the Hub becomes raw rows, in the same order each time.

A row that cannot be read is a RawRow with its reason; a file that cannot be read is an error.
Not for what a row means (parse.py).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from quatrain.config import DataConfig
from quatrain.data.delimited import csv_rows
from quatrain.data.embedded import embedded_rows, is_embedded
from quatrain.data.encodings import encoding_of
from quatrain.data.folders import Listing, noted
from quatrain.data.json_rows import flaw_of_lines, json_rows, jsonl_rows
from quatrain.data.lines import RawRow, read_lines, read_whole, refuse_large
from quatrain.data.tables import hub_rows, parquet_rows, saved_dataset_rows
from quatrain.data.workbook import xlsx_rows
from quatrain.errors import DataError
from quatrain.files import at_home
from quatrain.words import Sentence

__all__ = ["RawRow", "data_files", "is_saved_dataset", "looks_like_a_path", "read_rows"]
__all__ += ["refuse_missing"]

_OTHER_FILES = {".arrow", ".avro", ".doc", ".docx", ".feather", ".gzip", ".htm", ".html", ".md"}
_OTHER_FILES |= {".jsonlines", ".log", ".ods", ".odt", ".orc", ".pdf", ".pickle", ".pkl", ".py"}
_OTHER_FILES |= {".rtf", ".sqlite", ".tgz", ".xls", ".xlsb", ".xlsm", ".xml", ".yaml", ".yml"}
"""What ends the names of files that are not read, and never that of a dataset on the Hub."""

Reader = Callable[[Path, DataConfig, list[str]], Iterator[RawRow]]

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_PACKED = {".gz": "gunzip -k", ".zst": "unzstd -k", ".bz2": "bunzip2 -k", ".xz": "unxz -k"}
_PACKED |= {".zip": "unzip", ".7z": "7z x", ".tar": "tar xf"}


def read_rows(source: str, config: DataConfig, notes: list[str] | None = None) -> Iterator[RawRow]:
    """Read a file, a folder of files, a saved dataset, a dataset of the Hub, or embedded data.

    Args:
        source: a path, a name such as AIffl/Alpaca_french_mixtral, or demo:train.
        config: which split of the Hub, and what a document is in plain text.
        notes: gets what was assumed on the way (an encoding, a sheet, files passed over).
    """
    notes = [] if notes is None else notes
    path = Path(at_home(source))
    if is_embedded(source):
        yield from embedded_rows(source)
    elif is_saved_dataset(path):
        yield from saved_dataset_rows(path, config.hub_split)
    elif os.path.exists(path):
        files = data_files(path, notes)
        empty = [file for file in files if _is_empty(file)]
        if empty and not path.is_dir():
            raise DataError("Q323.empty", path=path)
        if empty:
            notes.append(noted("empty_files", path, empty))
        for file in files:
            if file not in empty:
                yield from _READERS[file.suffix.lower()](file, config, notes)
    elif looks_like_a_path(source):
        raise _no_such_file(source)
    else:
        yield from hub_rows(source, config.hub_split)


def is_saved_dataset(path: Path) -> bool:
    """Say whether a folder was written by `datasets` with save_to_disk."""
    return any(os.path.isfile(path / name) for name in ("dataset_dict.json", "state.json"))


def data_files(path: Path, notes: list[str]) -> list[Path]:
    """List the files that a path stands for, sorted; what is left out of a folder is noted."""
    if not path.is_dir():
        _refuse_unknown(path)
        _refuse_unreadable(path)
        return [path]
    listing = Listing(path)
    known = [file for file in listing.files if file.suffix.lower() in _READERS]
    if any(file.suffix.lower() not in _TEXT for file in known):
        known = [file for file in known if not _ABOUT.match(file.name)]
    others = sorted(set(listing.files) - set(known))
    left_out = listing.notes() + ([noted("other_files", path, others)] if others else [])
    if not known:
        shown = Sentence.of("errors.left_out", notes=tuple(left_out)) if left_out else ""
        raise DataError("Q320.empty_folder", path=path, formats=_formats(), left_out=shown)
    notes += left_out
    for file in known:
        _refuse_unreadable(file)
    return known


def _text_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    """Read plain text: the whole file, or each line that is not blank."""
    if config.document == "line":
        encoding = encoding_of(path, config.encoding, notes)
        for line in read_lines(path, encoding):
            if line.text is None or line.text.strip():
                yield RawRow(f"{path.name}:{line.number}", line.text, line.error)
        return
    refuse_large(path)
    encoding = encoding_of(path, config.encoding, notes)
    text, flawed = read_whole(path, encoding)
    if flawed:
        yield RawRow(f"{path.name}:{flawed[0]}", None, flaw_of_lines(flawed, encoding))
    elif "\0" in text:
        yield RawRow(f"{path.name}:1", None, Sentence.of("reasons.nul"))
    else:
        yield RawRow(f"{path.name}:1", text.replace("\r\n", "\n").replace("\r", "\n"))


def _json_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    refuse_large(path)
    return json_rows(path, encoding_of(path, config.encoding, notes))


def _jsonl_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    return jsonl_rows(path, encoding_of(path, config.encoding, notes))


def _csv_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    return csv_rows(path, encoding_of(path, config.encoding, notes), config, notes)


_TEXT = dict.fromkeys((".txt", ".md", ".markdown"), _text_rows)
_READERS: dict[str, Reader] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": lambda path, config, notes: parquet_rows(path),
    ".xlsx": xlsx_rows,
    **_TEXT,
}
_ABOUT = re.compile(r"(readme|licen[cs]e|changelog)\b[^/]*\.(md|markdown|txt)", re.IGNORECASE)
"""Text that tells of the tables beside it."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_SMALL = 1024


def _is_empty(path: Path) -> bool:
    nothing = b"\xef\xbb\xbf\xfe\xff \t\r\n\0"
    return path.stat().st_size <= _SMALL and not path.read_bytes().strip(nothing)


def _refuse_unreadable(path: Path) -> None:
    """Refuse what cannot be opened, and what stands for a file that is elsewhere."""
    try:
        if not path.is_file():
            raise OSError(0, Sentence.of("errors.no_regular_file"))
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise DataError("Q321.unreadable", path=path, error=error.strerror) from None
    if start == _POINTER:
        raise DataError("Q321.pointer", path=path, folder=path.parent)


def _formats() -> str:
    return ", ".join(_READERS)


def _refuse_unknown(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in _PACKED:
        raise DataError("Q321.packed", path=path, command=_PACKED[suffix], name=path.name)
    if suffix not in _READERS:
        shown = suffix or Sentence.of("errors.no_extension")
        raise DataError("Q321.format", path=path, suffix=shown, formats=_formats())


def looks_like_a_path(source: str) -> bool:
    """Tell a path, there or not, from the name of a dataset on the Hub."""
    suffix = Path(source).suffix.lower()
    files = suffix in _READERS or suffix in _PACKED or suffix in _OTHER_FILES
    return files or not _HUB_NAME.fullmatch(source)


def refuse_missing(sources: Sequence[str]) -> None:
    """Refuse a path that is not there, before the Hub is asked for anything.

    Raises:
        DataError: Q320; of several sources it says how they were parted.
    """
    for source in sources:
        there = is_embedded(source) or os.path.exists(at_home(source))
        if not there and looks_like_a_path(source):
            raise _no_such_file(source, sources)


def _no_such_file(source: str, sources: Sequence[str] = ()) -> DataError:
    path = Path(at_home(source))
    if path.is_symlink():
        return DataError("Q320.link", source=source, there=os.readlink(path))
    parted: str = ""
    if len(sources) > 1:
        parted = Sentence.of("errors.parted", names=tuple(map(repr, sources)))
    try:
        names = os.listdir(path.parent)
    except PermissionError as error:
        return DataError("Q321.unreadable", path=path.parent, error=error.strerror)
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        near_path = path.parent / near[0]
        return DataError("Q320.no_file_but", source=source, near=near_path, parted=parted)
    return DataError("Q320.no_file", source=source, parted=parted)
