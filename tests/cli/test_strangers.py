"""A MODEL that is not one: each verb says what it is, and gives the same command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_every_verb_that_takes_a_model_says_the_same(
    quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("m.gguf", "w.pt", "w.safetensors", "t/tokenizer.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "exam.csv").write_text("question,answer\nQui ?,Moi\n", encoding="utf-8")
    dense = tmp_path / "dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"model_type": "llama"}')
    run_dir = f"run_dir={tmp_path / 'run'}"
    for name in ("m.gguf", "w.pt", "w.safetensors", "t", "dense"):
        model = tmp_path / name
        said = set()
        for words in (
            ["ask", model, "Qui ?"],
            ["eval", model, tmp_path / "exam.csv"],
            ["sft", "openquizz", f"model.init={model}", run_dir],
            ["pretrain", "french-text", f"model.init={model}", run_dir],
            ["plan", "openquizz", f"model.init={model}", run_dir],
            *([["data", "inspect", tmp_path / "exam.csv", "--tokenizer", model]]
              if name not in ("t", "dense") else []),  # whose tokenizer may be taken alone
            *([["convert", model, tmp_path / "new", "--to", "hf"]]
              if name not in ("m.gguf", "dense") else []),
        ):  # fmt: skip
            found = quatrain(*words)
            assert found.code == 4, (words, found.err)
            said.add(found.err[found.err.index("[Q4") :])
        assert len(said) == 1, said
