"""Encodings: a text is read as it was written, or the user is asked; never as something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quatrain.config import DataConfig
from quatrain.data.embedded import embedded_rows
from quatrain.data.read import read_rows
from quatrain.errors import DataError

OLD = ("cp1252", "iso8859-15", "mac-roman", "cp850", "cp437")
THREE = ["Où est né Molière ?;à Paris", "Quel âge a la forêt ?;très âgée", "Ça fait mal ?;déjà"]
LANGUAGES = {
    "de": "Wie heißt die größte Stadt? Königsberg; Äpfel, Öl und Übung für Mädchen",
    "es": "¿Cuál es la capital de España? El niño comió mañana; ¡qué día tan bonito!",
    "it": "Perché la città è così bella? Più virtù e libertà; è già lunedì",
    "pt": "Qual é a capital da nação? São João, coração e maçã; não há pão amanhã",
    "da": "Hvad hedder øen? Æbler på Åen, rødgrød med fløde",
    "capitals": "OÙ EST NÉ MOLIÈRE ?;À PARIS, L'ÉTÉ",
}


def values(path: Path, notes: list[str] | None = None, **config: object) -> list[object]:
    rows = list(read_rows(str(path), DataConfig.model_validate(config), notes))
    return [row.value if row.error is None else row.error for row in rows]


@pytest.mark.parametrize("encoding", OLD)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_line_is_read_as_it_was_written(tmp_path: Path, encoding: str, language: str) -> None:
    raw = LANGUAGES[language].encode(encoding, "ignore")  # cp437 lacks a few capitals
    (tmp_path / "a.txt").write_bytes(raw)
    notes: list[str] = []
    assert values(tmp_path / "a.txt", notes) == [raw.decode(encoding)]
    assert len(notes) == 1
    assert notes[0].startswith("a.txt: not UTF-8, read as ")


@pytest.mark.parametrize("encoding", [*OLD, "utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.txt", "a.md"])
def test_every_kind_of_text_file_is_read_in_every_encoding(
    tmp_path: Path, encoding: str, name: str
) -> None:
    rows = [dict(zip(("question", "answer"), line.split(";"), strict=True)) for line in THREE]
    whole = "\n".join(THREE)
    text = {
        ".csv": "question;answer\n" + whole,
        ".tsv": "question\tanswer\n" + whole.replace(";", "\t"),
        ".json": json.dumps(rows, ensure_ascii=False, indent=1),
        ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    }.get(Path(name).suffix, whole)
    (tmp_path / name).write_bytes(text.encode(encoding))
    wanted = [whole] if name.endswith((".txt", ".md")) else rows
    assert values(tmp_path / name) == wanted


@pytest.mark.parametrize("encoding", OLD)
def test_real_french_is_never_read_as_something_else(tmp_path: Path, encoding: str) -> None:
    texts = [str(row.value) for row in embedded_rows("demo:text")]
    lines = [line for text in texts for line in text.splitlines() if not line.isascii()]
    asked = 0
    for start in range(0, 400, 4):
        raw = "\n".join(lines[start : start + 4]).encode(encoding, "ignore")
        (tmp_path / "a.txt").write_bytes(raw)
        try:
            found = values(tmp_path / "a.txt")
        except DataError:
            asked += 1
        else:
            assert found == [raw.decode(encoding)]
    assert asked <= 5


def test_two_plausible_readings_are_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Il va à Paris".encode("cp850"))
    with pytest.raises(DataError, match=r"valid text in two encodings(?s:.*)in cp1252") as caught:
        values(tmp_path / "a.txt")
    assert "'Il va à Paris' in cp850" in caught.value.message
    assert "'Il va … Paris' in cp1252" in caught.value.message
    assert "data.encoding=cp850" in caught.value.remedy
    assert values(tmp_path / "a.txt", encoding="cp850") == ["Il va à Paris"]


def test_an_encoding_that_is_said_is_not_doubted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Привет, мир".encode("koi8-r"))
    notes: list[str] = []
    assert values(tmp_path / "a.txt", notes, encoding="koi8-r") == ["Привет, мир"]
    assert notes == []
    (tmp_path / "b.txt").write_bytes("été".encode("utf-16-le"))
    assert values(tmp_path / "b.txt", encoding="utf-16") == ["été"]
    with pytest.raises(ValueError, match=r"data\.encoding=latin-99 is not a known encoding"):
        DataConfig(encoding="latin-99")
    with pytest.raises(ValueError, match=r"data\.encoding=base64 is not a known encoding"):
        DataConfig(encoding="base64")


def test_an_encoding_that_is_said_garbles_no_file_in_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("l'été à Paris", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes("Il va à Paris".encode("cp850"))
    (tmp_path / "c.txt").write_text("l'été", encoding="utf-16")
    notes: list[str] = []
    wanted = ["l'été à Paris", "Il va à Paris", "l'été"]
    assert values(tmp_path, notes, encoding="cp850") == wanted
    assert notes == ["a.txt: read as UTF-8, which it is; data.encoding=cp850 was not used"]


def test_utf_16_without_a_mark_is_known_by_its_nuls(tmp_path: Path) -> None:
    text = "question;answer\nOù est-il ?;Là\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.csv").write_bytes(text.encode(encoding))
        notes: list[str] = []
        assert values(tmp_path / "a.csv", notes) == [{"question": "Où est-il ?", "answer": "Là"}]
        assert notes == [f"a.csv: not UTF-8, read as UTF-16 ({encoding})"]


def test_hard_spaces_and_guillemets_do_not_make_utf_8(tmp_path: Path) -> None:
    text = "Il dit « voilà\u00a0» ; elle, «\u00a0blessé\u00a0».\nLa fête « à côté »\u00a0!"
    (tmp_path / "a.txt").write_bytes(text.encode("cp1252"))
    assert values(tmp_path / "a.txt") == [text]


MIXED = [line.encode("utf-8") for line in THREE] + ["C'est l'été ?;né".encode("cp1252")]


def test_a_few_other_bytes_in_utf_8_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"question;answer\n" + b"\n".join(MIXED))
    found = list(read_rows(str(tmp_path / "a.csv"), DataConfig()))
    assert [row.location for row in found if row.error] == ["a.csv:5"]
    (tmp_path / "a.txt").write_bytes(b"\n".join(MIXED))
    (row,) = read_rows(str(tmp_path / "a.txt"), DataConfig())
    assert row.location == "a.txt:4"
    assert str(row.error).endswith("in lines 4")


def test_a_few_lines_of_utf_8_in_another_encoding_are_bad_rows(tmp_path: Path) -> None:
    lines = [line.encode("cp1252") for line in THREE] + ["C'est l'été ?;né".encode()]
    (tmp_path / "a.csv").write_bytes(b"question;answer\n" + b"\n".join(lines))
    found = list(read_rows(str(tmp_path / "a.csv"), DataConfig()))
    assert [row.error is None for row in found] == [True, True, True, False]
    assert found[3].error == "this line is UTF-8, but the file is Windows-1252"
    items = [b'["' + line + b'"]' for line in lines]
    (tmp_path / "a.json").write_bytes(b"[" + b",\n".join(items).replace(b'["', b'"')
                                      .replace(b'"]', b'"') + b"]")  # fmt: skip
    read = values(tmp_path / "a.json")
    assert read[:3] == THREE
    assert "in lines 4" in str(read[3])


def test_bytes_that_are_no_text_stay_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "un"}\n\xb0\xb1\xb2\xdb\xa6\xac\xb6\n')
    assert values(tmp_path / "a.jsonl")[0] == {"text": "un"}
    assert "not UTF-8" in str(values(tmp_path / "a.jsonl")[1])
