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
from quatrain.data.embedded import embedded_rows, is_embedded
from quatrain.data.json_rows import json_rows, jsonl_rows
from quatrain.data.lines import RawRow, guess_encoding, read_lines, read_whole
from quatrain.data.tables import csv_rows, hub_rows, parquet_rows, saved_dataset_rows, xlsx_rows
from quatrain.errors import DataError
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
    path = Path(source).expanduser()
    if is_embedded(source):
        yield from embedded_rows(source)
    elif is_saved_dataset(path):
        yield from saved_dataset_rows(path, config.hub_split)
    elif path.exists():
        for file in data_files(path, notes):
            yield from _READERS[file.suffix.lower()](file, config, notes)
    elif looks_like_a_path(source):
        raise _no_such_file(source)
    else:
        yield from hub_rows(source, config.hub_split)


def is_saved_dataset(path: Path) -> bool:
    """Say whether a folder was written by `datasets` with save_to_disk."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def data_files(path: Path, notes: list[str]) -> list[Path]:
    """List the files that a path stands for, sorted; other files in a folder are noted."""
    if path.is_file():
        _refuse_unknown(path)
        return [path]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    known = [file for file in files if file.suffix.lower() in _READERS]
    if not known:
        raise DataError("Q320.empty_folder", path=path, formats=_formats())
    if others := [file.name for file in files if file not in set(known)]:
        shown = ", ".join(others[:5]) + (" ..." if len(others) > 5 else "")
        about = {"folder": path.name, "number": len(others), "shown": shown}
        notes.append(Sentence.of("notes.other_files", **about))
    return known


def _text_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    """Read plain text: the whole file, or each line that is not blank."""
    encoding = guess_encoding(path, notes)
    if config.document == "line":
        for line in read_lines(path, encoding):
            if line.text is None or line.text.strip():
                yield RawRow(f"{path.name}:{line.number}", line.text, line.error)
        return
    try:
        text = read_whole(path, encoding)
    except UnicodeDecodeError as error:
        yield RawRow(f"{path.name}:1", None, f"byte {error.start} is not {encoding.upper()}")
        return
    if "\0" in text:
        yield RawRow(f"{path.name}:1", None, "contains a NUL character")
    else:
        yield RawRow(f"{path.name}:1", text.replace("\r\n", "\n"))


_READERS: dict[str, Reader] = {
    ".json": lambda path, config, notes: json_rows(path),
    ".jsonl": lambda path, config, notes: jsonl_rows(path),
    ".ndjson": lambda path, config, notes: jsonl_rows(path),
    ".csv": lambda path, config, notes: csv_rows(path, notes),
    ".tsv": lambda path, config, notes: csv_rows(path, notes),
    ".parquet": lambda path, config, notes: parquet_rows(path),
    ".xlsx": lambda path, config, notes: xlsx_rows(path, notes),
    ".txt": _text_rows,
}


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
        there = is_embedded(source) or os.path.exists(os.path.expanduser(source))
        if not there and looks_like_a_path(source):
            raise _no_such_file(source, sources)


def _no_such_file(source: str, sources: Sequence[str] = ()) -> DataError:
    path = Path(os.path.expanduser(source))
    parted: str = ""
    if len(sources) > 1:
        parted = Sentence.of("errors.parted", names=tuple(map(repr, sources)))
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        near_path = path.parent / near[0]
        return DataError("Q320.no_file_but", source=source, near=near_path, parted=parted)
    return DataError("Q320.no_file", source=source, parted=parted)
