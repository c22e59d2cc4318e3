"""Frozen weights multiply as the decoded ones would, forward and backward, a tile at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gguf_files import KINDS as GGUF_KINDS
from gguf_files import rounded
from quatrain.config import LoraConfig
from quatrain.evaluate.loss import judge
from quatrain.model import frozen, kinds_native
from quatrain.model.frozen import Frozen, Matrix, Weight, multiply, times, times_few
from quatrain.model.io import Form, model_of
from quatrain.model.kinds import KINDS, decode, encode
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import choose
from quatrain.model.weights import grouped_linear
from tiny import tiny_config, tiny_model

WIDTHS: dict[str, Any] = dict(
    d_model=64, d_k=16, intermediate_size_expert=64, intermediate_size_mlp=128
)
"""Every matrix has inputs of a multiple of 64, as nf4 wants."""
FORMS = [Form(torch.float32), Form(torch.float32, "int8"), Form(torch.float32, "nf4")]


def stored(weight_OI: Tensor, kind: str) -> Matrix:
    return Matrix(KINDS[kind], tuple(weight_OI.shape), encode(KINDS[kind], weight_OI))


def whole(weight: Frozen) -> Tensor:
    """Decode a weight in one go, in a parameter's shape."""
    each = []
    for one in weight.matrices:
        assert isinstance(one, Matrix)
        rows = decode(one.kind, one.parts, slice(None), one.shape[-1], torch.float32)
        rows = rows.view(one.shape)
        each.append(rows if one.order is None else rows[one.order])
    joined = torch.cat(each, dim=-2)
    return joined.mT if len(weight.shape) == 3 else joined


def pair(name: str, form: Form, **changes: Any) -> tuple[LlamaModel, LlamaModel]:
    """Make a model with frozen weights, and one whose parameters are the decoded numbers."""
    config = tiny_config(name, **WIDTHS, **changes)
    source = tiny_model(config).to(torch.bfloat16).state_dict()
    if config.tie_word_embeddings:
        del source["lm_head.weight"]
    held = model_of(config, {n: LazyTensor.of(t) for n, t in source.items()}, form=form)
    for path, module in held.named_modules():
        if isinstance(module, Frozen):
            source[path] = whole(module)
    plain = model_of(config, {n: LazyTensor.of(t) for n, t in source.items()}, torch.float32)
    for model in (held, plain):
        add_adapters(model, choose(LoraConfig(rank=4), config), seed=1, dtype=torch.float32)
        for number, site in enumerate(model.adapters):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(lora_at(model, site).B, std=0.1, generator=generator)
    return held, plain


@pytest.mark.parametrize("form", FORMS, ids=["as stored", "int8", "nf4"])
@pytest.mark.parametrize("name", ["base", "no_moe", "top_2", "tied_embeddings", "biased_attention"])
def test_logits_and_gradients_are_those_of_the_decoded_weights(
    name: str, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_TILE", {"cpu": 64 * 64, "cuda": 64 * 64})
    monkeypatch.setattr(frozen, "_STEP", 16)
    held, plain = pair(name, form)
    kinds = {type(module) for module in held.modules()}
    assert (Frozen in kinds) == (form.quantise is not None)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 96, (2, 50), generator=generator)
    segments, mask = [[20, 25], [50]], torch.rand(2, 50, generator=generator) < 0.5
    assert_close(held(ids, segments), plain(ids, segments), atol=1e-4, rtol=1e-4)
    losses = []
    for model in (held, plain):
        judged = judge(model, ids, mask, segments, chunk_size=7)
        judged.loss_sum.backward()
        losses.append(judged.loss_sum)
    assert_close(*losses, rtol=1e-5, atol=1e-4)
    for site in held.adapters:
        for factor in "AB":
            one, other = (lora_at(m, site).get_parameter(factor).grad for m in (held, plain))
            assert one is not None
            assert other is not None
            assert float((one - other).norm()) <= 1e-4 * float(other.norm()) + 1e-6


@pytest.mark.parametrize("form", FORMS, ids=["as stored", "int8", "nf4"])
def test_with_a_cache_and_under_autocast_too(form: Form) -> None:
    held, plain = pair("base", form)
    ids = torch.randint(0, 96, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cache = held.new_cache()
        apart = torch.cat([held(ids[:, :7], None, cache), held(ids[:, 7:], None, cache)], 1)
        assert_close(apart, plain(ids), atol=1e-4, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert held.model(ids).states.dtype == torch.float32
            one, other = held(ids), plain(ids)
        assert one.dtype == torch.bfloat16
        assert_close(one, other, atol=0.1, rtol=0.1)


def test_what_is_small_is_float32_and_nothing_frozen_learns() -> None:
    held, _ = pair("base", Form(torch.float32, "nf4"))
    for name, parameter in held.named_parameters():
        assert parameter.requires_grad == ("lora" in name)
        small = "norm" in name or "router" in name or "lora" in name
        assert parameter.dtype == (torch.float32 if small else torch.bfloat16), name
    assert held.model.embed_tokens.weight.dtype == torch.bfloat16


def test_a_base_in_bfloat16_is_not_copied() -> None:
    config = tiny_config("base", **WIDTHS)
    source = tiny_model(config).to(torch.bfloat16).state_dict()
    held = model_of(
        config, {n: LazyTensor.of(t) for n, t in source.items()}, form=Form(torch.float32)
    )
    weights = dict(held.named_parameters())
    for name in ("model.layers.0.self_attn.q_proj.weight", "lm_head.weight"):
        assert weights[name].data_ptr() == source[name].data_ptr()


def test_matrices_stand_side_by_side_and_in_another_order() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(n, 64, generator=generator) for n in (6, 4))
    order = torch.tensor([5, 0, 4, 1, 3, 2])
    first = stored(one, "int8")
    turned = Matrix(first.kind, first.shape, first.parts, order)
    weight = Frozen([turned, stored(other, "int8")], torch.float32)
    assert weight.shape == (10, 64)
    x = torch.randn(3, 64, generator=generator, requires_grad=True)
    expected = x @ whole(weight).T
    assert_close(multiply(x, weight), expected)
    assert_close(expected[:, 0], x @ whole(Frozen([first], torch.float32))[5])
    assert_close(
        *(torch.autograd.grad(y.square().sum(), x)[0] for y in (multiply(x, weight), expected))
    )
    assert_close(weight.matrices[0].rows(0, torch.tensor([2, 2, 0]), torch.float32),
                 whole(weight)[[2, 2, 0]])  # fmt: skip


@pytest.mark.parametrize("counts", [[3, 0, 4], [0, 0, 7], [1, 1, 1]])
def test_groups_meet_their_own_part_of_a_stack(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 10, 64, generator=generator)
    parts = encode(KINDS["int8"], stack.flatten(0, 1))
    weight = Frozen([Matrix(KINDS["int8"], (3, 10, 64), parts)], torch.float32, inputs_first=True)
    assert weight.shape == (3, 64, 10)
    found = []
    for one in (weight, whole(weight)):
        x = torch.randn(sum(counts), 64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        out = grouped_linear(x, one, torch.tensor(counts))
        out.square().sum().backward()
        found.append([out, x.grad])
    assert_close(*found)


def test_ids_are_looked_up_in_a_stored_table() -> None:
    table = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    weight = Frozen([stored(table, "int8")], torch.float32)
    ids = torch.tensor([[3, 3, 0], [19, 1, 3]])
    assert torch.equal(weight.look_up(ids), whole(weight)[ids])


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [1, 16, 130, 300])
def test_a_few_vectors_meet_a_group_of_plain_weights(
    outputs: int, dtype: torch.dtype, rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 40, outputs, generator=generator).to(dtype)
    x = torch.randn(rows, 40, generator=generator)
    found = times_few(x, stack, 2)
    if kinds_native.library("products") is None:
        pytest.skip("no C++ compiler that can compile products.cpp")
    assert found is not None
    assert_close(found, x @ stack[2].float(), atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        counts = torch.tensor([0, rows - rows // 2, rows // 2])
        by_group = grouped_linear(x.to(dtype), stack, counts)
    assert_close(by_group.float(), row_by_row(x.to(dtype), stack, counts), atol=0.1, rtol=0.02)


def row_by_row(x: Tensor, stack: Tensor, counts: Tensor) -> Tensor:
    groups = torch.repeat_interleave(torch.arange(3), counts)
    return torch.stack([row.float() @ stack[g].float() for row, g in zip(x, groups, strict=True)])


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize("kind", ["plain f32", "plain bf16", "int8", "nf4", *GGUF_KINDS])
def test_a_few_vectors_are_multiplied_without_decoding(kind: str, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 10, 256, generator=generator)
    frozen: Weight
    if kind.startswith("plain"):
        frozen = weight[1].to(torch.bfloat16 if "bf16" in kind else torch.float32)[:, :200]
        group, expected = None, frozen.float()
    else:
        if kind in ("int8", "nf4"):
            parts = encode(KINDS[kind], weight)
        else:
            blocks = torch.from_numpy(rounded(weight.numpy(), kind).view("uint8"))
            parts = {"blocks": blocks.reshape(20, -1)}
        matrix = Matrix(KINDS[kind.lower()], (2, 10, 256), parts)
        frozen, group = Frozen([matrix, matrix], torch.float32, inputs_first=True), 1
        expected = whole(frozen)[1].T
    x = torch.randn(rows, expected.shape[1], generator=generator)
    assert_close(times(x, frozen, group), x @ expected.T, atol=1e-3, rtol=1e-4)
    found = times_few(x, frozen, group)
    compiled = kinds_native.library("products") is not None and kind != "F16"
    assert (found is not None) == (rows <= 8 and compiled)


def test_a_width_that_does_not_fit_is_refused_by_name() -> None:
    from quatrain.errors import CheckpointError

    config = tiny_config("base")
    tensors = {n: LazyTensor.of(t) for n, t in tiny_model(config).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"Q411.*q_proj.*48 inputs"):
        model_of(config, tensors, form=Form(torch.float32, "nf4"))
