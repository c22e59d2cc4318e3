"""FP8 directories of compressed-tensors are bases as they are; other ways are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from dense_models import IDS as DENSE_IDS
from dense_models import dense, logits_of
from foreign import text_tools
from quatrain.config import LoraConfig
from quatrain.errors import CheckpointError
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.open import open_source
from quatrain.hub.opened import open_model
from quatrain.model.frozen import Frozen, Stack
from quatrain.model.hf_quantised import quantisation
from quatrain.model.io import Form, write_model
from quatrain.model.kinds import KINDS, decode, decode_by_torch
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters
from quatrain.model.shards import LazyTensor
from quatrain.model.stored import may_be_stored
from quatrain.model.targets import choose
from tiny import tiny_config, tiny_model

WIDE: dict[str, Any] = dict(
    d_model=64, d_k=16, intermediate_size_expert=96, intermediate_size_mlp=128, vocab_size=512
)
FP8 = torch.float8_e4m3fn
DTYPES = (torch.float32, torch.bfloat16)
EXPERTS = "model.layers.1.feed_forward.experts"


def said(strategy: str = "channel", **weights: Any) -> dict[str, Any]:
    """Say what the Hub's FP8 directories of Llama 4 say."""
    given = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy,
             "dynamic": False} | weights  # fmt: skip
    meeting = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": given, "input_activations": meeting}
    return {"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"]}  # fmt: skip


def rounded(weight: Tensor, strategy: str) -> dict[str, Tensor]:
    """Store one matrix."""
    largest = weight.float().abs().amax(1, keepdim=True)
    largest = largest.max().view(1) if strategy == "tensor" else largest
    scale = (largest / torch.finfo(FP8).max).bfloat16()
    return {"weight": (weight.float() / scale.float()).to(FP8), "weight_scale": scale}


def written(directory: Path, strategy: str = "channel") -> LlamaModel:
    """Write such a directory, experts one by one; give the model of the rounded numbers."""
    config = tiny_config(**WIDE)
    model = tiny_model(config)
    plain, tensors = model.state_dict(), dict[str, Tensor]()
    for name, weight in plain.items():
        if not may_be_stored(name):
            tensors[name] = weight.copy_(weight.bfloat16()).bfloat16()
            continue
        for part, matrix in parts_of(name, weight).items():
            stored = rounded(matrix, strategy)
            matrix.copy_(stored["weight"].float() * stored["weight_scale"].float())
            tensors |= {f"{part}.{end}": one.contiguous() for end, one in stored.items()}
    write_model(config, {n: LazyTensor.of(t) for n, t in plain.items()}, directory)
    text_tools(directory)
    save_file(tensors, directory / "model.safetensors")
    path = directory / "config.json"
    fields = json.loads(path.read_text()) | {"quantization_config": said(strategy)}
    path.write_text(json.dumps(fields))
    return model


def parts_of(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Look at a parameter as the matrices [O, I] that a directory has."""
    owner, _, leaf = name.rpartition(".")
    if weight.ndim == 2:
        return {name.removesuffix(".weight"): weight}
    halves = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
    return {
        f"{owner}.{expert}.{half}": part.T
        for expert, matrix in enumerate(weight)
        for half, part in zip(halves, matrix.chunk(len(halves), dim=1), strict=True)
    }


IDS = torch.randint(8, 500, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_says_what_torch_reads(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(3, 1)
    parts = {"codes": codes, "scales": torch.tensor([1.0, 0.0123, 3e-6])}
    wanted = (codes.view(FP8).float() * parts["scales"][:, None]).to(dtype)
    for rows in (slice(0, 3), torch.tensor([2, 0])):
        found = decode(KINDS["fp8"], parts, rows, 256, dtype)
        assert_close(found, wanted[rows], rtol=0, atol=0, equal_nan=True)
        decode_by_torch(KINDS["fp8"], parts, rows, other := torch.empty_like(found))
        assert_close(other, found, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_the_package_compressed_tensors_decodes_the_same_bits(
    strategy: str, tmp_path: Path
) -> None:
    reason = "compressed-tensors is not installed: nothing to compare with"
    pytest.importorskip("compressed_tensors", reason=reason)
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme(**said(strategy)["config_groups"]["group_0"])
    theirs = BaseCompressor.get_value_from_registry("float-quantized")
    written(tmp_path, strategy)
    tensors = load_file(tmp_path / "model.safetensors")
    ours = open_model(tmp_path).model.layers[1]
    experts = ours.feed_forward.experts.gate_up_proj
    found = {"self_attn.q_proj": (ours.self_attn.q_proj.weight, 0),
             "feed_forward.experts.1.up_proj": (experts, 1)}  # fmt: skip
    for owner, (weight, group) in found.items():
        prefix = f"model.layers.1.{owner}"
        given = {end: tensors[f"{prefix}.{end}"] for end in ("weight", "weight_scale")}
        wanted = theirs.decompress(given, scheme)["weight"]
        *_, (_, tile) = weight.tiles(group, torch.bfloat16)
        assert wanted.dtype == torch.bfloat16
        assert torch.equal(tile, wanted)


@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_a_directory_is_the_model_of_its_rounded_numbers(strategy: str, tmp_path: Path) -> None:
    reference = written(tmp_path, strategy)
    model = open_model(tmp_path, form=Form(torch.float32)).eval()
    experts = model.get_submodule(EXPERTS)
    for weight in (experts.gate_up_proj, experts.down_proj):
        assert isinstance(weight, Frozen)
        assert all(isinstance(one, Stack) for one in weight.matrices)
    assert_close(model(IDS), reference(IDS), atol=1e-5, rtol=1e-4)  # sums in another order
    with torch.no_grad():  # a few vectors are multiplied by the codes
        assert_close(model(IDS[:1, :1]), reference(IDS[:1, :1]), atol=1e-5, rtol=1e-4)
    whole = open_model(tmp_path, torch.float32)
    assert_close(dict(whole.state_dict()), dict(reference.state_dict()), rtol=0, atol=0)


def test_adapters_learn_beside_it(tmp_path: Path) -> None:
    reference = written(tmp_path)
    gradients = []
    for model in (reference, open_model(tmp_path, form=Form(torch.float32))):
        add_adapters(model, choose(LoraConfig(rank=4), model.config), dtype=torch.float32)
        for lora in (p for n, p in model.named_parameters() if n.endswith(".B")):
            lora.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        model(IDS).logsumexp(-1).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, grad in gradients[0].items():
        assert_close(gradients[1][name], grad, atol=1e-4 * float(grad.abs().max()), rtol=1e-4)


def test_a_dense_directory_is_converted(tmp_path: Path) -> None:
    oracle = dense(tmp_path)
    file, tensors = tmp_path / "model.safetensors", dict[str, Tensor]()
    for name, weight in load_file(file).items():
        if weight.ndim < 2 or "embed" in name or "lm_head" in name:
            tensors[name] = weight
            continue
        stored = rounded(weight, "channel")
        exact = stored["weight"].float() * stored["weight_scale"].float()
        oracle.get_parameter(name).data.copy_(exact)
        tensors |= {f"{name.removesuffix('.weight')}.{end}": one for end, one in stored.items()}
    save_file(tensors, file)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": said()}))
    source = open_source(tmp_path)
    assert source.quantised == "fp8"
    convert(tmp_path, tmp_path / "ours", Conversion("llama4", dtype="f32", check=False))
    ours = open_model(tmp_path / "ours").eval()
    assert_close(ours(DENSE_IDS), logits_of(oracle), atol=1e-4, rtol=1e-4)


def without(end: str) -> Callable[[dict[str, Tensor]], None]:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors[next(name for name in tensors if name.endswith(end))]

    return edit


def wrong_scale(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("q_proj.weight_scale"))
    tensors[name] = tensors[name].repeat(1, 2)


def not_codes(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].bfloat16()


@pytest.mark.parametrize(
    ("edit", "why"),
    [(without("q_proj.weight_scale"), "weight_scale is missing"),
     (without("experts.1.up_proj.weight_scale"), "weight_scale is missing"),
     (without("q_proj.weight"), "is not float8"), (not_codes, "is not float8"),
     (wrong_scale, "that does not fit")],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(
    edit: Callable[[dict[str, Tensor]], None], why: str, tmp_path: Path
) -> None:
    written(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=rf"Q404.*{why}"):
        open_model(tmp_path)


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "model.safetensors"
    gone = "experts.0.up_proj"
    save_file({n: t for n, t in load_file(file).items() if gone not in n}, file)
    with pytest.raises(CheckpointError, match=r"Q404.*up_proj of expert 0 is missing"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"strategy": "block"}, "block"), ({"type": "int"}, "int"), ({"num_bits": 4}, "4"),
     ({"symmetric": False}, "float-quantized")],
)  # fmt: skip
def test_other_weights_of_compressed_tensors_are_refused_by_name(
    changes: dict[str, Any], named: str
) -> None:
    assert quantisation({"quantization_config": said()}) == "fp8"
    with pytest.raises(CheckpointError, match=rf"Q410.*{named}"):
        quantisation({"quantization_config": said(**changes)})
