"""Agreement: inspecting, fine-tuning and evaluating read every file in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quatrain.cli.evaluating import run_evaluation
from quatrain.config import Config
from quatrain.data.parse import Rejection
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.records import load_records, outcomes

ROWS = [{"question": f"Où est née la fée n° {n} ?", "answer": f"Là, l'été {n}"} for n in range(20)]
TABLE = "question;answer\n" + "".join(f"{row['question']};{row['answer']}\n" for row in ROWS)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def workbook(path: Path) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["Mon quiz"], [], ["question", "answer", None], *(list(r.values()) for r in ROWS),
                ["Combien ?", 0.5], ["Vrai ?", True], ["Zut ?", "#N/A"], [None, None]):  # fmt: skip
        book.active.append(row)
    book.save(path)


def linked_folder(path: Path) -> None:
    (path / "in").mkdir(parents=True)
    (path.parent / "out").mkdir()
    (path / "in" / "a.csv").write_text(TABLE, encoding="mac-roman")
    (path.parent / "out" / "b.jsonl").write_text(LINES + '{"question": "?"}\n', encoding="cp1252")
    (path / "link").symlink_to(path.parent / "out")
    (path / "back").symlink_to(path)


ODD: dict[str, Callable[[Path], Any]] = {
    "mac.csv": lambda path: path.write_bytes(TABLE.replace("\n", "\r").encode("mac-roman")),
    "dos.csv": lambda path: path.write_bytes(b"sep=;\r\n" + TABLE.encode("cp850")),
    "titles.csv": lambda path: path.write_text("Quiz, 1;;\n;;\n" + TABLE + ";;;\nseul\n", "utf-8"),
    "mixed.csv": lambda path: path.write_bytes(TABLE.encode() + "l'été ?;né\n".encode("cp1252")),
    "old.json": lambda path: path.write_text(json.dumps(ROWS, ensure_ascii=False), "cp1252"),
    "wide.jsonl": lambda path: path.write_bytes(LINES.replace("\n", "\r\n").encode("utf-32")),
    "broken.jsonl": lambda path: path.write_bytes(LINES.encode() + b'{"question": "\xe9\n{}\n'),
    "sheet.xlsx": workbook,
    "folder": linked_folder,
}


@pytest.mark.parametrize("name", ODD)
def test_inspecting_tuning_and_evaluating_read_alike(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    ODD[name](path)
    values = {"run_dir": tmp_path / "run", "tokenizer": {"kind": "char"},
              "data": {"train": [str(path)]}}  # fmt: skip
    config = Config.model_validate(values)
    inspected = [outcome for _, outcome in outcomes([str(path)], config.data, [])]
    loaded = load_records([str(path)], config.data)
    good = [one for one in inspected if not isinstance(one, Rejection)]
    assert good == list(loaded.conversations)
    assert [one for one in inspected if isinstance(one, Rejection)] == loaded.rejected
    assert len(good) >= len(ROWS)

    _, prepared = load_and_prepare_french_data(config)
    assert prepared.report["train"]["conversations"] == len(good)
    assert prepared.report["rejected"] == len(loaded.rejected)

    asked: list[Any] = []
    monkeypatch.setattr("quatrain.model.locate.locate", Path)
    monkeypatch.setattr("quatrain.generate.answer.Answerer", lambda model, **_: model)
    examine = "quatrain.evaluate.run.examined"
    exam = SimpleNamespace(scores={}, graded=[])
    monkeypatch.setattr(examine, lambda model, asks, *_: asked.extend(asks) or exam)
    run_evaluation("model", str(path), None, None, [], as_json=True)
    assert asked == good
