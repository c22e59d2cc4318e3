"""LlamaModel: its layers, and what is recomputed for the gradient."""

from __future__ import annotations

import pytest

from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_model


def runs_of_the_first_block(model: LlamaModel) -> int:
    """Go forward and backward; count how often the first block's attention runs."""
    calls: list[object] = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    model(random_ids(1, 10)).sum().backward()
    return len(calls)


@pytest.mark.parametrize(("checkpointing", "runs"), [(False, 1), (True, 2)])
def test_a_block_runs_again_only_under_activation_checkpointing(
    checkpointing: bool, runs: int
) -> None:
    model = tiny_model()
    model.model.activation_checkpointing = checkpointing
    assert runs_of_the_first_block(model) == runs


def test_what_is_computed_again_is_counted_once() -> None:
    model = tiny_model()
    model.model.activation_checkpointing = True
    hidden = model.model(random_ids(2, 10), balance=True)
    hidden.states.sum().backward()
    assert {layer: int(r.load_E.sum()) for layer, r in hidden.routing.items()} == {1: 20, 3: 20}
