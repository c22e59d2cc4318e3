"""The cache: whatever it has dropped, the next logits are those of a full forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from quatrain.model.cache import LayerCache
from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_config, tiny_model

# float32 sums in another order; logits are of size 10
TOLERANCE = 1e-4
NAMES = ["base", "small_chunk", "chunk_above_length", "first_layer_nope", "top_2", "no_qk_norm"]


def in_parts(model: LlamaModel, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    cache = model.new_cache()
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids.split(list(lengths), dim=1)]
    return torch.cat(parts, dim=1)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_token_by_token_equals_the_full_forward(name: str) -> None:
    model, ids = tiny_model(tiny_config(name)), random_ids(2, 70)
    with torch.no_grad():
        assert apart(in_parts(model, ids, [1] * 70), model(ids)) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [[40, 30], [31, 1, 38], [32, 32, 6], [5, 64, 1], [1, 69]])
def test_a_prompt_in_parts_equals_the_full_forward(name: str, lengths: list[int]) -> None:
    model, ids = tiny_model(tiny_config(name)), random_ids(2, 70)
    with torch.no_grad():
        assert apart(in_parts(model, ids, lengths), model(ids)) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_prompts_padded_on_the_left_equal_each_alone(name: str) -> None:
    model, prompts = tiny_model(tiny_config(name)), [9, 33, 1, 40]
    ids, more = random_ids(4, 40), random_ids(4, 35, seed=1)
    segments = [[n for n in (40 - length, length) if n] for length in prompts]
    cache = model.new_cache()
    with torch.no_grad():
        first = model(ids, segments, cache)[:, -1:]
        rest = [model(more[:, i : i + 1], cache=cache) for i in range(35)]
        together = torch.cat([first, *rest], dim=1)
        for row, length in enumerate(prompts):
            alone = torch.cat([ids[row, 40 - length :], more[row]])[None]
            assert apart(together[row], model(alone)[0, length - 1 :]) < TOLERANCE


def test_rows_that_are_selected_go_on_in_the_order_given() -> None:
    model, ids, more = tiny_model(tiny_config()), random_ids(3, 40), random_ids(2, 1, seed=1)
    kept, cache = torch.tensor([2, 0]), model.new_cache()
    with torch.no_grad():
        model(ids, [[5, 35], [40], [40]], cache)
        cache.select(kept)
        found = model(more, cache=cache)
        for place, row in enumerate([ids[2], ids[0, 5:]]):
            alone = model(torch.cat([row, more[place]])[None])[0, -1]
            assert apart(found[place, 0], alone) < TOLERANCE


def test_layers_with_chunks_hold_a_chunk_less_one_and_what_is_new() -> None:
    model = tiny_model(tiny_config(attention_chunk_size=8))
    cache = model.new_cache()
    with torch.no_grad():
        for length in (30, 1, 1, 5, 1):
            model(random_ids(1, length), cache=cache)
            held = [len(layer) for layer in cache.layers]
            assert all(n <= 7 + length for n in held[:3])  # layer 3 is global
    assert held[:3] == [8, 8, 8]
    assert held[3] == 38


def test_buffers_of_layers_with_chunks_stop_growing() -> None:
    model, cache = tiny_model(tiny_config(attention_chunk_size=8)), LayerCache(8)
    for position in range(300):
        column = torch.full((1, 2, 1, 16), float(position))
        keys, _, positions = cache.extend(column, column, torch.tensor([[position]]))
        expected = list(range(max(0, position - 7), position + 1))
        assert positions[0].tolist() == expected
        assert keys[0, 0, :, 0].tolist() == expected
    assert cache._keys is not None
    assert cache._keys.shape[2] <= 64
    assert model.config.attention_chunk_size == 8


def test_padding_in_the_cache_is_seen_by_no_token() -> None:
    # Without experts, whose products depend in their last bits on how many rows each one gets.
    model, ids = tiny_model(tiny_config(moe_layers=())), random_ids(1, 20)
    other = ids.clone()
    other[:, :10] = (other[:, :10] + 1) % 96
    logits = []
    for prompt in (ids, other):
        cache = model.new_cache()
        with torch.no_grad():
            model(prompt, [[10, 10]], cache)
            logits.append(model(random_ids(1, 1), cache=cache))
    assert torch.equal(*logits)


def test_segments_are_refused_once_a_document_was_begun() -> None:
    model, cache = tiny_model(tiny_config()), tiny_model(tiny_config()).new_cache()
    model(random_ids(1, 4), cache=cache)
    with pytest.raises(ValueError, match="a cache that holds one continues it"):
        model(random_ids(1, 4), [[4]], cache)


def test_padding_on_the_right_is_refused_with_a_cache() -> None:
    model = tiny_model(tiny_config())
    with pytest.raises(ValueError, match="padded on the left"):
        model(random_ids(1, 4), [[3]], model.new_cache())
