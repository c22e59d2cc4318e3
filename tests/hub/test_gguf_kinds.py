"""GGUF files of Qwen2, of SmolLM3 and of Llamas with biases: read as llama.cpp reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapted import adapted_model
from dense_models import dense
from gguf_files import DENSE_MODEL, as_qwen2, rewritten, source_of
from llamacpp import LlamaCpp
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.hub.check import float_model, observe, prompts_of
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.open import open_source
from quatrain.hub.source import Source
from quatrain.model.llama import LlamaModel
from quatrain.text.tokenizer import Tokenizer, train_bpe

BIASED: dict[str, Any] = DENSE_MODEL | {"attention_bias": True, "d_k": 16}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(pretraining_text(count=300), vocab_size=512)


def without_output_biases(source: Source) -> Source:
    return source.replace(
        tensors={
            name: one.map(torch.zeros_like) if name.endswith("o_proj.bias") else one
            for name, one in source.tensors.items()
        }
    )


def near_llama_cpp(source: Source, path: Path, bound: float = 0.002) -> bool:
    llama, compared = LlamaCpp(path), 0
    for prompt, (logits, _) in zip(
        prompts_of(source), observe(float_model(source), source), strict=True
    ):
        said = llama.next_token(prompt, top=5)
        log_probabilities = logits[-1].log_softmax(-1)
        for one in said["top_logprobs"] if said else []:
            compared += 1
            assert abs(one["logprob"] - float(log_probabilities[one["id"]])) <= bound
    return compared >= 5


def test_a_file_of_qwen2_is_read_as_llama_cpp_reads_it(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = without_output_biases(source_of(BIASED, tokenizer))
    write_gguf(source, tmp_path / "llama.gguf", "f32")
    path = as_qwen2(tmp_path / "llama.gguf", tmp_path / "qwen2.gguf", source.config.d_k)
    back = read_gguf(path)
    assert back.config.attention_bias
    assert all(torch.equal(back.tensors[n].load(), t.load()) for n, t in source.tensors.items())
    assert near_llama_cpp(back, path)


def test_a_file_of_qwen2_becomes_llama_4(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(BIASED, tokenizer)
    write_gguf(source, tmp_path / "llama.gguf", "f32")
    path = as_qwen2(tmp_path / "llama.gguf", tmp_path / "qwen2.gguf", source.config.d_k)
    done = convert(path, tmp_path / "out", Conversion(to="llama4"))
    assert done.agreement is not None
    assert done.agreement.max_logit_difference < 1e-3
    assert [one.by for one in done.agreement.gguf] == ["llama.cpp"]


def test_rows_of_qwen2_that_are_no_whole_heads_are_refused(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = source_of(BIASED, tokenizer)
    write_gguf(source, tmp_path / "llama.gguf", "f32")
    path = rewritten(
        tmp_path / "llama.gguf", tmp_path / "qwen2.gguf", {},
        {"blk.0.attn_q.weight": torch.ones(7, 64)}, arch="qwen2",
    )  # fmt: skip
    with pytest.raises(
        CheckpointError, match=r"\[Q404\] blk\.0\.attn_q\.weight.*be divided into heads of 16"
    ):
        read_gguf(path)


def test_a_bias_that_is_not_there_is_zero(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(BIASED, tokenizer)
    write_gguf(source, tmp_path / "whole.gguf", "f32")
    absent = {f"blk.{layer}.attn_{part}.bias": None for layer in (0, 2) for part in ("k", "output")}
    path = rewritten(tmp_path / "whole.gguf", tmp_path / "less.gguf", {}, absent)
    back = read_gguf(path)
    assert not back.tensors["model.layers.2.self_attn.k_proj.bias"].load().any()
    assert back.tensors["model.layers.1.self_attn.k_proj.bias"].load().all()
    assert near_llama_cpp(back, path)


def test_a_bias_that_qwen2_must_have_is_missed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(BIASED, tokenizer)
    write_gguf(source, tmp_path / "llama.gguf", "f32")
    for number, absent in enumerate(([2], range(4))):
        none = {f"blk.{layer}.attn_{part}.bias": None for layer in absent for part in "qkv"}
        path = as_qwen2(tmp_path / "llama.gguf", tmp_path / f"{number}.gguf", 16)
        path = rewritten(path, tmp_path / f"less-{number}.gguf", {}, none)
        with pytest.raises(CheckpointError, match=r"\[Q404\].*missing.*bias"):
            open_source(path)


@pytest.mark.parametrize("name", ["blk.0.ffn_down.bias", "blk.1.attn_norm.bias", "output.bias"])
def test_another_bias_is_refused_by_its_name(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_gguf(source_of(BIASED, tokenizer), tmp_path / "m.gguf", "f32")
    path = rewritten(tmp_path / "m.gguf", tmp_path / "n.gguf", {}, {name: torch.ones(64)})
    with pytest.raises(CheckpointError, match=rf"\[Q404\].*{name}"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"rope_layers": (1, 0, 1, 1)}, r"no_rope_layers=\[1, 0, 1, 1\]"),
     ({"rope_layers": (1, 1, 1, 0), "attention_bias": True}, "attention_bias=true")],
)  # fmt: skip
def test_what_llama_cpps_smollm3_cannot_say_is_refused_by_name(
    changes: dict[str, Any], said: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"(?s)\[Q411\].*{said}"):
        write_gguf(source_of(DENSE_MODEL, tokenizer, **changes), tmp_path / "m.gguf", "f16")


@pytest.mark.parametrize("kind", ["biases", "qwen2", "smollm3"])
def test_a_dense_directory_leaves_as_gguf(kind: str, tmp_path: Path) -> None:
    dense(tmp_path / "dense", kind)
    for dtype in ("f32", "f16"):
        asked = Conversion(to="gguf", dtype=dtype)  # type: ignore[arg-type]
        done = convert(tmp_path / "dense", tmp_path / dtype, asked)
        assert done.agreement is not None
        assert done.agreement.max_logit_difference < 1e-3
        assert [one.by for one in done.agreement.gguf] == ["llama.cpp"]


def test_an_adapter_is_not_written_for_a_file_whose_rows_stand_otherwise(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    dense(tmp_path / "dense", "qwen2")
    convert(tmp_path / "dense", tmp_path / "four", Conversion(to="llama4", check=False))
    convert(tmp_path / "dense", tmp_path / "gguf", Conversion(to="gguf", dtype="f32", check=False))
    file = tmp_path / "gguf" / "model-f32.gguf"
    path = as_qwen2(file, tmp_path / "qwen2.gguf", 12)
    model = adapted_model(LlamaModel.from_pretrained(tmp_path / "four"))
    model.base = str(tmp_path / "four")
    model.save_pretrained(tmp_path / "adapter")
    convert(tmp_path / "adapter", tmp_path / "fits", Conversion(to="gguf", base=file))
    with pytest.raises(CheckpointError, match=r"(?s)\[Q411\].*architecture qwen2.*--to gguf"):
        convert(tmp_path / "adapter", tmp_path / "out", Conversion(to="gguf", base=path))
