"""Rows of Parquet files, and of the datasets library's own folders and Hub names.

Each library is imported when it is needed. Not for what a row means (parse.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quatrain.data.lines import RawRow
from quatrain.errors import DataError
from quatrain.words import Sentence


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Read a Parquet file, a thousand rows at a time."""
    parquet = needed("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(path)
        _refuse_twice(path, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=1024)
        index = 0
        for batch in batches:
            for row in range(batch.num_rows):
                index += 1
                yield _arrow_row(f"{path.name}:{index}", batch.slice(row, 1))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        if isinstance(error, DataError):
            raise
        raise unreadable(path, error) from None


def _arrow_row(location: str, row: Any) -> RawRow:
    try:
        return RawRow(location, row.to_pylist()[0])
    except UnicodeDecodeError:
        return RawRow(location, None, Sentence.of("reasons.encoding", encoding="UTF-8"))


def saved_dataset_rows(directory: Path, split: str) -> Iterator[RawRow]:
    """Read a folder that `datasets` wrote with save_to_disk."""
    datasets = needed("datasets", directory)
    try:
        dataset = datasets.load_from_disk(str(directory))
    except Exception as error:  # the library raises whatever its parts raise
        raise unreadable(directory, error) from None
    if isinstance(dataset, dict):
        if split not in dataset:
            raise DataError(
                "Q320.split",
                directory=directory,
                split=split,
                splits=", ".join(dataset),
                first=next(iter(dataset), split),
            )
        dataset = dataset[split]
    yield from _dataset_rows(directory.name, dataset)


def hub_rows(name: str, split: str) -> Iterator[RawRow]:
    """Read a dataset of the Hugging Face Hub, downloaded once."""
    yield from _dataset_rows(name, hub_dataset(name, split))


def hub_dataset(name: str, split: str) -> Any:
    """Load a dataset of the Hub, or say what could not be reached and what to do."""
    datasets = needed("datasets", name)
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises whatever its parts raise
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            "Q320.hub", name=name, split=split, kind=type(error).__name__, first_line=first_line
        ) from error


def _dataset_rows(name: str, dataset: Any) -> Iterator[RawRow]:
    _refuse_twice(name, dataset.column_names)
    for index, row in enumerate(dataset, 1):
        yield RawRow(f"{name}:{index}", row)


def _refuse_twice(source: Path | str, columns: Sequence[str]) -> None:
    """Refuse a table with duplicate column names."""
    stripped = [column.strip() for column in columns]
    if twice := [name for name in stripped if stripped.count(name) > 1]:
        raise DataError("Q321.header", path=source, columns=", ".join(twice))


def needed(module: str, source: Path | str) -> Any:
    """Import an optional library, or say which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError("Q328.library", source=source, library=module.partition(".")[0]) from None


def unreadable(path: Path, error: Exception) -> DataError:
    """Say that a library could not read a file."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    return DataError("Q321.table", path=path, kind=type(error).__name__, first_line=first_line)
