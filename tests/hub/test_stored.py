"""Directories whose matrices are stored in few bits: written here, and by bitsandbytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from dense_models import IDS, dense, logits_of
from foreign import multimodal, text_tools
from quatrain.errors import CheckpointError
from quatrain.generate.answer import Answerer
from quatrain.hub.convert import Conversion, Kind, convert
from quatrain.hub.open import open_source
from quatrain.hub.opened import open_model
from quatrain.model.frozen import Frozen
from quatrain.model.io import Form, load_model, write_model
from quatrain.model.kinds import KINDS, decode, encode
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import LazyTensor
from tiny import tiny_config, tiny_model

WIDE: dict[str, Any] = dict(
    d_model=64, d_k=16, intermediate_size_expert=64, intermediate_size_mlp=128, vocab_size=512
)
DENSE: dict[str, Any] = dict(hidden_size=64, intermediate_size=128)
QUANTISED: list[Kind] = ["nf4", "int8"]
MAP = ".weight.quant_map"


def plain(directory: Path, name: str = "base", dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a directory of plain numbers."""
    config = tiny_config(name, **WIDE)
    tensors = tiny_model(config).to(dtype).state_dict()
    write_model(config, {n: LazyTensor.of(t) for n, t in tensors.items()}, directory)
    text_tools(directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    """The same in few bits, in several shards."""
    home = tmp_path_factory.mktemp("stored")
    for kind in QUANTISED:
        asked = Conversion(to="llama4", quantize=kind, shard_bytes=40_000)
        convert(base, home / kind, asked)
        assert len(list((home / kind).glob("*.safetensors"))) > 3
    return {kind: home / kind for kind in QUANTISED}


def parts_of(model: LlamaModel) -> dict[str, Tensor]:
    return {
        f"{path}.{part}": tensor
        for path, module in model.named_modules() if isinstance(module, Frozen)
        for number, matrix in enumerate(module.matrices)
        for part, tensor in matrix.parts.items()
    }  # fmt: skip


def said_of(model: LlamaModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS)


@pytest.mark.parametrize("kind", QUANTISED)
def test_what_is_written_is_what_quantising_the_source_gives(
    kind: str, base: Path, stored: dict[str, Path]
) -> None:
    read = open_model(stored[kind])
    made = load_model(base, None, "cpu", Form(torch.float32, kind))
    ours, theirs = parts_of(read), parts_of(made)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    for name, part in ours.items():
        assert torch.equal(part, theirs[name]), name
        assert part.dtype == theirs[name].dtype
    assert torch.equal(said_of(read), said_of(made))
    assert read.model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("name", ["tied_embeddings", "biased_attention", "no_moe", "top_2"])
def test_every_shape_is_read_back(kind: Kind, name: str, tmp_path: Path) -> None:
    directory = plain(tmp_path / "plain", name, torch.float32)
    done = convert(directory, tmp_path / "few", Conversion(to="llama4", quantize=kind))
    assert done.dtype == kind
    assert done.agreement is not None
    assert done.agreement.max_logit_difference == 0
    assert done.agreement.rounding.max_logit_difference > 1e-3
    read = open_model(tmp_path / "few", torch.float32)
    assert not parts_of(read)
    assert_close(said_of(read), said_of(open_model(tmp_path / "few")), atol=1e-4, rtol=1e-4)
    assert Answerer(tmp_path / "few").answer("Paris ?", max_new_tokens=2) is not None


def test_the_card_and_the_config_say_it(stored: dict[str, Path]) -> None:
    card = (stored["nf4"] / "README.md").read_text()
    assert "| dtype | nf4 |" in card
    assert "Rounding changed the source's logits by" in card
    fields = json.loads((stored["nf4"] / "config.json").read_text())
    assert fields["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    assert fields["dtype"] == "bfloat16"
    assert (stored["nf4"] / "manifest.json").exists()


def test_stored_matrices_are_copied_as_they_are(stored: dict[str, Path], tmp_path: Path) -> None:
    for kind in QUANTISED:
        done = convert(stored[kind], tmp_path / kind, Conversion(to="llama4", quantize=kind))
        assert done.agreement is not None
        assert done.agreement.rounding.nothing
        ours, theirs = (parts_of(open_model(one)) for one in (stored[kind], tmp_path / kind))
        assert all(torch.equal(part, theirs[name]) for name, part in ours.items())


@pytest.mark.parametrize("kind", QUANTISED)
def test_plain_numbers_come_back_in_the_dtype_of_the_others(
    kind: str, stored: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        done = convert(stored[kind], tmp_path / "whole", Conversion(to="llama4"))
    assert f"stores its matrices as {kind}" in caplog.text
    assert done.dtype == "bf16"
    assert done.agreement is not None
    assert not done.agreement.rounding.nothing  # decoded numbers are rounded to bf16
    fields = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert "quantization_config" not in fields
    whole = open_model(tmp_path / "whole")
    decoded = open_model(stored[kind], torch.float32).state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, decoded[name].to(torch.bfloat16)), name


@pytest.mark.parametrize("to", ["hf", "gguf", "hf-multimodal"])
def test_few_bits_are_written_as_llama4_only(to: Any, base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Q411.*--to " + to):
        convert(base, tmp_path / "few", Conversion(to=to, quantize="nf4"))


def test_a_width_of_other_blocks_is_refused(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=512)
    tensors = {n: LazyTensor.of(t) for n, t in tiny_model(config).state_dict().items()}
    write_model(config, tensors, tmp_path / "plain")
    text_tools(tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"Q411.*q_proj.*48 inputs"):
        convert(tmp_path / "plain", tmp_path / "few", Conversion(to="llama4", quantize="nf4"))
    assert not (tmp_path / "few").exists()
    convert(tmp_path / "plain", tmp_path / "few", Conversion(to="llama4", quantize="int8"))


def test_a_vision_part_is_not_joined_to_few_bits(tmp_path: Path) -> None:
    multimodal(tmp_path / "base", "scout")
    path = tmp_path / "base" / "config.json"
    kind = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": kind}))
    with pytest.raises(CheckpointError, match=r"Q411.*vision"):
        convert(tmp_path / "base", tmp_path / "new", Conversion(to="hf-multimodal"))


def quantised_by_transformers(directory: Path, target: Path, **fields: Any) -> Any:
    """Let transformers and bitsandbytes write a directory; return its model, in plain numbers."""
    reason = "bitsandbytes is not installed: nobody else to write such a directory"
    pytest.importorskip("bitsandbytes", reason=reason)
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, device_map="cpu",
        quantization_config=BitsAndBytesConfig(**fields),
    )  # fmt: skip
    model.save_pretrained(target)
    text_tools(target)
    again = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, device_map="cpu")
    return again.dequantize(torch.float32).eval()


WAYS: dict[str, dict[str, Any]] = {
    "nf4 twice": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                  "bnb_4bit_use_double_quant": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4 twice": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
    "nf4 in bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                        "bnb_4bit_quant_storage": torch.bfloat16},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama3", "qwen2"])
def test_a_dense_directory_of_bitsandbytes_is_the_same_function(
    way: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dense(tmp_path / "dense", kind, **DENSE)
    oracle = quantised_by_transformers(tmp_path / "dense", tmp_path / "few", **WAYS[way])
    with caplog.at_level(logging.WARNING):
        done = convert(tmp_path / "few", tmp_path / "ours", Conversion(to="llama4"))
    assert f"stores its matrices as {way.split()[0]}" in caplog.text
    assert done.agreement is not None
    assert done.agreement.judged_by == "transformers"
    ours = LlamaModel.from_pretrained(tmp_path / "ours")
    assert_close(logits_of(ours), logits_of(oracle), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["nf4 twice", "nf4", "fp4 twice", "fp4", "int8"])
def test_a_llama4_directory_of_bitsandbytes_is_used_as_it_is(way: str, tmp_path: Path) -> None:
    plain(tmp_path / "plain", "no_moe", torch.float32)
    oracle = quantised_by_transformers(tmp_path / "plain", tmp_path / "few", **WAYS[way])
    held = open_model(tmp_path / "few").eval()
    assert len([one for one in held.modules() if isinstance(one, Frozen)]) == 4 * 7
    assert_close(logits_of(held), logits_of(oracle), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", QUANTISED)
def test_transformers_and_bitsandbytes_open_what_is_written_here(
    kind: Kind, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: nobody to open it")
    from transformers import Llama4ForCausalLM

    plain(tmp_path / "plain", "no_moe", torch.float32)
    convert(tmp_path / "plain", tmp_path / "few", Conversion(to="llama4", quantize=kind))
    theirs = Llama4ForCausalLM.from_pretrained(
        tmp_path / "few", dtype=torch.float32, device_map="cpu"
    )
    assert theirs.is_quantized
    ours = open_model(tmp_path / "few").eval()
    whole = theirs.dequantize(torch.float32).eval()
    assert_close(logits_of(whole), logits_of(ours), atol=1e-4, rtol=1e-4)


def test_rows_that_end_within_a_block_are_decoded_whole(tmp_path: Path) -> None:
    oracle = dense(tmp_path / "dense", hidden_size=48, intermediate_size=96, head_dim=16)
    quantised_by_transformers(tmp_path / "dense", tmp_path / "few", **WAYS["nf4 twice"])
    done = convert(tmp_path / "few", tmp_path / "ours", Conversion(to="llama4", dtype="f32"))
    assert done.agreement is not None
    assert done.agreement.judged_by == "quatrain"  # bitsandbytes misreads them on a CPU
    weight = oracle.model.layers[1].mlp.down_proj.weight.detach()
    parts = encode(KINDS["nf4"], weight.reshape(1, -1))
    ours = open_model(tmp_path / "ours").model.layers[1].feed_forward.down_proj.weight
    flat = decode(KINDS["nf4"], parts, slice(None), weight.numel(), torch.float32)
    assert torch.equal(ours, flat.view(weight.shape))


@pytest.mark.parametrize(
    ("said", "named"),
    [({"quant_method": "awq", "bits": 4}, "awq"), ({"quant_method": "gptq"}, "gptq"),
     ({"quant_method": "fp8"}, "fp8"), ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
     ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
     ({"quant_method": "torchao"}, "torchao"), ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
     ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, "nf5"), ("nf4", "nf4"), ([1], "[1]"),
     ({"bits": 4}, "None")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("form", ["llama4_text", "llama"])
def test_any_other_way_is_refused_by_name(
    form: str, where: str, said: Any, named: str, tmp_path: Path
) -> None:
    if form == "llama":
        dense(tmp_path)
    else:
        plain(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {where: said}))
    with pytest.raises(CheckpointError, match=r"Q410.*quantised by ") as raised:
        open_source(tmp_path)
    assert f"quantised by {named}," in str(raised.value)


def state_with(**changes: Any) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in [one for one in tensors if "quant_state" in one]:
            found = json.loads(bytes(tensors[name].tolist())) | changes
            tensors[name] = torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)

    return edit


def each(end: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Any], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in [one for one in tensors if one.endswith(end)]:
            changed = change(tensors.pop(name))
            if changed is not None:
                tensors[name] = changed.contiguous()

    return edit


BROKEN: dict[str, tuple[str, Callable[[dict[str, Tensor]], None], str]] = {
    "kind": ("nf4", state_with(quant_type="fp4"), "quant_type is fp4"),
    "block": ("nf4", state_with(blocksize=128), "blocks have 128 numbers"),
    "shape": ("nf4", state_with(shape=[64]), r"shape is \[64\]"),
    "huge": ("nf4", state_with(shape=[2**40, 2**40]), "shape is"),
    "other shape": ("nf4", state_with(shape=[128, 64]), "does not fit|quantised|must be"),
    "order": ("nf4", state_with(order=None), "nothing says that their outputs come first"),
    "offset": ("nf4", state_with(nested_offset=float("nan")), "the offset of its scales"),
    "group": ("nf4", state_with(nested_blocksize=128), "the offset of its scales"),
    "no JSON": ("nf4", each("nf4", lambda one: torch.zeros(4, dtype=torch.uint8)), "JSON"),
    "a list": ("nf4", each("nf4", lambda one: torch.tensor([91, 93], dtype=torch.uint8)), "JSON"),
    "no map": ("nf4", each(".quant_map", lambda one: None), "quant_map is missing"),
    "map": ("nf4", each("weight.quant_map", lambda one: -one), "quant_map has other values"),
    "nested map": ("nf4", each(".nested_quant_map", lambda one: one / 2), "has other values"),
    "no scales": ("nf4", each(".absmax", lambda one: None), "absmax is missing"),
    "scales cut": ("nf4", each("weight.absmax", lambda one: one[1:]), "does not fit"),
    "scales float": ("nf4", each("weight.absmax", lambda one: one.float()), "nested"),
    "scales signed": ("nf4", each("weight.absmax", lambda one: one.to(torch.int8)), "does not fit"),
    "codes cut": ("nf4", each("k_proj.weight", lambda one: one[1:]), "does not fit"),
    "infinite": ("nf4", each(".nested_absmax", lambda one: one / 0), "not finite"),
    "no nested": ("nf4", each("nested_absmax", lambda one: None), "absmax is missing"),
    "rows cut": ("int8", each(".SCB", lambda one: one.flatten()[1:]), "does not fit"),
    "rows infinite": ("int8", each(".SCB", lambda one: one / 0), "not finite"),
    "rows alone": ("int8", each("k_proj.weight", lambda one: None), "is not in int8|not int8"),
    "rows of floats": ("int8", each("k_proj.weight", lambda one: one.float()), "not int8"),
    "format": ("int8", each("weight_format", lambda one: one + 1), "weight_format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_parts_are_refused_by_name(
    name: str, stored: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    kind, edit, message = BROKEN[name]
    tensors: dict[str, Tensor] = {}
    for path in stored[kind].glob("*.safetensors"):
        tensors |= load_file(path)
    for path in stored[kind].glob("*.json"):
        if "index" not in path.name and path.name != "manifest.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    edit(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"Q404.*({message})"):
        open_model(tmp_path)
    with pytest.raises(CheckpointError, match="Q404"):
        convert(tmp_path, tmp_path / "new", Conversion(to="llama4"))
