"""Rows of Excel workbooks: one sheet, each cell as it is shown there.

openpyxl reads the cells one row at a time; what it leaves out of such a reading (merged and hidden
cells, formulas without a result) is taken from the sheet's XML before. Not for number formats
(cells.py) nor for finding the header (headers.py).
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from quatrain.config import DataConfig
from quatrain.data.cells import plain, shown, truth
from quatrain.data.headers import Record, table_rows
from quatrain.data.language import languages
from quatrain.data.lines import FILE_CAP, RawRow
from quatrain.data.tables import needed, unreadable
from quatrain.errors import DataError
from quatrain.words import Sentence

_PEEK, _SHOWN = 50, 3
_GENERAL = "General"
_HEADINGS = {"Feuilles de calcul": "fr", "Worksheets": "en"}
"""What Excel calls its sheets in docProps/app.xml, in its own language."""
_LANGUAGE = re.compile(r"<dc:language>(fr|en)\b")


@dataclass
class _Marks:
    """What the XML of a sheet says beside its values."""

    uncached: set[str] = field(default_factory=set)
    """Cells with a formula and no result."""
    merged: dict[tuple[int, int], int] = field(default_factory=dict)
    """Row and column of a merged block's first cell -> its last row, where it has several."""
    hidden_rows: int = 0
    hidden_columns: int = 0


def xlsx_rows(path: Path, config: DataConfig, notes: list[str]) -> Iterator[RawRow]:
    """Read a sheet of an Excel workbook, whose columns are named in its first rows."""
    openpyxl = needed("openpyxl", path)
    with _reading(path):
        _refuse_a_bomb(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    sheet = None
    try:
        with _reading(path):
            sheet = _Sheet(path, _chosen(path, book, config.sheet, notes), config)
        yield from table_rows(path, sheet.records(), config, notes, padded=True)
    finally:
        if sheet is not None:
            notes += sheet.notes()
        book.close()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of a damaged workbook that it is one; openpyxl warns of what it does not read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except DataError:
            raise
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, ElementTree.ParseError) as error:
            raise unreadable(path, error) from None


def _chosen(path: Path, book: Any, name: str | None, notes: list[str]) -> Any:
    """Choose the sheet that is named, or the first that is shown and filled; note the others."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    visible = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
    filled = [sheet for sheet in visible if name is None and _is_filled(sheet)]
    if not sheets or (name is not None and name not in sheets):
        raise DataError("Q320.sheet", path=path, sheet=name or "", sheets=", ".join(sheets))
    sheet = sheets[name] if name is not None else (filled or visible or book.worksheets)[0]
    if others := [title for title in sheets if title != sheet.title]:
        about = {"file": path.name, "sheet": sheet.title, "others": ", ".join(others)}
        notes.append(Sentence.of("notes.sheet", **about))
    return sheet


def _is_filled(sheet: Any) -> bool:
    sheet.reset_dimensions()  # which some programs write too small
    rows = islice(sheet.iter_rows(values_only=True), _PEEK)
    return any(value is not None for row in rows for value in row)


class _Sheet:
    """A sheet that is being read, and what there is to say of it."""

    def __init__(self, path: Path, sheet: Any, config: DataConfig) -> None:
        self.path, self.sheet, self.config = path, sheet, config
        self.marks = _marks(path, sheet)
        self.unknown: Counter[str] = Counter()
        """Formats that are not known, by how many cells have them."""
        self.filled = 0
        self._first: list[Any] = []
        self._held: dict[int, tuple[int, str]] = {}

    def records(self) -> Iterator[Record]:
        """Give each row as it is shown; a merged block's text stands in each of its rows."""
        self.sheet.reset_dimensions()
        rows = self._rows()
        self._first = list(islice(rows, _PEEK))
        for number, cells in enumerate(self._first, 1):
            yield self._record(number, cells)
        for number, cells in enumerate(rows, len(self._first) + 1):
            yield self._record(number, cells)

    def _rows(self) -> Iterator[Any]:
        rows = self.sheet.iter_rows()
        while True:
            with _reading(self.path):
                cells = next(rows, None)
            if cells is None:
                return
            yield cells

    def _record(self, number: int, cells: Any) -> Record:
        texts: list[str] = []
        flaw = None
        for cell in cells:
            try:
                texts.append(self._text(cell))
            except _BadCell as bad:
                texts.append("?")
                flaw = flaw or bad.reason
        if any(map(str.strip, texts)):
            self._fill(number, texts)
        return Record(number, texts, flaw)

    def _fill(self, number: int, texts: list[str]) -> None:
        for column, (last, text) in list(self._held.items()):
            if number > last:
                del self._held[column]
            else:
                texts += [""] * (column - len(texts))
                if not texts[column - 1]:
                    texts[column - 1] = text
                    self.filled += 1
        for column, text in enumerate(texts, 1):
            if last := self.marks.merged.get((number, column), 0):
                self._held[column] = (last, text)

    def _text(self, cell: Any) -> str:
        value = cell.value
        if value is None:
            place = getattr(cell, "coordinate", "")
            if place in self.marks.uncached:
                raise _BadCell(Sentence.of("reasons.formula", cell=place))
            return ""
        if cell.data_type == "e":
            raise _BadCell(Sentence.of("reasons.error_in", cell=cell.coordinate, error=value))
        if isinstance(value, str):
            return _unescaped(value)
        if isinstance(value, bool):
            return truth(value, self._speak)
        text = shown(value, cell.number_format or _GENERAL, self._speak)
        if text is None:
            self.unknown[cell.number_format] += 1
            return plain(value, self._speak)
        return text

    def _speak(self) -> str:
        return self.language

    @cached_property
    def language(self) -> str:
        """The language in which the sheet shows values: said, or the workbook's, or its text's."""
        if self.config.sheet_language is not None:
            return self.config.sheet_language
        with zipfile.ZipFile(self.path) as archive:
            about, core = (_read(archive, f"docProps/{name}.xml") for name in ("app", "core"))
        for heading, language in _HEADINGS.items():
            if heading in about:
                return language
        if said := _LANGUAGE.search(core):
            return said[1]
        values = (cell.value for cells in self._first for cell in cells)
        text = " ".join(value for value in values if isinstance(value, str))
        return "en" if "en" in (languages([text]) or {}) else "fr"

    def notes(self) -> list[Sentence]:
        """Say what was assumed of the sheet."""
        name, marks, found = self.path.name, self.marks, []
        if "language" in self.__dict__ and self.config.sheet_language is None:
            found.append(Sentence.of(f"notes.shown_in.{self.language}", file=name))
        if self.unknown:
            formats = ", ".join(code for code, _ in self.unknown.most_common(_SHOWN))
            number = self.unknown.total()
            found.append(Sentence.of("notes.formats", file=name, number=number, formats=formats))
        if self.filled:
            found.append(Sentence.of("notes.merged", file=name, number=self.filled))
        if marks.hidden_rows or marks.hidden_columns:
            rows, columns = marks.hidden_rows, marks.hidden_columns
            found.append(Sentence.of("notes.hidden_cells", file=name, rows=rows, columns=columns))
        return found


class _BadCell(Exception):
    """A cell that shows no value."""

    def __init__(self, reason: Sentence) -> None:
        super().__init__(reason)
        self.reason = reason


def _unescaped(text: str) -> str:
    """Read what a file writes as `_xHHHH_`, and end lines as everywhere else."""
    if "_x" in text:
        text = needed("openpyxl.utils.escape", "xlsx").unescape(text)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _marks(path: Path, sheet: Any) -> _Marks:
    """Go through the XML of a sheet, and hold no more of it than a row."""
    marks, columns, width = _Marks(), list[tuple[int, int]](), 0
    bounds = needed("openpyxl.utils", path).range_boundaries
    with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as file:
        rows: Any = None
        for event, element in ElementTree.iterparse(file, events=("start", "end")):
            kind = element.tag.rpartition("}")[2]
            if event == "start":
                rows = element if kind == "sheetData" else rows
            elif kind == "row":
                marks.hidden_rows += _is_hidden(element) and len(element) > 0
                width = max(width, len(element))
                marks.uncached |= set(filter(None, map(_uncached, element)))
                rows.clear()
            elif kind == "col" and _is_hidden(element):
                columns.append((int(element.get("min", 1)), int(element.get("max", 1))))
            elif kind == "mergeCell":
                column, row, _, last = bounds(element.get("ref"))
                if last > row:
                    marks.merged[row, column] = last
    marks.hidden_columns = sum(max(0, min(last, width) - first + 1) for first, last in columns)
    return marks


def _is_hidden(element: Any) -> bool:
    return element.get("hidden") in ("1", "true")


def _uncached(cell: Any) -> str | None:
    parts = {part.tag.rpartition("}")[2]: part.text for part in cell}
    if "f" in parts and not parts.get("v") and cell.get("t") != "str":
        return str(cell.get("r"))
    return None


def _read(archive: zipfile.ZipFile, name: str) -> str:
    return archive.read(name).decode("utf-8") if name in archive.namelist() else ""


def _refuse_a_bomb(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > FILE_CAP:
        raise DataError("Q321.workbook", path=path, size=size >> 20, most=FILE_CAP >> 20)
