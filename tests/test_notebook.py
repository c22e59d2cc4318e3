"""The notebook at the root: it runs from top to bottom, and defines nothing of its own."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quatrain.data.demo import questions
from test_public_names import ORIGIN
from typography import typographic_faults

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "NLP - Llama 4 - SFT.ipynb"
SECTIONS = ["Config", "tokenizer", "données", "modèle", "fine-tuning", "checkpoint et inférence"]
SECTIONS += ["un modèle qui existe"]
SHOWN = ORIGIN[3:]
LARGEST = 1_000_000
"""Bytes: what a reviewer can still open on the web."""
DRAWINGS = 5
LAST_OF_SIX = -3
"""The cell that ends section 6; section 7 trains only where there is a base."""
FEWER = {
    r"\"max_steps\": 240": r"\"max_steps\": 24",
    r"\"eval_interval\": 60": r"\"eval_interval\": 12",
    r"\"questions\": 80": r"\"questions\": 8",
}
QUESTION = "Quel est le produit de 6 et 2 ?"


def _cells(kind: str, path: Path = NOTEBOOK) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _code() -> str:
    lines = "\n".join(_source(cell) for cell in _cells("code")).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def _printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"]).strip()


def test_the_sections_stand_in_their_order() -> None:
    text = "\n".join(_source(cell) for cell in _cells("markdown"))
    titles = re.findall(r"^## (\d)\. (.+)$", text, re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 8))
    assert [title.lower() for _, title in titles] == [section.lower() for section in SECTIONS]


def test_no_cell_defines_a_class_or_a_function() -> None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(_code())) if isinstance(node, kinds)]


def test_the_ten_names_of_the_origin_are_imported_in_their_order() -> None:
    imported = [
        alias.name
        for node in ast.parse(_code()).body
        if isinstance(node, ast.ImportFrom) and node.module == "quatrain"
        for alias in node.names
    ]
    assert [name for name in imported if name in ORIGIN] == list(ORIGIN)


@pytest.mark.parametrize("name", SHOWN)
def test_the_maths_is_shown_by_its_source(name: str) -> None:
    assert f"inspect.getsource({name})" in _code()


def test_french_signs_have_their_unbreakable_space() -> None:
    text = "\n".join(_source(cell) for cell in _cells("markdown"))
    prose = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", text, flags=re.DOTALL)
    assert not typographic_faults(prose)


def test_the_question_at_the_end_is_held_out() -> None:
    assert QUESTION in {item["instruction"] for item in questions("heldout")}
    assert QUESTION not in {item["instruction"] for item in questions("train")}


def test_its_outputs_are_stored_whole_small_and_without_errors() -> None:
    assert NOTEBOOK.stat().st_size < LARGEST
    cells = _cells("code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == DRAWINGS
    assert not [cell for cell in cells if "\x1b" in _printed(cell)], "no bars, no colours"


def test_without_a_base_its_last_section_says_so() -> None:
    chosen, answered = _cells("code")[-2:]
    assert _printed(chosen) == "il manque : smollm2, examples/faq/questions.csv"
    assert _printed(answered) == "sans modèle, pas de réponse"


def test_the_model_of_the_stored_outputs_has_learnt_the_question() -> None:
    assert _printed(_cells("code")[LAST_OF_SIX]) == "12"


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute on two free cores; a busy machine needs longer
def test_it_runs_from_top_to_bottom_with_fewer_steps(tmp_path: Path) -> None:
    """The outputs in the notebook are those of `make notebook`, with all steps."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    for whole, short in FEWER.items():
        assert text.count(whole) == 1
        text = text.replace(whole, short)
    shorter, executed = tmp_path / "shorter.ipynb", tmp_path / "executed.ipynb"
    shorter.write_text(text, encoding="utf-8")
    command = [sys.executable, str(ROOT / ".ci" / "notebook.py"), str(shorter), str(executed)]
    done = subprocess.run(
        [*command, "--without-network"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = _cells("code", executed)
    assert any(_printed(cell).startswith("au pas 24 : ") for cell in cells)
