"""LlamaModel against transformers' Llama4ForCausalLM and against the slow twin."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oracle import oracle_logits, oracle_of
from quatrain.config import ModelConfig
from quatrain.model.llama import LlamaModel
from reference import logits as reference_logits
from tiny import CONFIGS, random_ids, tiny_config, tiny_model

# float32 sums in another order; logits are of size 10, and 1.1e-5 is what is seen
TOLERANCE = 1e-4
LENGTH = 70  # two chunk boundaries of the base configuration


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name: str, device: str) -> None:
    model = tiny_model(tiny_config(name)).to(device)
    ids = random_ids(2, LENGTH).to(device)
    with torch.no_grad():
        ours, theirs = model(ids), oracle_logits(oracle_of(model, device), ids)
    assert (ours - theirs).abs().max() < TOLERANCE


def without_effect(config: ModelConfig) -> set[str]:
    """Name what changes no output: a key's bias without RoPE moves all scores alike."""
    return {
        f"model.layers.{layer}.self_attn.k_proj.bias"
        for layer, rope in enumerate(config.rope_layers)
        if not rope
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_every_gradient_equals_that_of_transformers(name: str, device: str) -> None:
    model = tiny_model(tiny_config(name)).to(device)
    twin = oracle_of(model, device)
    ids = random_ids(2, LENGTH).to(device)
    for logits in (model(ids), oracle_logits(twin, ids)):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    theirs = dict(twin.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        expected = theirs[parameter_name].grad
        if parameter_name in without_effect(model.config):  # rounding alone, 1e-8 here
            assert max(parameter.grad.abs().max(), expected.abs().max()) < 1e-7, parameter_name
            continue
        error = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error < TOLERANCE, parameter_name


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_continuation_over_two_chunk_boundaries_equals_transformers(
    name: str, device: str
) -> None:
    model = tiny_model(tiny_config(name)).to(device)
    prompt = random_ids(1, 20).to(device)
    theirs = oracle_of(model, device).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=50,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    cache, ids = model.new_cache(), prompt
    with torch.no_grad():
        logits = model(ids, cache=cache)
        for _ in range(50):
            chosen = logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, chosen], dim=1)
            logits = model(chosen, cache=cache)
    assert ids.tolist() == theirs.tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_row_equals_transformers_on_each_document_alone(name: str, device: str) -> None:
    model = tiny_model(tiny_config(name)).to(device)
    twin = oracle_of(model, device)
    ids = random_ids(2, LENGTH).to(device)
    segments = [[40, 20], [1, 69]]  # ten tokens of padding in the first row
    with torch.no_grad():
        packed = model(ids, segments)
        for row, lengths in enumerate(segments):
            start = 0
            for length in lengths:
                document = slice(start, start + length)
                alone = oracle_logits(twin, ids[row : row + 1, document])[0]
                assert (packed[row, document] - alone).abs().max() < TOLERANCE
                start += length


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_slow_twin(name: str) -> None:
    if CONFIGS[name].get("attention_bias"):
        pytest.skip("the slow twin has no biases; transformers covers them")
    model = tiny_model(tiny_config(name))
    ids = random_ids(1, 18)
    with torch.no_grad():
        expected = reference_logits(model.state_dict(), model.config, ids[0].tolist())
        assert (model(ids)[0] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_survive_saving_here_and_loading_there_and_back(name: str, tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_model(tiny_config(name))
    model.save_pretrained(tmp_path / "ours")
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    back = LlamaModel.from_pretrained(tmp_path / "theirs")
    expected = model.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for parameter_name, value in back.state_dict().items():
        assert torch.equal(value, expected[parameter_name]), parameter_name
    kept = {"extra", "bos_token_id", "eos_token_ids"}
    assert back.config.model_dump(exclude=kept) == model.config.model_dump(exclude=kept)
