"""Compiled code continues answers as TransformerBlock does, whatever the weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gguf_files import KINDS, LLAMA4_MODEL, source_of, with_blocks
from quatrain.config import LoraConfig
from quatrain.data.demo_text import pretraining_text
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.opened import open_model
from quatrain.model import few_tokens, kinds_native
from quatrain.model.io import Form, model_of
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import choose
from quatrain.text.tokenizer import train_bpe
from tiny import CONFIGS, tiny_config, tiny_model

pytestmark = pytest.mark.skipif(
    kinds_native.library("few_tokens") is None, reason="no C++ compiler that can compile it"
)


def continued(model: LlamaModel, ids: Tensor, first: int = 9) -> tuple[Tensor, Any]:
    """Give the logits of ids that are read one by one after the first few, and what read them."""
    with torch.no_grad():
        cache = model.new_cache()
        each = [model(ids[:, :first], None, cache)]
        each += [model(ids[:, at : at + 1], None, cache) for at in range(first, ids.shape[1])]
    return torch.cat(each, 1), cache.few_tokens


def some_ids(rows: int, length: int = 40, size: int = 96) -> Tensor:
    return torch.randint(0, size, (rows, length), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_by_one_is_all_at_once(name: str, rows: int) -> None:
    model, ids = tiny_model(tiny_config(name)).eval(), some_ids(rows)
    found, by = continued(model, ids)
    assert by
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_tokens, "_WORK", 1)
    before = torch.get_num_threads()
    model, ids = tiny_model(tiny_config("top_2")).eval(), some_ids(3)
    with torch.no_grad():
        expected = model(ids)
    try:
        torch.set_num_threads(threads)
        assert_close(continued(model, ids)[0], expected, atol=1e-4, rtol=1e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", [None, Form(torch.float32), Form(torch.float32, "nf4"),
                                  Form(torch.float32, "int8")])  # fmt: skip
@pytest.mark.parametrize("adapted", [False, True])
def test_stored_weights_and_adapters_multiply_too(form: Form | None, adapted: bool) -> None:
    config = tiny_config(
        "top_2", d_model=64, intermediate_size_expert=64, intermediate_size_mlp=128
    )
    source = tiny_model(config).to(torch.bfloat16).state_dict()
    tensors = {name: LazyTensor.of(tensor) for name, tensor in source.items()}
    dtype = torch.float32 if form is None else None
    model = model_of(config, tensors, dtype, form=form).eval()
    if adapted:
        lora = LoraConfig(rank=4, train_router=True)
        add_adapters(model, choose(lora, config), seed=1, dtype=torch.float32)
        for number, site in enumerate(model.adapters):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(lora_at(model, site).B, std=0.1, generator=generator)
    ids = some_ids(2)
    found, by = continued(model, ids)
    assert by
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-3, rtol=1e-3)


def test_bfloat16_is_computed_in_float32() -> None:
    model, ids = tiny_model(tiny_config()).to(torch.bfloat16).eval(), some_ids(2)
    found, by = continued(model, ids)
    assert by
    with torch.no_grad():
        exact = model.float()(ids)
    scale = float(exact.abs().max())
    assert float((found.float() - exact)[:, 9:].abs().max()) < 0.05 * scale


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "F16"])
def test_blocks_of_gguf_files_multiply_too(kind: str, tmp_path: Path) -> None:
    tokenizer = train_bpe(pretraining_text(count=300), vocab_size=512)
    wide = dict(d_model=256, d_k=64, intermediate_size_expert=256, intermediate_size_mlp=256)
    write_gguf(source_of(LLAMA4_MODEL | wide, tokenizer), tmp_path / "f32.gguf", "f32")
    model = open_model(with_blocks(tmp_path / "f32.gguf", tmp_path / "k.gguf", kind)).eval()
    ids = some_ids(2, 20, 512)
    found, by = continued(model, ids)
    assert by
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-3, rtol=1e-3)


def test_what_it_does_not_know_is_left_to_torch(tmp_path: Path) -> None:
    tokenizer = train_bpe(pretraining_text(count=300), vocab_size=512)
    write_gguf(source_of(LLAMA4_MODEL, tokenizer), tmp_path / "f16.gguf", "f16")
    model, ids = open_model(tmp_path / "f16.gguf").eval(), some_ids(2, 20, 512)
    found, by = continued(model, ids)
    assert by is False
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-3, rtol=1e-3)


def test_many_rows_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quatrain.model.llama.MOST_ROWS", 2)
    model, ids = tiny_model(tiny_config()).eval(), some_ids(3)
    found, by = continued(model, ids)
    assert by is None
    with torch.no_grad():
        assert_close(found, model(ids), atol=1e-4, rtol=1e-4)
