"""Weights that visit the device layer by layer multiply as those that stay there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from quatrain.config import LoraConfig
from quatrain.evaluate.loss import judge
from quatrain.model.frozen import Matrix
from quatrain.model.io import Form, model_of
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.offload import offload
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import choose
from tiny import tiny_config, tiny_model

SHAPE: dict[str, Any] = dict(
    d_model=64, d_k=16, intermediate_size_expert=64, intermediate_size_mlp=128, n_layers=5
)


def adapted() -> LlamaModel:
    config = tiny_config("base", **SHAPE)
    source = tiny_model(config).to(torch.bfloat16).state_dict()
    tensors = {name: LazyTensor.of(tensor) for name, tensor in source.items()}
    model = model_of(config, tensors, form=Form(torch.float32, "nf4"))
    add_adapters(model, choose(LoraConfig(rank=4), config), seed=1, dtype=torch.float32)
    for number, site in enumerate(model.adapters):
        generator = torch.Generator().manual_seed(number)
        torch.nn.init.normal_(lora_at(model, site).B, std=0.1, generator=generator)
    return model


def learnt(model: LlamaModel, device: str) -> list[Any]:
    """Give the loss and the adapters' gradients of two steps, with an evaluation between them."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2):
        ids = torch.randint(0, 96, (2, 30), generator=generator)
        mask = torch.rand(2, 30, generator=generator) < 0.5
        judged = judge(model, ids.to(device), mask, None, chunk_size=16)
        judged.loss_sum.backward()
        gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        found += [judged.loss_sum.detach().cpu(), *gradients]
        model.zero_grad()
        with torch.no_grad():
            found.append(model(ids.to(device)).cpu())
    return found


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("recomputed", [True, False])
def test_gradients_are_those_of_weights_that_stay(
    recomputed: bool, pinned: bool, device: str
) -> None:
    plain, moved = adapted(), adapted()
    for model in (plain, moved):
        model.model.activation_checkpointing = recomputed
    offload(list(moved.model.layers), torch.device(device), pinned)
    plain.to(device)
    moved.to(device)
    assert_close(learnt(moved, device), learnt(plain, device), atol=1e-5, rtol=1e-5)


def test_one_layer_is_near_and_the_next_one_on_its_way(device: str) -> None:
    model = adapted()
    matrices = [[m for m in layer.modules() if isinstance(m, Matrix)]
                for layer in model.model.layers]  # fmt: skip
    before = {part.data_ptr() for layer in matrices for m in layer for part in m.stored.values()}
    offload(list(model.model.layers), torch.device(device), pinned=False)
    model.to(device)
    seen = []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda *_, index=index: seen.append(
                (index, [i for i, ms in enumerate(matrices) if any(m.near for m in ms)])
            )
        )
    with torch.no_grad():
        model(torch.zeros(1, 4, dtype=torch.int64, device=device))
    assert seen == [(index, [index]) for index in range(5)]
    assert before == {p.data_ptr() for layer in matrices for m in layer for p in m.stored.values()}


def test_a_cast_of_the_model_leaves_stored_weights_alone() -> None:
    model = adapted()
    dtypes = [b.dtype for m in model.modules() if isinstance(m, Matrix) for b in m.buffers()]
    model.to(torch.bfloat16)
    cast = [b.dtype for m in model.modules() if isinstance(m, Matrix) for b in m.buffers()]
    assert cast == dtypes
    assert model.model.norm.weight.dtype == torch.bfloat16
