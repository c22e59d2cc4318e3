"""GGUF files: what is written is read back, and real llama.cpp says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gguf_files import DENSE_MODEL, LLAMA4_MODEL, source_of
from llamacpp import LlamaCpp
from quatrain.config import RopeScaling
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError
from quatrain.hub.check import float_model, observe, prompts_of
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.gguf_read import read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.open import open_source
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe
from tiny import tiny_model

SENTENCES = [
    "L'été, où l'on s'aimait, a coûté 1 234,50 € à Noël.", "Aujourd'hui, « rien » ne va plus…",
    "ÉCOLE, Œuvre et NAÏVETÉ : qu'est-ce que c'est ?", "  deux  pas\n\net une ligne\t!",
    "Il a dit : <|eot|> <|begin_of_text|>", "日本語 и русский 🙂 e\u0301",
]  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama4": LLAMA4_MODEL,
    "llama4 every layer": LLAMA4_MODEL | {"interleave_moe_layer_step": 1, "n_layers": 6},
    "llama4 top 2": LLAMA4_MODEL | {"num_experts_per_tok": 2},
    "llama4 scaled": LLAMA4_MODEL
    | {"rope_scaling": RopeScaling(original_max_position_embeddings=64)},
    "llama": DENSE_MODEL,
    "llama biases": DENSE_MODEL | {"attention_bias": True},
    "smollm3": DENSE_MODEL | {"n_layers": 5, "rope_layers": (1, 1, 1, 0, 1)},
    "llama scaled": DENSE_MODEL
    | {"rope_scaling": RopeScaling(factor=8, low_freq_factor=1, high_freq_factor=4)},
}

READ_BACK = (
    "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_k", "moe_layers",
    "rope_layers", "intermediate_size_mlp", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "rope_scaling", "use_qk_norm", "attention_chunk_size", "tie_word_embeddings",
    "attention_bias",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(pretraining_text(count=300), vocab_size=512)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_in_float32_is_read_back_bit_for_bit(
    shape: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = source_of(SHAPES[shape], tokenizer)
    write_gguf(source, tmp_path / "m.gguf", "f32")
    back = read_gguf(tmp_path / "m.gguf")
    assert back.tensors.keys() == source.tensors.keys()
    assert all(torch.equal(back.tensors[n].load(), t.load()) for n, t in source.tensors.items())
    for field in READ_BACK:
        assert getattr(back.config, field) == getattr(source.config, field), field
    assert back.chat.stop_ids(back.tokenizer) == LLAMA4.stop_ids(tokenizer)
    assert back.tokenizer.encode_batch(SENTENCES[:-1]) == tokenizer.encode_batch(SENTENCES[:-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_says_the_same(shape: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(SHAPES[shape], tokenizer)
    expected = observe(float_model(source), source)
    pairs = list(zip(prompts_of(source), expected, strict=True))
    # Random weights this large are hard to round; bench/gguf_files.py measures a trained model.
    for kind, bound in (("f32", 0.002), ("f16", 0.1), ("q8_0", 0.5)):
        write_gguf(source, tmp_path / f"{kind}.gguf", kind)
        llama, compared = LlamaCpp(tmp_path / f"{kind}.gguf"), 0
        for prompt, (logits, _) in pairs:
            said = llama.next_token(prompt, top=5)
            log_probabilities = logits[-1].log_softmax(-1)
            for one in said["top_logprobs"] if said else []:
                compared += 1
                assert abs(one["logprob"] - float(log_probabilities[one["id"]])) <= bound
        assert compared >= 5


def test_llama_cpp_goes_on_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(LLAMA4_MODEL, tokenizer)
    write_gguf(source, tmp_path / "m.gguf", "f32")
    llama, compared = LlamaCpp(tmp_path / "m.gguf"), 0
    for prompt, (_, ids) in zip(
        prompts_of(source), observe(float_model(source), source), strict=True
    ):
        for number in range(8):
            said = llama.next_token(prompt + ids[:number])
            if said is not None:
                compared += 1
                assert said["id"] == ids[number]
    assert compared >= 20


@pytest.mark.enable_socket
def test_llama_cpp_cuts_text_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(source_of(LLAMA4_MODEL, tokenizer), tmp_path / "m.gguf", "f16")
    texts = SENTENCES[:-1] + pretraining_text(seed=1, count=200)
    assert LlamaCpp(tmp_path / "m.gguf").tokenize(texts) == tokenizer.encode_batch(texts)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"use_qk_norm": False}, "use_qk_norm=False with 4 experts"),
        ({"rope_layers": (0, 1, 1, 1)}, "no_rope_layers="),
        ({"moe_layers": (0, 3)}, "moe_layers="),
        ({"attention_chunk_size": 32}, "attention_chunk_size=32"),
        ({"floor_scale": 16}, "floor_scale=16"),
        ({"attention_bias": True}, "attention_bias=true"),
        ({"moe_layers": ()}, r"moe_layers=\[\]"),
        ({"n_layers": 2, "rope_layers": (1, 1)}, "n_layers=2"),
        ({"max_position_embeddings": 2**32}, "max_position_embeddings=4294967296"),
    ],
)
def test_what_llama_cpp_cannot_represent_is_refused_by_name(
    changes: dict[str, Any], field: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=field) as raised:
        write_gguf(source_of(LLAMA4_MODEL, tokenizer, **changes), tmp_path / "m.gguf", "f16")
    assert raised.value.code == "Q411"
    assert not list(tmp_path.iterdir())


def test_strange_tokenizers_and_rows_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    letters = SimpleCharTokenizer("".join(SENTENCES))
    elisions = train_bpe(SENTENCES, vocab_size=300, elisions=True)
    for strange in (letters, elisions):
        with pytest.raises(CheckpointError, match="does not support this tokenizer"):
            write_gguf(source_of(LLAMA4_MODEL, strange), tmp_path / "m.gguf", "f16")
    odd = source_of(LLAMA4_MODEL, tokenizer, intermediate_size_expert=40)
    with pytest.raises(CheckpointError, match="q8_0 stores blocks of 32"):
        write_gguf(odd, tmp_path / "m.gguf", "q8_0")
    name = "model.layers.0.self_attn.q_proj.weight"
    loud = source_of(LLAMA4_MODEL, tokenizer)
    loud = loud.replace(tensors=loud.tensors | {name: loud.tensors[name].map(lambda x: x * 1e9)})
    with pytest.raises(CheckpointError, match="which does not fit in f16"):
        write_gguf(loud, tmp_path / "m.gguf", "f16")


def test_more_stops_than_gguf_has_names_for_are_refused(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = source_of(LLAMA4_MODEL, tokenizer)
    many = LLAMA4.model_copy(update={"stop": (*LLAMA4.stop, LLAMA4.header_start)})
    with pytest.raises(CheckpointError, match="the end of text, of turn and of message"):
        write_gguf(source.replace(chat=many), tmp_path / "m.gguf", "f16")


def test_capitals_that_llama_cpp_cuts_otherwise_are_warned_of(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shouting = train_bpe(["ÉCOLE L'ÉCOLE"] * 9, vocab_size=300)
    write_gguf(source_of(LLAMA4_MODEL, shouting), tmp_path / "m.gguf", "f16")
    assert "ÉCOLE" in caplog.text
    caplog.clear()
    quiet = train_bpe(["école l'école"] * 9, vocab_size=300)
    write_gguf(source_of(LLAMA4_MODEL, quiet), tmp_path / "n.gguf", "f16")
    assert caplog.text == ""


def test_the_modelfile_prompts_as_the_chat_format_does(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_gguf(source_of(LLAMA4_MODEL, tokenizer), tmp_path / "m.gguf", "f16")
    said = (tmp_path / "Modelfile").read_text()
    assert said.startswith('FROM ./m.gguf\nTEMPLATE """<|begin_of_text|>{{- range .Messages }}')
    assert said.count("PARAMETER stop") == 3
    assert "PARAMETER num_ctx 1024\n" in said


def test_a_conversion_to_gguf_is_checked(tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = source_of(LLAMA4_MODEL, tokenizer)
    tiny_model(source.config).save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    LLAMA4.save(tmp_path / "model")
    for dtype in ("f32", "f16", "q8_0"):
        done = convert(tmp_path / "model", tmp_path / dtype, Conversion(to="gguf", dtype=dtype))
        assert done.agreement is not None
        assert done.agreement.max_logit_difference < 1e-3
        names = {path.name for path in (tmp_path / dtype).iterdir()}
        assert names == {f"model-{dtype}.gguf", "Modelfile", "README.md", "manifest.json"}
    back = open_source(tmp_path / "f16" / "model-f16.gguf")
    assert back.kind == "gguf"


@pytest.mark.parametrize(
    "harm",
    [
        b"", b"GGUF", b"GGUF" + b"\xff" * 20, b"GGUF\3\0\0\0" + b"\0" * 7 + b"\1" + b"\0" * 8,
        b"PK\3\4" + b"\0" * 100, b"GGUF\3\0\0\0" + b"\0" * 16,
        b"GGUF\3\0\0\0" + b"\0" * 8 + b"\1" + b"\0" * 7 + b"\xff" * 64,
    ],
)  # fmt: skip
def test_a_broken_file_is_refused(harm: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(harm)
    with pytest.raises(CheckpointError) as raised:
        read_gguf(tmp_path / "m.gguf")
    assert raised.value.code in ("Q401", "Q410")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        read_gguf(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share: float, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(source_of(LLAMA4_MODEL, tokenizer), path, "f32")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError) as raised:
        float_model(read_gguf(path))
    assert raised.value.code == "Q401"


def test_the_vocabulary_is_padded_to_the_models_rows(tmp_path: Path) -> None:
    small = train_bpe(SENTENCES, vocab_size=280)
    write_gguf(source_of(LLAMA4_MODEL, small), tmp_path / "m.gguf", "f16")
    assert read_gguf(tmp_path / "m.gguf").config.vocab_size == 512
    assert json.loads(small.backend.to_str())["model"]["type"] == "BPE"
