"""quatrain data: what it prints, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quatrain.recipe import to_yaml
from quatrain.text.tokenizer import train_bpe
from tiny_run import tiny_run


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(number: int = 30) -> list[dict[str, str]]:
    return [{"instruction": f"Combien font {i} et un ?", "output": str(i + 1)}
            for i in range(number)]  # fmt: skip


def test_clean_data_exits_with_0_and_says_so(quatrain: Any, tmp_path: Path) -> None:
    code, out, err = quatrain("data", "inspect", write(tmp_path / "q.jsonl", questions()))
    assert code == 0, err
    assert "alpaca: instruction as question, output as answer" in out
    assert "30 conversations, 60 turns" in out
    assert "Ready to train: no warnings." in out


def test_a_piped_sample_marks_what_is_learnt(quatrain: Any, tmp_path: Path) -> None:
    rows = [{"instruction": "Bonjour !", "output": "Salut."}]
    _, out, _ = quatrain("data", "inspect", write(tmp_path / "q.jsonl", rows))
    assert "[[Salut.<|eot|>]]" in out


def test_what_would_stop_training_exits_with_3(quatrain: Any, tmp_path: Path) -> None:
    rows = [*questions(), *[{"instruction": "Vide ?", "output": ""}] * 4]
    code, out, _ = quatrain("data", "inspect", write(tmp_path / "q.jsonl", rows))
    assert code == 3
    assert "[Q323]" in out
    assert "q.jsonl:31: answer (output) is empty" in out
    assert "Training would stop: 1 reason" in out


def test_warnings_exit_with_3_only_when_strict(quatrain: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [*questions(), {"instruction": "Ã©tÃ© ?", "output": "x"}])
    assert quatrain("data", "inspect", path)[0] == 0
    assert quatrain("data", "inspect", path, "--strict")[0] == 3
    path = write(
        tmp_path / "q.jsonl", [*questions(), {"instruction": "L'ŽtŽ, n‚e ?", "output": "x"}]
    )
    assert quatrain("data", "inspect", path, "--strict")[0] == 3


def test_leaks_exit_with_3_where_asked(quatrain: Any, tmp_path: Path) -> None:
    train = write(tmp_path / "q.jsonl", questions())
    held = write(tmp_path / "e.jsonl", questions(3))
    code, out, _ = quatrain("data", "inspect", train, "--eval", held)
    assert code == 0
    assert "records that ask a held-out question: 3" in out
    assert quatrain("data", "inspect", train, "--eval", held, "--fail-on-leak")[0] == 3


def test_json_is_one_object_with_every_finding(quatrain: Any, tmp_path: Path) -> None:
    rows = [*questions(), questions()[0]]
    code, out, err = quatrain(
        "data", "inspect", write(tmp_path / "q.jsonl", rows), "--json", "--block-size", "16"
    )
    found = json.loads(out)
    assert code == 3, err
    assert found["block_size"] == 16
    assert {one["what"] for one in found["findings"]} >= {"duplicates", "too_long"}
    side = found["sides"]["train"]
    assert side["conversations"] == 31
    assert side["tokens"]["too_long"][0]["location"].startswith("q.jsonl:")


def test_columns_are_named_and_a_wrong_name_is_an_error(quatrain: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"frage": "Qui ?", "antwort": "Moi"}])
    code, _, err = quatrain("data", "inspect", path)
    assert code == 3
    assert "Q322" in err
    code, out, _ = quatrain("data", "inspect", path, "data.columns.question=frage",
                            "data.columns.answer=antwort")  # fmt: skip
    assert code == 0
    assert "frage as question, antwort as answer" in out


def test_a_tokenizer_of_a_directory_or_a_recipe_is_used(quatrain: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", questions())
    train_bpe(["Combien font un et un ?"], 280).save(tmp_path / "tokenizer")
    _, out, err = quatrain("data", "inspect", path, "--json", "--tokenizer", tmp_path / "tokenizer")
    assert json.loads(out)["tokenizer"] == {"given": True, "exact": True, "vocab_size": 280}, err
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"tokenizer: {{path: {tmp_path / 'tokenizer'}}}\ndata: {{block_size: 64}}\n")
    _, out, err = quatrain("data", "inspect", path, "--json", "--tokenizer", recipe)
    assert json.loads(out)["tokenizer"]["vocab_size"] == 280, err
    assert json.loads(out)["block_size"] == 64


def test_inspecting_imports_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", questions())
    program = (
        "import sys\n"
        f"sys.argv = ['quatrain', 'data', 'inspect', {str(path)!r}]\n"
        "from quatrain.cli.main import app\n"
        "app(standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_training_finds_what_was_prepared(quatrain: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny_run(tmp_path)), encoding="utf-8")
    code, out, err = quatrain("data", "prepare", recipe, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["train"]["rows"] > 0
    rows = Path(report["directory"]) / "train" / "manifest.json"
    made = rows.stat().st_ino
    code, out, err = quatrain("sft", recipe, "train.max_steps=1", "--json")
    assert code == 0, err
    assert rows.stat().st_ino == made


def test_preparing_says_what_was_made(quatrain: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny_run(tmp_path)), encoding="utf-8")
    _, out, _ = quatrain("data", "prepare", recipe)
    assert "rows in" in out
    assert "of positions used" in " ".join(out.split())
    found_again = quatrain("data", "prepare", recipe, "--lang", "fr").out
    assert "lu sous la forme" in " ".join(found_again.split())
