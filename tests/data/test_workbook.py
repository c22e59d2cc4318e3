"""Workbooks: a sheet is read as it is shown, and assumptions are reported."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.lines import RawRow
from quatrain.data.read import read_rows
from quatrain.errors import DataError

openpyxl = pytest.importorskip("openpyxl")


def made(path: Path, rows: list[list[Any]], change: Callable[[Any], Any] | None = None) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    if change is not None:
        change(book.active)
    book.save(path)
    return path


def rewritten(path: Path, name: str, change: Callable[[str], str]) -> Path:
    """Change a file within a workbook."""
    with zipfile.ZipFile(path) as archive:
        held = {item: archive.read(item) for item in archive.namelist()}
    held[name] = change(held[name].decode()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for item, data in held.items():
            archive.writestr(item, data)
    return path


def read(path: Path, notes: list[str] | None = None, **config: Any) -> list[RawRow]:
    return list(read_rows(str(path), DataConfig(**config), notes))


def answers(path: Path, notes: list[str] | None = None, **config: Any) -> list[str]:
    return [row.value["answer"] if isinstance(row.value, dict) else str(row.error)
            for row in read(path, notes, **config)]  # fmt: skip


def qa(values: list[Any]) -> list[list[Any]]:
    return [["question", "answer"], *[[f"Combien, {n} ?", value] for n, value in enumerate(values)]]


def test_cells_are_read_as_they_are_shown(tmp_path: Path) -> None:
    codes = ["00000", "0%", "dd/mm/yyyy", "[$-40C]d mmmm yyyy", '#,##0.00\\ "€"', "General"]
    day = datetime.datetime(1998, 7, 13)

    def change(sheet: Any) -> None:
        for row, code in enumerate(codes, 2):
            sheet.cell(row, 2).number_format = code

    made(tmp_path / "a.xlsx", qa([1001, 0.25, day, day, 1234.5, True]), change)
    wanted = ["01001", "25%", "13/07/1998", "13 juillet 1998", "1\u202f234,50 €", "VRAI"]
    notes: list[str] = []
    assert answers(tmp_path / "a.xlsx", notes) == wanted
    assert "data.sheet_language=en" in notes[-1]
    english = answers(tmp_path / "a.xlsx", notes := [], sheet_language="en")
    assert (english[4:], notes) == (["1,234.50 €", "TRUE"], [])


@pytest.mark.parametrize(
    ("heading", "shown"), [("Feuilles de calcul", "VRAI"), ("Worksheets", "TRUE")]
)
def test_the_language_is_that_of_the_program_that_wrote_it(
    tmp_path: Path, heading: str, shown: str
) -> None:
    path = made(tmp_path / "a.xlsx", qa([True]))
    titles = f"<HeadingPairs><lpstr>{heading}</lpstr></HeadingPairs></Properties>"
    rewritten(path, "docProps/app.xml", lambda text: text.replace("</Properties>", titles))
    assert answers(path) == [shown]


def test_a_sheet_in_english_is_shown_in_english(tmp_path: Path) -> None:
    rows = [["question", "answer"], ["Is water wet, as most people say?", True], ["Half?", 0.5]]
    assert answers(made(tmp_path / "a.xlsx", rows)) == ["TRUE", "0.5"]


def test_escaped_characters_and_line_ends_are_read(tmp_path: Path) -> None:
    values = ["un_x000D_\ndeux", "a_x0009_b", "_x005F_x000D_", "_xD83D__xDE00_", "_x0000_"]
    path = made(tmp_path / "a.xlsx", qa(values))
    assert answers(path) == ["un\ndeux", "a\tb", "_x000D_", "😀", "contains a NUL character"]


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?"])
def test_an_error_cell_is_a_bad_row(tmp_path: Path, error: str) -> None:
    path = made(tmp_path / "a.xlsx", qa(["bon", error]))
    assert answers(path) == ["bon", f"cell B3 shows the error {error}"]


def test_a_formula_is_its_result_and_without_one_a_bad_row(tmp_path: Path) -> None:
    path = made(tmp_path / "a.xlsx", qa(["=1+1", "=2+2", '=""']))
    member = "xl/worksheets/sheet1.xml"

    def change(text: str) -> str:
        text = re.sub(r"<f>2\+2</f><v ?/?>(</v>)?", "<f>2+2</f><v>4</v>", text)
        return re.sub(r'(<c r="B4"[^>]*)><f>""</f><v ?/?>(</v>)?', r'\1 t="str"><f>""</f><v></v>',
                      text)  # fmt: skip

    rewritten(path, member, change)
    first, *others = answers(path)
    assert first.startswith("cell B2 has a formula without a stored result")
    assert others == ["4", ""]


def test_a_merged_block_is_read_in_each_of_its_rows(tmp_path: Path) -> None:
    rows = [["context", "question", "answer"], ["Texte", "Un ?", "1"], [None, "Deux ?", "2"],
            [None, "Trois ?", "3"]]  # fmt: skip
    path = made(tmp_path / "a.xlsx", rows, lambda sheet: sheet.merge_cells("A2:A3"))
    notes: list[str] = []
    assert [row.value["context"] for row in read(path, notes)] == ["Texte", "Texte", ""]
    assert notes == ["a.xlsx: cells filled with the text of their merged cell: 1"]


def test_hidden_rows_and_columns_are_read_and_said(tmp_path: Path) -> None:
    def hide(sheet: Any) -> None:
        sheet.row_dimensions[2].hidden = True
        sheet.column_dimensions["B"].hidden = True

    notes: list[str] = []
    assert answers(made(tmp_path / "a.xlsx", qa(["un", "deux"]), hide), notes) == ["un", "deux"]
    assert notes == ["a.xlsx: hidden rows: 1, hidden columns: 1; they were read too"]


def test_the_first_sheet_that_is_shown_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title, book.active.sheet_state = "Listes", "hidden"
    for title in ("Un", "Deux"):
        sheet = book.create_sheet(title)
        for row in qa([title]):
            sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    notes: list[str] = []
    assert answers(tmp_path / "a.xlsx", notes) == ["Un"]
    assert notes == ["a.xlsx: read the sheet Un; not read: Listes, Deux"]
    assert answers(tmp_path / "a.xlsx", sheet="Deux") == ["Deux"]
    with pytest.raises(DataError, match=r"has no sheet 'Trois'. Its sheets: Listes, Un, Deux"):
        read(tmp_path / "a.xlsx", sheet="Trois")


def test_an_empty_sheet_before_the_filled_one_is_not_taken(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.create_sheet("Quiz")
    for row in qa(["un"]):
        sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    assert answers(tmp_path / "a.xlsx") == ["un"]


@pytest.mark.parametrize(
    "change", [lambda text: text[:-40], lambda text: text.replace("<v>", "<w>")]
)
def test_a_damaged_sheet_is_an_error_of_the_file(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    path = rewritten(made(tmp_path / "a.xlsx", qa([1])), "xl/worksheets/sheet1.xml", change)
    with pytest.raises(DataError, match=r"a\.xlsx cannot be read: ParseError"):
        read(path)


def test_rich_text_is_read_whole(tmp_path: Path) -> None:
    rich = openpyxl.cell.rich_text
    bold = rich.TextBlock(openpyxl.cell.text.InlineFont(b=True), "gras")
    path = made(tmp_path / "a.xlsx", qa([rich.CellRichText("en ", bold, " ici")]))
    assert answers(path) == ["en gras ici"]


def test_an_unknown_format_is_counted_and_the_value_read_plainly(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        sheet["B2"].number_format = ";;;"

    notes: list[str] = []
    assert answers(made(tmp_path / "a.xlsx", qa([42]), change), notes) == ["42"]
    shown = "1 cell has an unknown number format and was read as a plain value (;;;)"
    assert notes == [f"a.xlsx: {shown}"]


def test_a_date_that_is_none_is_a_bad_row(tmp_path: Path) -> None:
    def change(sheet: Any) -> None:
        sheet["B2"].number_format = "dd/mm/yyyy"

    assert "#VALUE!" in answers(made(tmp_path / "a.xlsx", qa([99999999999]), change))[0]


def test_empty_rows_and_columns_around_a_table_are_not_read(tmp_path: Path) -> None:
    rows = [[None], ["Mon quiz"], [None], ["question", "answer", None, " "], ["Où ?", "Là"],
            ["", "  "], [None, None, None], ["Ici ?", "Oui", None, None]]  # fmt: skip
    notes: list[str] = []
    assert answers(made(tmp_path / "a.xlsx", rows), notes) == ["Là", "Oui"]
    assert notes == ["a.xlsx: line 4 names the columns; lines skipped above it: 1"]
    path = made(tmp_path / "b.xlsx", [["question", "answer"], ["Où ?", "Là", None, "hors"]])
    assert answers(path) == ["a cell beyond the 2 named columns"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.xlsx", [["question", "answer", "answer "], ["Où ?", "Là", "Ici"]])
    with pytest.raises(DataError, match="several columns of the same name: answer, answer"):
        read(path)
