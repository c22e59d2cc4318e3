"""The cache: whatever was let go, the next logits are those of a full forward pass."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from quatrain.errors import ResourceError
from quatrain.model import llama
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
@pytest.mark.parametrize("rounds", [[1] * 12, [3, 1, 40, 1], [20]])
def test_sequences_end_to_end_equal_each_alone(name: str, rounds: list[int]) -> None:
    model, lengths = tiny_model(tiny_config(name)), [9, 33, 1, 40]
    cache, taken = model.new_cache(), [0] * 4
    ids = [
        random_ids(1, length + sum(rounds) + 2 * len(rounds), seed=length)[0] for length in lengths
    ]
    found: list[list[Tensor]] = [[] for _ in ids]
    with torch.no_grad():
        for counts in (lengths, *([new, new + 1, new, new + 2] for new in rounds)):
            ends = [begin + new for begin, new in zip(taken, counts, strict=True)]
            parts = [one[a:b] for one, a, b in zip(ids, taken, ends, strict=True)]
            logits = model(torch.cat(parts)[None], [counts], cache)[0].split(counts)
            for each, part in zip(found, logits, strict=True):
                each.append(part)
            taken = ends
        for one, each, end in zip(ids, found, taken, strict=True):
            assert apart(torch.cat(each), model(one[None, :end])[0]) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_without_compiled_code_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "MOST_ROWS", 0)
    test_sequences_end_to_end_equal_each_alone(name, [1, 1, 5, 1])


def test_layers_with_chunks_hold_a_chunk_and_what_is_new() -> None:
    model = tiny_model(tiny_config(attention_chunk_size=16))
    cache = model.new_cache()
    everything, chunks = cache.store.groups
    with torch.no_grad():
        for length in (60, *[1] * 40):
            model(random_ids(1, length), cache=cache)
            assert chunks.used <= 2
    assert everything.used == -(-100 // 16)
    assert chunks.used == 1


def test_the_store_says_when_it_is_full() -> None:
    model = tiny_model(tiny_config(attention_chunk_size=16))
    cache = model.new_cache()
    cache.store.most_bytes = cache.store.bytes_for(48)
    with torch.no_grad():
        model(random_ids(1, 48), cache=cache)
        with pytest.raises(ResourceError, match=r"Q605.*for 49 tokens"):
            model(random_ids(1, 1), cache=cache)


def test_segments_of_several_rows_are_refused_with_a_cache() -> None:
    model = tiny_model(tiny_config())
    for ids, segments in ((random_ids(2, 4), [[4], [4]]), (random_ids(1, 4), [[3]])):
        with pytest.raises(ValueError, match="segments divide one row among sequences"):
            model(ids, segments, model.new_cache())


def test_another_number_of_sequences_is_refused() -> None:
    model = tiny_model(tiny_config())
    cache = model.new_cache()
    model(random_ids(2, 4), cache=cache)
    with pytest.raises(ValueError, match="tokens of 1 sequences; the cache holds 2"):
        model(random_ids(1, 4), cache=cache)


def test_what_was_remembered_is_freed_without_a_search_for_cycles() -> None:
    model, ids = tiny_model(tiny_config("base")), random_ids(1, 40)
    cache = model.new_cache()
    store = weakref.ref(cache.store)
    gc.disable()
    try:
        with torch.no_grad():
            for part in ids.split([36, 4], dim=1):
                model(part, cache=cache)
        del cache
        assert store() is None
    finally:
        gc.enable()
