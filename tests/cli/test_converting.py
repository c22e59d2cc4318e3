"""quatrain convert: what it says of what it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreign import text_tools
from gguf_files import LLAMA4_MODEL
from quatrain.config import ModelConfig
from tiny import tiny_config, tiny_model


def written(directory: Path, config: ModelConfig | None = None) -> Path:
    tiny_model(config or tiny_config(vocab_size=512)).save_pretrained(directory)
    text_tools(directory)
    return directory


@pytest.mark.parametrize(
    ("dtype", "english", "french"),
    [("bf16", "rounding to bf16, compared with the unrounded source: logits differ by",
      "arrondi en bf16, comparé à la source non arrondie : écart maximal des logits"),
     ("f32", "rounding: none", "arrondi : aucun")],
)  # fmt: skip
def test_both_figures_are_said_and_in_json(
    dtype: str, english: str, french: str, quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    source = written(tmp_path / "source")
    words = ["convert", source, tmp_path / "made", "--to", "hf", "--dtype", dtype, "--force"]
    for language, said in (("en", english), ("fr", french)):
        found = quatrain(*words, "--lang", language)
        assert found.code == 0, found.err
        assert said in found.out.replace("\u00a0", " ").replace("\u202f", " ")
    check = quatrain(*words, "--json").json["check"]
    assert set(check["rounding"]) == {
        "max_logit_difference",
        "greedy_tokens",
        "greedy_tokens_equal",
    }
    assert (check["rounding"]["max_logit_difference"] > 0) is (dtype == "bf16")
    assert check["max_logit_difference"] < 1e-4
    card = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert ("Nothing was rounded." in card) is (dtype == "f32")


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", ("conversion, on 8 prompts, checked by quatrain: logits differ by",
             "rounding to q8_0, compared with the unrounded source: logits differ by",
             "llama.cpp agrees on model-q8_0.gguf: log-probabilities differ by")),
     ("fr", ("conversion, sur 8 prompts, vérifiée par quatrain : écart maximal des logits",
             "arrondi en q8_0, comparé à la source non arrondie : écart maximal des logits",
             "llama.cpp confirme model-q8_0.gguf : écart moyen des log-probabilités"))],
)  # fmt: skip
def test_a_rounded_gguf_file_is_told_by_its_error_its_rounding_and_another_reader(
    language: str, said: tuple[str, ...], quatrain: Callable[..., Any], tmp_path: Path
) -> None:
    source = written(tmp_path / "source", ModelConfig(**LLAMA4_MODEL))
    made = tmp_path / "made"
    words = ["convert", source, made, "--to", "gguf", "--dtype", "q8_0", "--force"]
    found = quatrain(*words, "--lang", language)
    assert found.code == 0, found.err
    lines = found.out.replace("\u00a0", " ").replace("\u202f", " ").splitlines()
    assert [line.strip().startswith(one) for line, one in zip(lines[-3:], said, strict=True)] == [
        True, True, True,
    ]  # fmt: skip
    check = quatrain(*words, "--json").json["check"]
    assert check["rounding"]["max_logit_difference"] > check["max_logit_difference"]
    assert [(one["by"], one["file"]) for one in check["gguf"]] == [("llama.cpp", "model-q8_0.gguf")]
    card = (made / "README.md").read_text(encoding="utf-8")
    assert "Checked by quatrain. Rounding changed the source's logits by" in card
    assert "llama.cpp agrees on `model-q8_0.gguf`" in card
