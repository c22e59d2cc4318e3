"""quatrain convert: what it says of what it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreign import text_tools
from tiny import tiny_config, tiny_model


def written(directory: Path) -> Path:
    tiny_model(tiny_config(vocab_size=512)).save_pretrained(directory)
    text_tools(directory)
    return directory


@pytest.mark.parametrize(
    ("dtype", "english", "french"),
    [("bf16", "rounding to bf16, beside the unrounded source: logits differ by",
      "arrondi à bf16, face à la source non arrondie : les logits diffèrent de"),
     ("f32", "rounding: nothing was rounded", "arrondi : rien n'a été arrondi")],
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
