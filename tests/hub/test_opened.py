"""A GGUF file is a model and a base as it is: its blocks equal what they decode to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from gguf_files import DENSE_MODEL, KINDS, LLAMA4_MODEL, as_qwen2, source_of, with_blocks
from quatrain.data.demo_text import pretraining_text
from quatrain.generate.answer import Answerer
from quatrain.hub import opened
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.opened import open_model, text_tools
from quatrain.model.frozen import Frozen
from quatrain.model.io import Form
from quatrain.model.locate import locate
from quatrain.text.tokenizer import Tokenizer, train_bpe

WIDE: dict[str, Any] = dict(
    d_model=256, d_k=64, intermediate_size_expert=256, intermediate_size_mlp=256
)
"""Blocks of K kinds hold 256 numbers."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(pretraining_text(count=300), vocab_size=512)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    """Files in float32: with experts, dense, and with queries and keys in halves."""
    directory = tmp_path_factory.mktemp("gguf")
    made = {}
    for name, shape in (("llama4", LLAMA4_MODEL), ("llama", DENSE_MODEL)):
        made[name] = directory / f"{name}.gguf"
        write_gguf(source_of(shape | WIDE, tokenizer), made[name], "f32")
    biased = source_of(DENSE_MODEL | WIDE | {"attention_bias": True}, tokenizer)
    write_gguf(biased, directory / "biased.gguf", "f32")
    made["qwen2"] = as_qwen2(directory / "biased.gguf", directory / "qwen2.gguf", WIDE["d_k"])
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["llama4", "llama", "qwen2"])
def test_blocks_multiply_as_what_they_decode_to(
    arch: str, kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = with_blocks(files[arch], tmp_path / f"{kind}.gguf", kind)
    held, decoded = open_model(path).eval(), open_model(path, torch.float32).eval()
    weights = [one for one in held.modules() if isinstance(one, Frozen)]
    assert len(weights) == sum(
        p.ndim > 1 for n, p in decoded.named_parameters() if "router" not in n
    )
    ids = torch.randint(0, 512, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(held(ids), decoded(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_numbers_that_lie_in_no_blocks_are_quantised(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = with_blocks(files["llama4"], tmp_path / "numbers.gguf", kind)
    model = open_model(path, form=Form(torch.float32, "nf4"))
    frozen = [one for one in model.model.layers.modules() if isinstance(one, Frozen)]
    kinds = {one.kind.name for weight in frozen for one in weight.matrices}
    assert kinds == {"q8_0" if kind == "Q8_0" else "nf4"}
    assert model.lm_head.weight.matrices[0].kind.name == kind.lower()


def test_kinds_that_have_to_be_decoded_are_told_with_their_size(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_blocks(files["llama"], tmp_path / "q3.gguf", "Q3_K")
    held = open_model(path)
    numbers = sum(p.numel() for p in held.parameters() if p.ndim > 1)
    matrices = sum(p.ndim > 1 for p in held.parameters())
    assert f"{matrices} of its matrices" in caplog.text
    assert f"{4 * numbers / 1e9:.2f} GB" in caplog.text
    caplog.clear()
    open_model(path, form=Form(torch.float32, "nf4"))
    assert "1 of its matrices" in caplog.text  # the embeddings, which are not quantised
    caplog.clear()
    open_model(path, torch.float32)  # whoever asks for float32 gets it
    open_model(with_blocks(files["llama"], tmp_path / "q4.gguf", "Q4_K"))
    assert not caplog.text


def test_a_file_is_asked_and_gives_its_text_tools(files: dict[str, Path], tmp_path: Path) -> None:
    path = with_blocks(files["llama4"], tmp_path / "q4.gguf", "Q4_0")
    assert locate(path) == path
    assert text_tools(path).tokenizer.vocab_size == 512
    answer = Answerer(path).answer("Où ?", max_new_tokens=3)
    assert 1 <= answer.completion_tokens <= 3


@pytest.mark.parametrize("kind", KINDS)
def test_opening_a_file_copies_nothing(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    path = with_blocks(files["llama4"], tmp_path / "blocks.gguf", kind)
    held = open_model(path)
    copied = [name for name, one in held.named_parameters() if one.ndim > 1]
    assert all("router" in name for name in copied), copied
    blocks = {
        tensor.data_ptr(): tensor.nbytes
        for one in held.modules()
        if isinstance(one, Frozen)
        for tensor in one.buffers()
    }
    lines = Path("/proc/self/smaps").read_text().split("\n") if Path("/proc").exists() else []
    mapped = [line.split()[0].split("-") for line in lines if line.endswith(path.name)]
    spans = [(int(begin, 16), int(end, 16)) for begin, end in mapped]
    if not spans:
        pytest.skip("this system does not say what is mapped")
    assert all(any(begin <= at < end for begin, end in spans) for at in blocks)


def test_text_tools_are_read_once_and_again_where_the_file_changed(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "m.gguf", []
    path.write_bytes(files["llama4"].read_bytes())
    whole = opened.read_gguf
    monkeypatch.setattr(opened, "read_gguf", lambda file: read.append(file) or whole(file))
    assert text_tools(path) is text_tools(path)
    assert read == [path]
    os.utime(path, ns=(0, 0))
    assert text_tools(path).tokenizer.vocab_size == 512
    assert read == [path, path]
