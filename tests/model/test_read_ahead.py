"""The next layer is read while one computes, forward and on the way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quatrain.model import read_ahead as module
from quatrain.model.io import Form, model_of
from quatrain.model.read_ahead import read_ahead
from quatrain.model.shards import LazyTensor
from tiny import tiny_config, tiny_model


def test_layers_are_advised_in_the_order_of_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []

    class Reader:
        def submit(self, advise: Any, spans: Any) -> None:
            advised.append(next(i for i, one in enumerate(ahead.spans) if one is spans))
            advise(spans)

    monkeypatch.setattr(module, "LARGE", 1)
    layers = [nn.Linear(8, 8).requires_grad_(False) for _ in range(4)]
    made: list[module._Ahead] = []
    plain = module._Ahead.__init__
    monkeypatch.setattr(
        module._Ahead, "__init__", lambda self, spans: (plain(self, spans), made.append(self))[0]
    )
    assert read_ahead(layers)
    (ahead,) = made
    ahead.reader = Reader()  # type: ignore[assignment]
    x: Tensor = torch.randn(2, 8)
    for index in (0, 1, 2, 3, 3, 2, 1, 0):  # forward, then again for the gradients
        layers[index](x)
    assert advised == [1, 2, 3, 2, 1, 0]
    for index in (0, 1, 2):
        layers[index](x)
    assert advised[6:] == [2, 3]


def test_a_small_model_is_left_alone_and_a_large_one_computes_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config()
    tensors = {n: LazyTensor.of(t) for n, t in tiny_model(config).state_dict().items()}
    ids = torch.randint(0, 96, (1, 12), generator=torch.Generator().manual_seed(0))
    small = model_of(config, tensors, form=Form(torch.float32))
    assert not small.model.layers[0]._forward_pre_hooks
    monkeypatch.setattr(module, "LARGE", 1)
    large = model_of(config, tensors, form=Form(torch.float32))
    assert large.model.layers[0]._forward_pre_hooks
    assert torch.equal(small(ids), large(ids))
