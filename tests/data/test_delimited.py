"""CSV: what spreadsheets and people write is read, and ambiguous files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.config import DataConfig
from quatrain.data.inspect import inspect
from quatrain.data.read import read_rows
from quatrain.data.records import load_records
from quatrain.errors import DataError
from quatrain.recipe import load_config

ROWS = [{"question": f"Combien font {n} et 1 ?", "answer": f"{n + 1}"} for n in range(12)]
TABLE = "question;answer\n" + "".join(f"{row['question']};{row['answer']}\n" for row in ROWS)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def read(path: Path, notes: list[str] | None = None, **config: Any) -> list[Any]:
    return [row.value if row.error is None else row.error
            for row in read_rows(str(path), DataConfig(**config), notes)]  # fmt: skip


EXPORTS = {
    "trailing columns": TABLE.replace("\n", ";;;\n"),
    "trailing columns of another number": TABLE.replace("answer\n", "answer;;\n"),
    "empty rows": TABLE + ";\n;;;\n\n  ; \n",
    "said delimiter": "sep=;\n" + TABLE,
    "said delimiter in quotes": '"sep=;"\r\n' + TABLE.replace("\n", "\r\n"),
    "mark": "\ufeff" + TABLE,
    "mark and said delimiter": "\ufeffsep=;\r\n" + TABLE,
    "carriage returns": TABLE.replace("\n", "\r"),
    "both ends": TABLE.replace("\n", "\r\n"),
    "mixed ends": TABLE.replace("\n", "\r\n", 3).replace("1 ?;2\r\n", "1 ?;2\r"),
    "no last end": TABLE.removesuffix("\n"),
    "pipes": TABLE.replace(";", "|"),
    "tabs": TABLE.replace(";", "\t"),
    "commas": TABLE.replace(";", ","),
    "spaced names": TABLE.replace("question;answer", " question ; answer "),
    "title": "Mon quiz de calcul\n\n" + TABLE,
    "titles with delimiters": "Mon quiz;;\nfait en 2024;par Jean;\n;;\n" + TABLE,
    "title with a comma": "Calcul, niveau 1, facile\n" + TABLE,
    "quotes": TABLE.replace("question;answer", '"question";"answer"'),
}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("what", EXPORTS)
def test_a_spreadsheets_own_export_is_read(tmp_path: Path, what: str, name: str) -> None:
    assert read(write(tmp_path / name, EXPORTS[what])) == ROWS


def test_lines_above_the_header_are_said(tmp_path: Path) -> None:
    notes: list[str] = []
    read(write(tmp_path / "a.csv", EXPORTS["titles with delimiters"]), notes)
    said = "line 4 names the columns; lines skipped above it: 2"
    assert notes == [f"a.csv: {said}"]


def test_a_header_below_titles_is_found_by_the_columns_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", TABLE.replace("question;answer", "Quiz\n\nFrage;Antwort"))
    columns = {"question": "Frage", "answer": "Antwort"}
    assert read(path, columns=columns)[0] == {"Frage": ROWS[0]["question"], "Antwort": "1"}


def test_a_title_that_is_a_columns_name_is_not_the_header(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "Text;\n" + TABLE)) == ROWS


def test_quoted_fields_run_over_lines_of_any_end(tmp_path: Path) -> None:
    for end in ("\n", "\r", "\r\n"):
        text = f'question;answer{end}"Un{end}deux ?";"a;b"{end}Trois ?;3'
        assert read(write(tmp_path / "a.csv", text)) == [
            {"question": "Un\ndeux ?", "answer": "a;b"},
            {"question": "Trois ?", "answer": "3"},
        ]


def test_lines_end_alike_in_every_kind_of_file_and_encoding(tmp_path: Path) -> None:
    rows = [{"text": "été"}, {"text": "œuf"}, {"text": "n°\u2028 1"}]
    for encoding in ("utf-8", "utf-16", "utf-32", "utf-16-le"):
        for end in ("\n", "\r", "\r\n"):
            text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
            (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
            assert read(tmp_path / "a.jsonl") == rows, (encoding, end)
            text = end.join(row["text"] for row in rows)
            (tmp_path / "a.txt").write_bytes(text.encode(encoding))
            assert read(tmp_path / "a.txt") == [text.replace(end, "\n")]
            assert len(read(tmp_path / "a.txt", document="line")) == 3


def test_a_line_end_may_be_cut_by_a_block(tmp_path: Path) -> None:
    for encoding, unit in (("utf-8", 1), ("utf-16-le", 2)):
        start = "x" * ((1 << 20) // unit - 1)
        (tmp_path / "a.txt").write_bytes(f"{start}\r\ndeux\r\r\n".encode(encoding))
        read_back = read(tmp_path / "a.txt", document="line", encoding=encoding)
        assert read_back == [start, "deux"]


def test_nul_bytes_and_wrong_widths_are_bad_rows(tmp_path: Path) -> None:
    text = TABLE + "a\0b;c\nun;deux;trois\nseul\nquestion;answer\nOù ?;#N/A\nLà ?;#REF!\n"
    assert read(write(tmp_path / "a.csv", text))[12:] == [
        "contains a NUL character",
        "3 fields, the header has 2",
        "1 field, the header has 2",
        "repeats the names of the columns",
        "a cell shows the error #N/A",
        "a cell shows the error #REF!",
    ]


def test_a_cell_under_no_name_is_kept_or_a_bad_row(tmp_path: Path) -> None:
    text = ",question,,answer\n0,Un ?,,1\n1,Deux ?,x,2\n"
    assert read(write(tmp_path / "a.csv", text)) == [
        {"column 1": "0", "question": "Un ?", "answer": "1"},
        {"column 1": "1", "question": "Deux ?", "column 3": "x", "answer": "2"},
    ]
    assert read(write(tmp_path / "b.csv", "question;answer;;\nUn ; deux ?;1;x;\n")) == [
        "4 fields, the header has 2"
    ]


def test_a_table_without_a_header_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Où est Lyon ?;En France\nOù est Rome ?;En Italie\n")
    with pytest.raises(DataError, match="has no header") as caught:
        load_records([str(path)], DataConfig())
    assert "question,answer" in caught.value.remedy
    path = write(tmp_path / "b.csv", "Lyon;France\nRome;Italie\n")
    with pytest.raises(DataError, match="the columns match no known shape: Lyon, France") as caught:
        load_records([str(path)], DataConfig())
    assert "If the first line is already a record" in caught.value.remedy


def test_a_header_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "que\0stion;x\nUn ?;1\n")
    with pytest.raises(DataError, match=r"line 1 should name the columns, but .* contains a NUL"):
        read(path)


def test_nothing_but_a_header_is_no_records_and_never_0_of_0(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question;answer\n;\n")
    config = load_config(None, [f"data.train={path}", "data.holdout=0", "train.task=sft"])
    (finding,) = [one for one in inspect(config).findings if one.level == "stop"]
    assert (finding.what, finding.message, finding.code) == ("no_records", "no records", "Q323")
    with pytest.raises(DataError, match="no records in"):
        load_records([str(path)], DataConfig())


@pytest.mark.parametrize("number", [1, 3])
def test_a_handful_of_bad_rows_is_set_aside_in_a_small_file(tmp_path: Path, number: int) -> None:
    path = write(tmp_path / "a.csv", TABLE + "Vide ?;\n" * number)
    records = load_records([str(path)], DataConfig())
    assert (len(records), len(records.rejected)) == (12, number)


@pytest.mark.parametrize(
    ("good", "bad", "fraction"), [(12, 4, 0.01), (1, 2, 0.01), (0, 1, 0.01), (12, 1, 0.0)]
)
def test_many_bad_rows_stop(tmp_path: Path, good: int, bad: int, fraction: float) -> None:
    lines = TABLE.split("\n")[: good + 1]
    path = write(tmp_path / "a.csv", "\n".join(lines) + "\n" + "Vide ?;\n" * bad)
    with pytest.raises(DataError, match=f"{bad} of {good + bad} records? cannot be used"):
        load_records([str(path)], DataConfig(max_bad_fraction=fraction))


def test_what_is_set_aside_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_records([str(write(tmp_path / "a.csv", TABLE + "Vide ?;\n"))], DataConfig())
    assert (
        "1 of 13 records cannot be used and was left out; the first is a.csv:14: answer"
        in caplog.text
    )


AMBIGUOUS = {"Question": "Un ?", "question": "Deux ?", "answer": "2"}


def same_names_in(path: Path) -> Path:
    if path.suffix == ".jsonl":
        return write(path, json.dumps(AMBIGUOUS) + "\n")
    if path.suffix == ".csv":
        return write(path, "\n".join(map(";".join, (AMBIGUOUS, AMBIGUOUS.values()))))
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([AMBIGUOUS]), path)
    elif path.suffix == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        book.active.append(list(AMBIGUOUS))
        book.active.append(list(AMBIGUOUS.values()))
        book.save(path)
    else:
        pytest.importorskip("datasets").Dataset.from_list([AMBIGUOUS]).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx", "saved"])
def test_columns_that_differ_in_case_alone_must_be_chosen(tmp_path: Path, name: str) -> None:
    path = same_names_in(tmp_path / name)
    with pytest.raises(DataError, match="'Question' and 'question' could both be the") as caught:
        load_records([str(path)], DataConfig())
    assert "data.columns.question=Question" in caught.value.remedy
    chosen = load_records([str(path)], DataConfig(columns={"question": "Question"}))
    assert [one.messages[0].content for one in chosen.conversations] == ["Un ?"]


def test_a_later_row_with_such_columns_is_a_bad_row(tmp_path: Path) -> None:
    rows = [*ROWS * 10, AMBIGUOUS]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    records = load_records([str(path)], DataConfig())
    assert len(records.rejected) == 1
    assert "could both be the question" in records.rejected[0].reason


def test_names_that_mean_nothing_may_differ_in_case(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question;answer;Note;note\nUn ?;1;a;b\n")
    (one,) = load_records([str(path)], DataConfig()).conversations
    assert one.fields == {"Note": "a", "note": "b"}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "saved"])
def test_two_columns_of_one_name_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".csv":
        write(path, "question;answer; answer\nUn ?;1;2\n")
    else:
        pa = pytest.importorskip("pyarrow")
        table = pa.table([["Un ?"], ["1"], ["2"]], names=["question", "answer", "answer "])
        if path.suffix == ".parquet":
            table = table.rename_columns(["question", "answer", "answer"])
            pytest.importorskip("pyarrow.parquet").write_table(table, path)
        else:
            pytest.importorskip("datasets").Dataset(table).save_to_disk(str(path))
    with pytest.raises(DataError, match="several columns of the same name: answer, answer"):
        read(path)
