"""`quatrain eval`: its intervals, two models on the same questions, and fewer bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tiny_run import COLOURS, THINGS, tiny_run

ASKED = "{} est {}. De quelle couleur ?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quatrain.train.run import run

    directory = tmp_path_factory.mktemp("trained")
    return run(tiny_run(directory, max_steps=80, eval_interval=40), quiet=True).run_dir


def exam(directory: Path, passage: str | None = None) -> Path:
    """Ask all that was taught, perhaps of one passage."""
    rows = [
        {"instruction": ASKED.format(thing, colour), "input": passage or "", "output": colour}
        for thing in THINGS
        for colour in COLOURS
    ]
    file = directory / "exam.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_the_last_line_has_intervals_and_json_has_them_too(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path)
    found = quatrain("eval", trained, file, "--json").json
    assert set(found["ci95"]) == {"exact_match", "f1"}
    for score, (low, high) in found["ci95"].items():
        assert 0 <= low <= found[score] <= high <= 100
    low, high = found["ci95"]["f1"]
    shown = quatrain("eval", trained, file)
    assert f"{found['f1']:.1f} ({low:.0f} to {high:.0f})" in shown.out
    assert "from 24 questions in 24 groups" in shown.out
    french = quatrain("eval", trained, file, "--lang", "fr").out
    assert f"{found['f1']:.1f} ({low:.0f} à {high:.0f})".replace(".", ",") in french


def test_questions_of_one_passage_have_no_interval(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path, passage="Un mur.")
    found = quatrain("eval", trained, file, "--json").json
    assert found["ci95"] == {"exact_match": None, "f1": None}
    assert "no intervals: all questions belong together" in quatrain("eval", trained, file).out
