"""Reading: every format gives the same rows, and unreadable rows say where and why."""

import gzip
import json
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.config import DataConfig
from quatrain.data import lines, tables, workbook
from quatrain.data.lines import LINE_CAP, RawRow
from quatrain.data.read import read_rows
from quatrain.errors import DataError
from quatrain.recipe import load_config

ROWS = [
    {"instruction": "Où est l'été ?", "input": "", "output": "Au sud, « là »"},
    {"instruction": "Deux\nlignes", "input": "a;b", "output": 'dit "oui"'},
]
CONFIG = DataConfig()


def read(path: Path | str, config: DataConfig = CONFIG, notes: list[str] | None = None) -> Any:
    return list(read_rows(str(path), config, notes))


def values(path: Path | str) -> list[Any]:
    rows = read(path)
    assert [row.error for row in rows] == [None] * len(rows)
    return [row.value for row in rows]


def as_csv(delimiter: str) -> str:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    lines = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return "".join(delimiter.join(map(quoted, line)) + "\r\n" for line in lines)


def test_json_in_its_three_forms_gives_the_same_rows(tmp_path: Path) -> None:
    forms: list[Any] = [ROWS, {"data": ROWS, "version": 1}]
    forms.append({key: [row[key] for row in ROWS] for key in ROWS[0]})
    for form in forms:
        (tmp_path / "a.json").write_text(json.dumps(form), encoding="utf-8")
        assert values(tmp_path / "a.json") == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_in_any_unicode_give_the_same_rows(
    tmp_path: Path, encoding: str, end: str
) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row in ROWS) + end
    (tmp_path / "a.jsonl").write_bytes(text.encode(encoding))
    assert values(tmp_path / "a.jsonl") == ROWS


def test_locations_count_lines_from_one_and_skip_no_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\nbroken\n', encoding="utf-8")
    rows = read(tmp_path / "a.jsonl")
    assert [row.location for row in rows] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:4"]
    assert rows[2].error == "not JSON: Expecting value at column 1"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_csv_with_any_delimiter_and_encoding_gives_the_same_rows(
    tmp_path: Path, delimiter: str, encoding: str
) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv(delimiter).encode(encoding))
    notes: list[str] = []
    rows = read(tmp_path / "a.csv", notes=notes)
    assert [{k: v.replace("\r", "") for k, v in row.value.items()} for row in rows] == ROWS
    assert [row.location for row in rows] == ["a.csv:2", "a.csv:3"]
    cp1252 = ["a.csv: not UTF-8, read as Windows-1252 (cp1252)"]
    assert notes == (cp1252 if encoding == "cp1252" else [])


def test_one_broken_line_does_not_garble_the_accents_of_the_others(tmp_path: Path) -> None:
    good = "été\nà\nça\n".encode()
    (tmp_path / "a.txt").write_bytes(good + b"\xe9t\xe9\n")
    rows = read(tmp_path / "a.txt", DataConfig(document="line"))
    assert [row.value for row in rows] == ["été", "à", "ça", None]
    assert rows[3] == RawRow("a.txt:4", None, "not UTF-8: invalid bytes")


def test_a_csv_of_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nOui\nNon\n", encoding="utf-8")
    assert values(tmp_path / "a.csv") == [{"text": "Oui"}, {"text": "Non"}]


def test_a_csv_record_of_another_width_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,r\n1,2\n1,2,3\n\n4,5\n", encoding="utf-8")
    rows = read(tmp_path / "a.csv")
    assert [row.location for row in rows] == ["a.csv:2", "a.csv:3", "a.csv:5"]
    assert rows[1].error == "3 fields, the header has 2"


def test_a_csv_quote_that_never_closes_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q,r\n1,2\n3,"4\n5,6\n7,8\n', encoding="utf-8")
    with pytest.raises(
        DataError, match="the quoted field that opens in line 3 is broken in line 5"
    ):
        read(tmp_path / "a.csv")


def test_csv_fields_longer_than_the_modules_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"q,r\n{'x' * 300_000},y\n", encoding="utf-8")
    assert len(values(tmp_path / "a.csv")[0]["q"]) == 300_000


def test_two_csv_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,q\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="several columns of the same name: q, q"):
        read(tmp_path / "a.csv")


def test_parquet_is_streamed_in_order(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"question": f"q{i}", "answers": [str(i)]} for i in range(3000)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows


def test_excel_gives_text_and_says_which_sheets_it_left(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Questions"
    for line in (["question", "réponse"], ["En quelle année ?", 1789.0], [None, None], ["Où ?"]):
        book.active.append(line)
    book.create_sheet("Notes")
    book.save(tmp_path / "a.xlsx")
    notes: list[str] = []
    rows = read(tmp_path / "a.xlsx", notes=notes)
    assert rows[0] == RawRow("a.xlsx:2", {"question": "En quelle année ?", "réponse": "1789"})
    assert rows[1] == RawRow("a.xlsx:4", {"question": "Où ?", "réponse": ""})
    assert notes == ["a.xlsx: read the sheet Questions; not read: Notes"]


def test_text_is_one_document_or_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Un.\r\n\r\nDeux.\r\n")
    assert values(tmp_path / "a.txt") == ["Un.\n\nDeux.\n"]
    lines = read(tmp_path / "a.txt", DataConfig(document="line"))
    assert [(row.location, row.value) for row in lines] == [
        ("a.txt:1", "Un."),
        ("a.txt:3", "Deux."),
    ]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"n": 2}\n', encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    (tmp_path / ".hidden.jsonl").write_text("x", encoding="utf-8")
    notes: list[str] = []
    assert [row.value for row in read(tmp_path, notes=notes)] == [{"n": 1}, {"n": 2}]
    assert notes == [
        f"{tmp_path.name}: hidden files or folders, skipped: 1 (.hidden.jsonl)",
        f"{tmp_path.name}: files of other formats, skipped: 1 (README.md)",
    ]


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no data file. Formats: \.json"):
        read(tmp_path)


@pytest.fixture
def alpaca_on_disk(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_list(ROWS)
    split.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": split}).save_to_disk(str(tmp_path / "many"))
    return tmp_path


def test_a_saved_dataset_is_read_with_and_without_splits(alpaca_on_disk: Path) -> None:
    assert values(alpaca_on_disk / "one") == ROWS
    assert values(alpaca_on_disk / "many") == ROWS
    assert read(alpaca_on_disk / "one")[0].location == "one:1"


def test_a_split_that_is_not_there_is_an_error_that_lists_those_that_are(
    alpaca_on_disk: Path,
) -> None:
    with pytest.raises(DataError, match=r"has no split 'test'. Its splits: train"):
        read(alpaca_on_disk / "many", DataConfig(hub_split="test"))


def test_a_hub_name_offline_says_what_could_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'AIffl/Alpaca_french_mixtral' .* could not be read") as e:
        read("AIffl/Alpaca_french_mixtral")
    assert "data.train=PATH" in e.value.remedy
    assert "HF_HUB_OFFLINE" in e.value.remedy


def test_a_hub_dataset_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read("AIffl/Alpaca_french_mixtral")
    assert [row.value for row in rows] == ROWS
    assert asked == [("AIffl/Alpaca_french_mixtral", "train")]


@pytest.mark.parametrize("module", ["datasets", "pyarrow.parquet", "openpyxl"])
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"needs the library .*, which is not installed") as caught:
        tables.needed(module, "x")
    assert "pip install 'quatrain[data]'" in caught.value.remedy


def test_a_wrong_path_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"no such file or folder: .*question\.jsonl") as caught:
        read(tmp_path / "question.jsonl")
    assert "questions.jsonl" in caught.value.remedy


@pytest.mark.parametrize("name", ["openquizz", "piaf", "french-text"])
def test_a_recipe_whose_file_is_not_there_says_how_to_name_another(name: str) -> None:
    source = f"/nowhere{load_config(name, []).data.train[0]}"
    with pytest.raises(DataError, match="no such file or folder") as caught:
        read(source)
    assert "data.train=FILE" in caught.value.remedy
    assert "data.train=AgentPublic/piaf" in caught.value.remedy


ODD = "un\u2028deux\u2029trois\u0085quatre\x0bcinq\x0csix\x1cfin"
"""Characters at which str.splitlines ends a line, and no file format does."""


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    row = {"question": f"Q {ODD}", "answer": ODD}
    line = json.dumps(row, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")
    (tmp_path / "a.csv").write_text(f"question,answer\nQ {ODD},{ODD}\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text(f"{ODD}\n{ODD}\n", encoding="utf-8")
    assert values(tmp_path / "a.jsonl")[0]["question"] == f"Q {ODD}"
    assert values(tmp_path / "a.csv") == [row]
    rows = read(tmp_path / "a.txt", DataConfig(document="line"))
    assert [one.value for one in rows] == [ODD, ODD]


def test_packed_and_unknown_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match="is compressed") as caught:
        read(tmp_path / "a.jsonl.gz")
    assert "gunzip -k a.jsonl.gz" in caught.value.remedy
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"unknown format \.pdf\. Formats: \.json"):
        read(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["a.parquet", "a.xlsx"])
def test_a_damaged_table_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 not a table")
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        read(tmp_path / name)


def test_a_workbook_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    openpyxl.Workbook().save(tmp_path / "a.xlsx")
    monkeypatch.setattr(workbook, "FILE_CAP", 1000)
    with pytest.raises(DataError, match=r"a\.xlsx expands to"):
        read(tmp_path / "a.xlsx")


BAD_LINES = [
    (b'{"a": "cut', "not JSON: Unterminated string"),
    (b'{"a": "\x00"}', "contains a NUL character"),
    (b'{"a": "\\u0000"}', "contains a NUL character"),
    (b"\xff\xfe{\x00}\x00", "not UTF-8"),
    (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
    (b'{"\\udc00": 1}', "half of a surrogate pair"),
    (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
    (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
    (b'{"b": [{"a": 1, "a": 2}]}', "duplicate key 'a'"),
    (b'{"a": NaN}', "NaN is not JSON"),
    (b'{"a": -Infinity}', "-Infinity is not JSON"),
    (b'{"a": 1e999}', "the number 1e999 is too large"),
    (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    (b'{"a": 1} {"a": 2}', "not JSON: Extra data"),
    (b"[1, 2]", "a row must be an object, this is a list"),
    (b"17", "a row must be an object, this is a number"),
    (b"null", "a row must be an object, this is null"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_bad_line_is_a_row_with_its_reason_and_the_next_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + line + b'\n{"a": "\\ud83d\\ude00"}\n')
    first, bad, last = read(tmp_path / "a.jsonl")
    assert (first.value, last.value) == ({"a": 1}, {"a": "😀"})
    assert (bad.location, bad.value) == ("a.jsonl:2", None)
    assert reason in bad.error


def test_an_odd_byte_at_the_end_of_utf_16_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"a": 1}\n{"a": 2}'.encode("utf-16") + b"\x7d")
    rows = read(tmp_path / "a.jsonl")
    assert [row.error is None for row in rows] == [True, False]


@pytest.mark.parametrize("bom", [b"", b"\xff\xfe"], ids=["utf-8", "utf-16"])
def test_a_line_above_the_cap_is_a_bad_row_and_is_never_held(tmp_path: Path, bom: bytes) -> None:
    encoding = "utf-16-le" if bom else "utf-8"
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(bom + '{"a": 1}\n'.encode(encoding))
        file.seek(1 << 30)  # sparse: a gigabyte of NUL
        file.write('\n{"a": 2}\n'.encode(encoding))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = read(tmp_path / "a.jsonl")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert [row.value for row in rows] == [{"a": 1}, None, {"a": 2}]
    assert rows[1].error == f"the line is longer than {LINE_CAP >> 20} MiB"
    assert grown < 200 * 1024  # KiB: the cap, a few times over


@given(
    text=st.text("aé\r\n", max_size=60),
    name=st.sampled_from(["utf-8", "utf-16-le", "utf-32-be"]),
    cap=st.integers(0, 24),
)
def test_lines_are_those_of_the_whole_text_whatever_is_read_at_a_time(
    text: str, name: str, cap: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", 8)
        patch.setattr(lines, "LINE_CAP", cap)
        path = Path(folder, "a.jsonl")
        path.write_bytes(text.encode(name))
        found = list(lines.raw_lines(path, name))
    whole = [line.encode(name) for line in re.split("\r\n|\r|\n", text)]
    whole = whole if whole[-1] else whole[:-1]
    assert len(found) == len(whole)
    for one, line in zip(found, whole, strict=True):
        end = len("\r".encode(name))  # it may count, so that lines of about the cap may be either
        assert one in ([line] if len(line) <= cap else []) + (
            [None] if len(line) > cap - end else []
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}', "is not valid JSON: line 1 column"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {}}', "must hold a list of objects"),
        ('{"a": [1], "b": []}', "columns of different lengths"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
    ],
)
def test_a_json_file_that_is_broken_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=reason):
        read(tmp_path / "a.json")


def test_a_bad_item_of_a_json_list_is_a_bad_row(tmp_path: Path) -> None:
    text = '[{"a": "é"}, {"a": NaN}, {"a": 1, "a": 1}, 5, {"a": "\\ud800"},\n{"a": "\udce9"}]'
    (tmp_path / "a.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    rows = read(tmp_path / "a.json")
    assert [row.value is None for row in rows] == [False, True, True, True, True, True]
    assert rows[5].error.startswith("not UTF-8")
    assert rows[5].error.endswith("in lines 2")
    assert rows[1].location == "a.json:2"


def test_a_file_above_the_cap_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for name in ("a.json", "a.txt"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
    with pytest.raises(DataError, match="has 1024 MiB"):
        read(tmp_path / "a.json")


FLAWED = {
    r'{"a": "\u0000"}': "NUL",
    r'{"a": ["\uD83D"]}': "surrogate",
    r'{"\udc9f": 1}': "surrogate",
    r'{"a": {"b": 1, "b": 2}}': "duplicate key",
    '{"a": NaN}': "NaN",
    '{"a": [1e999]}': "1e999",
    "[1]": "list",
}
SOUND = [r'{"a": "\ud83d\ude00 \u00e9"}', r'{"a": "\\u0000 \\ud83d"}', '"NaN"', '{"a": 1e9}']


def test_a_flaw_is_found_in_its_line_and_in_no_other(tmp_path: Path) -> None:
    lines = [line for flawed in FLAWED for line in (flawed, *SOUND)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line, row in zip(lines, read(tmp_path / "a.jsonl"), strict=True):
        if line in FLAWED:
            assert row.value is None
            assert FLAWED[line] in str(row.error)
        else:
            assert (row.value, row.error) == (json.loads(line), None)
