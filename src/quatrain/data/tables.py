"""Rows of tables: CSV, Excel, Parquet, and the datasets library's own folders and Hub names.

Each library is imported when it is needed. Not for what a row means (parse.py).
"""

from __future__ import annotations

import csv
import datetime
import importlib
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quatrain.data.json_rows import flaw_of_text
from quatrain.data.lines import FILE_CAP, LINE_CAP, RawRow, guess_encoding, read_lines
from quatrain.errors import DataError
from quatrain.words import Sentence

_DELIMITERS = ",;\t"
_SAMPLE = 50


def csv_rows(path: Path, notes: list[str]) -> Iterator[RawRow]:
    """Read a table of text whose first line names the columns; the delimiter is found out."""
    encoding = guess_encoding(path, notes)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else sniff_delimiter(path, encoding)
    records = _csv_records(path, encoding, delimiter)
    header = next((cells for _, cells, _ in records), [])
    if len(set(header)) < len(header):
        raise DataError("Q321.header", path=path, columns=", ".join(header))
    for number, cells, flaw in records:
        location = f"{path.name}:{number}"
        if len(cells) != len(header) and flaw is None:
            flaw = Sentence.of("reasons.fields", number=len(cells), wanted=len(header))
        if flaw:
            yield RawRow(location, None, flaw)
        else:
            yield RawRow(location, dict(zip(header, cells, strict=True)))


def sniff_delimiter(path: Path, encoding: str) -> str:
    """Choose among comma, semicolon and tab: which cuts most of the first records like the header.

    A single column needs none, and gets the comma.
    """

    def fitness(delimiter: str) -> tuple[int, int]:
        try:
            records = list(itertools.islice(_csv_records(path, encoding, delimiter), _SAMPLE))
        except DataError:
            return 0, 0
        width = len(records[0][1]) if records else 0
        alike = sum(len(cells) == width for _, cells, _ in records)
        return (alike, width) if width > 1 else (0, 0)

    return max(_DELIMITERS, key=fitness)


def _csv_records(
    path: Path, encoding: str, delimiter: str
) -> Iterator[tuple[int, list[str], str | None]]:
    """Cut a file into records: the line where each starts, its cells, and what is wrong with it."""
    flaws: list[str] = []

    def texts() -> Iterator[str]:
        for line in read_lines(path, encoding):
            if line.error:
                flaws.append(line.error)
            yield f"{line.text or ''}\n"

    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        flaws.clear()
        try:
            cells = _next_record(reader)
        except csv.Error as error:
            if reader.line_num > start:
                raise _unclosed_quote(path, start, reader.line_num, error) from None
            yield reader.line_num, [], Sentence.of("reasons.csv", why=error)
            continue
        if cells is None:
            return
        if cells or flaws:
            yield start, cells, flaws[0] if flaws else None


def _next_record(reader: Any) -> list[str] | None:
    """Read one record with fields as long as a line may be; the limit is the csv module's own."""
    limit = csv.field_size_limit(LINE_CAP)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _unclosed_quote(path: Path, start: int, end: int, error: csv.Error) -> DataError:
    return DataError("Q321.quote", path=path, start=start, end=end, error=error)


def xlsx_rows(path: Path, notes: list[str]) -> Iterator[RawRow]:
    """Read the first sheet of an Excel workbook; its first row names the columns."""
    openpyxl = needed("openpyxl", path)
    try:
        _refuse_a_bomb(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(path, error) from None
    try:
        sheet, *others = book.worksheets
        if others:
            unread = ", ".join(other.title for other in others)
            notes.append(
                Sentence.of("notes.sheet", file=path.name, sheet=sheet.title, others=unread)
            )
        rows = sheet.iter_rows(values_only=True)
        header = [_cell(cell) for cell in next(rows, ())]
        while header and not header[-1]:
            header.pop()
        for number, cells in enumerate(rows, 2):
            if any(cell is not None for cell in cells):
                yield _xlsx_row(f"{path.name}:{number}", header, [_cell(cell) for cell in cells])
    finally:
        book.close()


def _xlsx_row(location: str, header: list[str], cells: list[str]) -> RawRow:
    if any(cells[len(header) :]):
        return RawRow(location, None, Sentence.of("reasons.cell", number=len(header)))
    cells += [""] * (len(header) - len(cells))
    flaw = next((flaw for cell in cells if (flaw := flaw_of_text(cell))), None)
    return RawRow(location, None if flaw else dict(zip(header, cells, strict=False)), flaw)


def _cell(value: Any) -> str:
    """Write a cell as text; a whole number loses its `.0`, a date becomes ISO."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def _refuse_a_bomb(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > FILE_CAP:
        raise DataError("Q321.workbook", path=path, size=size >> 20, most=FILE_CAP >> 20)


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Read a Parquet file, a thousand rows at a time."""
    parquet = needed("pyarrow.parquet", path)
    try:
        file = parquet.ParquetFile(path)
        batches = file.iter_batches(batch_size=1024)
        index = 0
        for batch in batches:
            for row in range(batch.num_rows):
                index += 1
                yield _arrow_row(f"{path.name}:{index}", batch.slice(row, 1))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise _unreadable(path, error) from None


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
        raise _unreadable(directory, error) from None
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
    for index, row in enumerate(dataset, 1):
        yield RawRow(f"{name}:{index}", row)


def needed(module: str, source: Path | str) -> Any:
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError("Q328.library", source=source, library=module.partition(".")[0]) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return DataError("Q321.table", path=path, kind=type(error).__name__, first_line=first_line)
