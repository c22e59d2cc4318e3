"""Another program reads GGUF files too; if it disagrees, the conversion is refused."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from gguf_files import DENSE_MODEL, LLAMA4_MODEL, source_of
from quatrain.cli.converting import run_conversion
from quatrain.config import RopeScaling
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.hub import llama_cpp
from quatrain.hub.convert import Conversion, Dtype, convert
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.judge import judge
from quatrain.text.tokenizer import Tokenizer, train_bpe

SHAPES = {"llama": DENSE_MODEL, "llama4": LLAMA4_MODEL}
LLAMA3 = RopeScaling(
    factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=16
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(pretraining_text(count=300), vocab_size=512)


def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)


@pytest.mark.parametrize(
    ("shape", "kind"), [("llama", "f32"), ("llama", "f16"), ("llama4", "q8_0")]
)
def test_llama_cpp_judges_what_is_read(
    shape: str, kind: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_gguf(source_of(SHAPES[shape], tokenizer), tmp_path / "m.gguf", kind)
    found = judge(tmp_path / "m.gguf", read_gguf(tmp_path / "m.gguf"))
    assert found is not None
    assert (found.by, found.file, found.places) == ("llama.cpp", "m.gguf", 8 * 32)
    # In f32 only sums differ; what q8_0 rounds was measured as 0.04 on this model.
    assert found.mean_log_probability_difference < (1e-4 if kind == "f32" else 0.1)
    assert found.likeliest_equal > 0.9 * found.places


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
@pytest.mark.parametrize(
    "changes", [{"rope_theta": 10000.0}, {"rms_norm_eps": 1e-2}, {"rope_scaling": LLAMA3}], ids=str
)
def test_a_file_that_is_read_as_another_function_is_refused(
    kind: str, changes: dict[str, object], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shape = DENSE_MODEL | {"rope_theta": 500.0}
    write_gguf(source_of(shape, tokenizer), tmp_path / "m.gguf", kind)
    source = read_gguf(tmp_path / "m.gguf")
    wrong = source.replace(config=source.config.replace(**changes))
    with pytest.raises(
        CheckpointError, match=r"\[Q412\] llama.cpp computes something else from .*m.gguf"
    ):
        judge(tmp_path / "m.gguf", wrong)


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_a_conversion_from_and_to_gguf_is_judged(
    dtype: Dtype, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(source_of(DENSE_MODEL, tokenizer), tmp_path / "m.gguf", dtype)
    done = convert(tmp_path / "m.gguf", tmp_path / "hf", Conversion(to="hf"))
    assert done.agreement is not None
    assert done.agreement.judged_by == "transformers"
    assert [(one.by, one.file) for one in done.agreement.gguf] == [("llama.cpp", "m.gguf")]
    assert "llama.cpp agrees on `m.gguf`" in (tmp_path / "hf" / "README.md").read_text()
    run_conversion(str(tmp_path / "hf"), tmp_path / "back", "gguf", None, dtype, None, None, False,
                   True, "5GB", False, None, False, False)  # fmt: skip
    assert f"llama.cpp agrees on model-{dtype}.gguf" in capsys.readouterr().out


def test_without_llama_cpp_transformers_judges_dense_models(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_llama_cpp(monkeypatch)
    write_gguf(source_of(DENSE_MODEL, tokenizer), tmp_path / "m.gguf", "f32")
    source = read_gguf(tmp_path / "m.gguf")
    found = judge(tmp_path / "m.gguf", source)
    assert found is not None
    assert found.by == "transformers"
    assert found.mean_log_probability_difference < 1e-4
    with pytest.raises(CheckpointError, match="transformers computes something else"):
        judge(tmp_path / "m.gguf", source.replace(config=source.config.replace(rope_theta=100.0)))


def test_where_nobody_can_judge_it_is_said(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    without_llama_cpp(monkeypatch)
    write_gguf(source_of(LLAMA4_MODEL, tokenizer), tmp_path / "m.gguf", "f32")
    run_conversion(str(tmp_path / "m.gguf"), tmp_path / "hf", "hf", None, None, None, None, False,
                   True, "5GB", False, None, False, False)  # fmt: skip
    said = capsys.readouterr()
    assert "checked by quatrain" in said.out
    assert "no other program checked the GGUF file" in said.err


@pytest.mark.parametrize(
    "body",
    ["import os; os.abort()", "raise RuntimeError('no such architecture')", "CommonParams = 7"],
)
def test_a_crash_of_llama_cpp_loses_nothing(
    body: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write_gguf(source_of(DENSE_MODEL, tokenizer), tmp_path / "m.gguf", "f32")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "xllamacpp.py").write_text(body)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "fake"), *sys.path])
    with caplog.at_level(logging.WARNING):
        done = convert(tmp_path / "m.gguf", tmp_path / "hf", Conversion(to="hf"))
    assert "llama.cpp could not check" in caplog.text
    assert done.agreement is not None
    assert [one.by for one in done.agreement.gguf] == ["transformers"]


def test_json_says_who_judged(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(source_of(DENSE_MODEL, tokenizer), tmp_path / "m.gguf", "f32")
    run_conversion(str(tmp_path / "m.gguf"), tmp_path / "hf", "hf", None, None, None, None, False,
                   True, "5GB", False, None, False, True)  # fmt: skip
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["gguf"][0]["by"] == "llama.cpp"
    assert check["gguf"][0]["places"] == 256
