"""The cost of rounding, beside the conversion's own error; zero where nothing is rounded."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import quatrain.hub.convert as converting
from adapted import adapted_model
from foreign import text_tools
from gguf_files import LLAMA4_MODEL
from quatrain.config import ModelConfig
from quatrain.hub.check import NOTHING_ROUNDED, float_model, observe
from quatrain.hub.convert import Conversion, Dtype, Format, convert
from quatrain.hub.open import open_source
from quatrain.model.llama import LlamaModel
from tiny import tiny_model


def written(directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    tiny_model(ModelConfig(**LLAMA4_MODEL)).to(dtype).save_pretrained(directory)
    text_tools(directory)
    return directory


@pytest.mark.parametrize(
    ("to", "dtype"), [("gguf", "q8_0"), ("gguf", None), ("hf", "bf16"), ("llama4", "f16")]
)
def test_rounding_costs_what_lies_between_the_source_and_the_result(
    to: Format, dtype: Dtype | None, tmp_path: Path
) -> None:
    source = written(tmp_path / "source")
    done = convert(source, tmp_path / "made", Conversion(to=to, dtype=dtype))
    assert done.agreement is not None
    made = tmp_path / "made"
    result = made / f"model-{dtype or 'f16'}.gguf" if to == "gguf" else made
    one = open_source(source)
    pairs = list(zip(observe(float_model(one), one), observe(float_model(open_source(result)), one),
                     strict=True))  # fmt: skip
    largest = max(float((a - b).abs().max()) for (a, _), (b, _) in pairs)
    equal = sum(a == b for (_, x), (_, y) in pairs for a, b in zip(x, y, strict=True))
    cost = done.agreement.rounding
    assert largest > 1e-4  # above the error of sums in another order
    assert cost.max_logit_difference == pytest.approx(largest, rel=0.02)
    assert (cost.greedy_tokens_equal, cost.greedy_tokens) == (equal, done.agreement.greedy_tokens)
    assert done.agreement.max_logit_difference < 1e-4


@pytest.mark.parametrize(
    ("held", "dtype"),
    [(torch.float32, None), (torch.float32, "f32"), (torch.bfloat16, "bf16"),
     (torch.bfloat16, "f32"), (torch.float16, "f32")],
)  # fmt: skip
def test_where_nothing_is_rounded_the_source_is_not_run_again(
    held: torch.dtype, dtype: Dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, runs = written(tmp_path / "source", held), list[object]()
    monkeypatch.setattr(converting, "observe", lambda *a: runs.append(a) or observe(*a))
    done = convert(source, tmp_path / "made", Conversion(to="hf", dtype=dtype))
    assert done.agreement is not None
    assert done.agreement.rounding == NOTHING_ROUNDED
    assert len(runs) == 2


def test_no_two_models_are_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, alive, most = written(tmp_path / "source"), set[int](), list[int]()
    made = converting.float_model

    def counted(*given: Any) -> LlamaModel:
        model = made(*given)
        alive.add(id(model))
        most.append(len(alive))
        weakref.finalize(model, alive.discard, id(model))
        return model

    monkeypatch.setattr(converting, "float_model", counted)
    convert(source, tmp_path / "made", Conversion(to="hf", dtype="bf16"))
    assert most == [1, 1, 1]


@pytest.mark.parametrize(
    ("asked", "rounds"),
    [(Conversion(to="gguf"), False), (Conversion(to="gguf", dtype="f16"), True),
     (Conversion(to="hf"), False)],
)  # fmt: skip
def test_an_adapter_alone_is_rounded_or_not(
    asked: Conversion, rounds: bool, tmp_path: Path
) -> None:
    model = adapted_model(tiny_model(ModelConfig(**LLAMA4_MODEL)))
    written(tmp_path / "base")
    model.base = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    done = convert(tmp_path / "adapter", tmp_path / "made", asked)
    assert done.agreement is not None
    assert (done.agreement.rounding.max_logit_difference > 0) is rounds
