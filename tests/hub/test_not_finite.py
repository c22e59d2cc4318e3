"""A value that a dtype cannot hold is refused by tensor and value; so is one that is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapted import adapted_model
from foreign import text_tools
from gguf_files import LLAMA4_MODEL, source_of
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.open import open_source
from quatrain.model.io import model_of
from quatrain.text.tokenizer import train_bpe
from tiny import tiny_config, tiny_model

Q = "model.layers.0.self_attn.q_proj.weight"
GGUF_MODEL: dict[str, Any] = LLAMA4_MODEL


def made(directory: Path, value: float, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a model one of whose weights is `value`."""
    model = tiny_model(tiny_config(vocab_size=512, **changes)).to(dtype)
    with torch.no_grad():
        model.get_parameter(Q)[0, 0] = value
    model.save_pretrained(directory)
    text_tools(directory)
    return directory


def write_loud(directory: Path, value: float) -> Path:
    """Write a model that llama.cpp can have, one of whose weights is `value`."""
    source = source_of(GGUF_MODEL, train_bpe(pretraining_text(count=50), vocab_size=400))
    model = model_of(source.config, source.tensors)
    with torch.no_grad():
        model.get_parameter(Q)[0, 0] = value
    model.save_pretrained(directory)
    source.tokenizer.save(directory)
    source.chat.save(directory)
    return directory


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (1e5, "f16", r"q_proj.weight holds the value 100000, which does not fit in f16"),
        (-1e5, "f16", r"q_proj.weight holds the value -100000, which does not fit in f16"),
        (3.4e38, "bf16", r"q_proj.weight holds the value 3.4e\+38, which does not fit in bf16"),
    ],
)
def test_a_value_beyond_a_dtype_is_refused(
    value: float, dtype: Any, said: str, check: bool, tmp_path: Path
) -> None:
    made(tmp_path / "model", value)
    with pytest.raises(CheckpointError, match=rf"Q411.*layers.0.self_attn.{said}") as raised:
        convert(tmp_path / "model", tmp_path / "out", Conversion(to="hf", dtype=dtype, check=check))
    assert "--dtype f32" in raised.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_double_beyond_float32_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "model", 1e300, torch.float64)
    with pytest.raises(CheckpointError, match=r"the value 1e\+300, which does not fit in f32"):
        convert(tmp_path / "model", tmp_path / "out", Conversion(to="hf", dtype="f32", check=False))


def test_the_largest_value_of_a_dtype_is_written(tmp_path: Path) -> None:
    made(tmp_path / "model", 65504.0)
    convert(tmp_path / "model", tmp_path / "out", Conversion(to="hf", dtype="f16", check=False))
    assert load_file(tmp_path / "out" / "model.safetensors")[Q][0, 0] == 65504


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e5, "f16"), (3.4e38, "bf16"), (127 * 7e4, "q8_0"), (3e38, "q8_0")]
)
def test_a_value_beyond_a_type_of_gguf_is_refused(value: float, dtype: Any, tmp_path: Path) -> None:
    write_loud(tmp_path / "model", value)
    asked = Conversion(to="gguf", dtype=dtype, check=False)
    with pytest.raises(
        CheckpointError, match=rf"holds the value .*, which does not fit in {dtype}"
    ):
        convert(tmp_path / "model", tmp_path / "out", asked)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("asked", [Conversion(to="hf", check=False), Conversion(to="llama4")])
def test_a_source_that_holds_no_number_is_refused(
    value: float, asked: Conversion, tmp_path: Path
) -> None:
    made(tmp_path / "model", value)
    with pytest.raises(CheckpointError, match=rf"\[Q404\] {Q} holds {value}") as raised:
        convert(tmp_path / "model", tmp_path / "out", asked)
    assert raised.value.remedy
    with pytest.raises(CheckpointError, match=rf"{Q} holds {value}"):
        Answerer(tmp_path / "model")


def test_a_gguf_file_that_holds_no_number_is_refused(tmp_path: Path) -> None:
    source = source_of(GGUF_MODEL, train_bpe(pretraining_text(count=50), vocab_size=400))
    norm = source.tensors["model.norm.weight"].map(lambda x: x * math.nan)
    loud = source.replace(tensors=source.tensors | {"model.norm.weight": norm})
    write_gguf(loud, tmp_path / "m.gguf", "f16")
    assert read_gguf(tmp_path / "m.gguf")
    read = open_source(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match=r"model.norm.weight holds nan"):
        read.tensors["model.norm.weight"].load()


def adapter(directory: Path, value: float) -> Path:
    base = tiny_model(tiny_config(vocab_size=512, initializer_range=0.1))
    base.save_pretrained(directory / "base")
    text_tools(directory / "base")
    model = adapted_model(base)
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")
    path = directory / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.0.self_attn.q_proj.lora_B" in name)
    tensors[name][0, 0] = value
    save_file(tensors, path)
    return directory / "adapter"


@pytest.mark.parametrize(
    "asked",
    [Conversion(to="hf", check=False), Conversion(to="hf", merge=True, check=False),
     Conversion(to="llama4", merge=True)],
    ids=str,
)  # fmt: skip
def test_an_adapter_that_holds_no_number_is_refused(asked: Conversion, tmp_path: Path) -> None:
    path = adapter(tmp_path, math.nan)
    with pytest.raises(CheckpointError, match=r"\[Q404\].*q_proj.lora_B.weight holds nan"):
        convert(path, tmp_path / "out", asked)
    with pytest.raises(CheckpointError, match=r"lora_B.weight holds nan"):
        Answerer(path)


def test_a_merged_weight_beyond_the_base_s_dtype_is_refused(tmp_path: Path) -> None:
    path = adapter(tmp_path, 1e7)
    asked = Conversion(to="llama4", merge=True, dtype="f16", check=False)
    with pytest.raises(CheckpointError, match=rf"{Q} holds the value .* which does not fit in f16"):
        convert(path, tmp_path / "out", asked)
