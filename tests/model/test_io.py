"""Model directories: what is read, what is refused, what survives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quatrain.config import ModelConfig, RopeScaling
from quatrain.errors import CheckpointError
from quatrain.model.hf_config import from_hf, read_config, to_hf
from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_config, tiny_model

IDS = random_ids(1, 40)


def logits(model: LlamaModel) -> Tensor:
    with torch.no_grad():
        return model(IDS)


def saved(directory: Path, name: str = "base") -> LlamaModel:
    model = tiny_model(tiny_config(name))
    model.save_pretrained(directory)
    return model


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "config.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(directory: Path, into: int = 3, prefix: str = "") -> None:
    """Replace model.safetensors by shards and their index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for number in range(into):
        file = f"model-{number + 1:05}-of-{into:05}.safetensors"
        part = {prefix + name: tensors[name] for name in names[number::into]}
        save_file(part, directory / file)
        index |= dict.fromkeys(part, file)
    write_index(directory, index)


def write_index(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", ["base", "tied_embeddings", "biased_attention", "no_moe"])
def test_a_saved_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path, name)
    back = LlamaModel.from_pretrained(tmp_path)
    assert back.config == model.config
    assert torch.equal(logits(back), logits(model))
    assert torch.equal(back.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_shards_with_an_index_are_read(tmp_path: Path) -> None:
    model = saved(tmp_path)
    shard(tmp_path)
    assert torch.equal(logits(LlamaModel.from_pretrained(tmp_path)), logits(model))


def test_a_whole_file_goes_before_an_older_index(tmp_path: Path) -> None:
    saved(tmp_path)
    shard(tmp_path)
    other = tiny_model(tiny_config(), seed=1)
    other.save_pretrained(tmp_path)
    assert torch.equal(logits(LlamaModel.from_pretrained(tmp_path)), logits(other))


def test_the_text_part_of_a_multimodal_directory_is_read(tmp_path: Path) -> None:
    model = saved(tmp_path)
    shard(tmp_path, prefix="language_model.")
    vision = {"vision_model.patch.weight": torch.ones(2), "multi_modal_projector.a": torch.ones(2)}
    save_file(vision, tmp_path / "vision.safetensors")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    write_index(tmp_path, index | dict.fromkeys(vision, "vision.safetensors"))
    text = json.loads((tmp_path / "config.json").read_text())
    nested = {"model_type": "llama4", "text_config": text, "vision_config": {"hidden_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    assert torch.equal(logits(LlamaModel.from_pretrained(tmp_path)), logits(model))


def test_tied_embeddings_are_one_tensor_after_reading_and_in_the_file(tmp_path: Path) -> None:
    saved(tmp_path, "tied_embeddings")
    back = LlamaModel.from_pretrained(tmp_path)
    assert back.lm_head.weight is back.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")


def test_a_copy_of_tied_embeddings_in_the_file_is_no_surprise(tmp_path: Path) -> None:
    model = saved(tmp_path, "tied_embeddings")
    edit_weights(tmp_path, lambda t: t.update({"lm_head.weight": torch.zeros(96, 48)}))
    assert torch.equal(logits(LlamaModel.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_of_the_file_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(tiny_config()).to(dtype)
    model.save_pretrained(tmp_path)
    back = LlamaModel.from_pretrained(tmp_path)
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert back.model.rotary_emb.inv_freq.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype)[6:]


def test_another_dtype_comes_only_when_asked_for(tmp_path: Path) -> None:
    saved(tmp_path)
    back = LlamaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in back.parameters()} == {torch.bfloat16}


def test_a_model_that_was_read_can_learn(tmp_path: Path) -> None:
    saved(tmp_path)
    back = LlamaModel.from_pretrained(tmp_path)
    back(IDS).square().sum().backward()
    assert all(p.grad is not None for p in back.parameters())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_unopened(file: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / file)
    with pytest.raises(CheckpointError, match=r"(?s)neither model\.safetensors.*can run code"):
        LlamaModel.from_pretrained(tmp_path)


def test_missing_tensors_are_counted_and_the_first_named(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda t: [t.pop(n) for n in ("lm_head.weight", "model.norm.weight")])
    with pytest.raises(CheckpointError, match=r"missing tensors: 2, .*model\.norm\.weight"):
        LlamaModel.from_pretrained(tmp_path)


def test_unexpected_tensors_are_counted_and_the_first_named(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda t: t.update({"model.extra": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"unexpected tensors: 1, starting with model\.extra"):
        LlamaModel.from_pretrained(tmp_path)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(47)}))
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape \[47\].*asks for \[48\]"):
        LlamaModel.from_pretrained(tmp_path)


def test_weights_that_are_integers_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(48).to(torch.int8)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds int8"):
        LlamaModel.from_pretrained(tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        LlamaModel.from_pretrained(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    shard(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        LlamaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [{"a": "../x"}, {"a": "/etc/passwd"}, {"a": ".."}, {"a": 3}, {"a": []}, {}, [], 1]
)
def test_an_index_names_files_beside_it_or_is_refused(weight_map: object, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match="may only name files in its own directory"):
        LlamaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"model_type": None}, "model_type None"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "the weights are quantised by fp8",
        ),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'. It must be silu"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1. It must be 0"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "It must be default or llama3"),
        ({"hidden_size": "wide"}, "breaks the rules of the model: hidden_size"),
        ({"num_key_value_heads": 3}, "n_kv_heads must divide n_heads"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]\. It must be an object"),
        ({"layer_types": "full_attention"}, "must have one name for each of the 4 layers"),
        ({"layer_types": ["chunked_attention"]}, "must have one name for each of the 4 layers"),
        (
            {"layer_types": ["chunked_attention"] * 4},
            r"layer_types\[3\] is 'chunked_attention', but no_rope_layers\[3\]=0 implies "
            "'full_attention'",
        ),
        (
            {"layer_types": ["full_attention", *["chunked_attention"] * 2, "full_attention"]},
            r"layer_types\[0\] is 'full_attention', but no_rope_layers\[0\]=1 implies "
            "'chunked_attention'",
        ),
        (
            {"layer_types": ["sliding_attention"] * 4, "attention_chunk_size": None},
            r"layer_types\[0\] is 'sliding_attention'",
        ),
    ],
)
def test_what_this_model_cannot_be_is_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path)
    edit_config(tmp_path, lambda config: config.update(fields))
    with pytest.raises(CheckpointError, match=message):
        LlamaModel.from_pretrained(tmp_path)


NUMBERS = [
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok",
    "intermediate_size", "intermediate_size_mlp", "max_position_embeddings", "rope_theta",
    "attention_chunk_size", "floor_scale", "bos_token_id", "eos_token_id", "pad_token_id",
]  # fmt: skip


@pytest.mark.parametrize("number", [10**30, 10**400, -(10**30)])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_no_model_are_refused_before_torch_sees_them(
    name: str, number: int, tmp_path: Path
) -> None:
    saved(tmp_path)
    edit_config(tmp_path, lambda c: (c.pop("rope_parameters"), c.update({name: number})))
    with pytest.raises(CheckpointError, match=r"\[Q410\]"):
        LlamaModel.from_pretrained(tmp_path)


def test_no_tensor_of_allowed_numbers_is_too_large_to_be_described() -> None:
    widest, most = 2**20, 2**12
    config = ModelConfig(
        vocab_size=widest, d_model=widest, n_layers=1, n_heads=most, n_kv_heads=most, d_k=most,
        num_local_experts=most, intermediate_size_expert=widest, intermediate_size_mlp=widest,
    )  # fmt: skip
    with torch.device("meta"):
        assert LlamaModel(config).lm_head.weight.shape == (widest, widest)


def test_without_chunks_both_layer_types_mean_the_same() -> None:
    for name in ("full_attention", "chunked_attention"):
        assert hf(attention_chunk_size=None, layer_types=[name] * 48).attention_chunk_size is None


@pytest.mark.parametrize(
    ("file", "size"), [("config.json", 1 << 20), ("model.safetensors.index.json", 64 << 20)]
)
def test_an_oversized_file_is_not_read(file: str, size: int, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with (tmp_path / file).open("wb") as sparse:
        sparse.truncate(size + 1)
    with pytest.raises(CheckpointError, match=f"{file} exceeds {size} bytes"):
        LlamaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": ' + "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json (is not valid JSON|must hold)"):
        read_config(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        LlamaModel.from_pretrained(tmp_path)


def hf(**changes: Any) -> ModelConfig:
    return from_hf({"model_type": "llama4_text", **changes})


def test_fields_left_out_have_the_values_of_transformers() -> None:
    config = hf()
    assert (config.d_model, config.n_layers, config.n_heads, config.n_kv_heads) == (5120, 48, 40, 8)
    assert (config.num_local_experts, config.d_k, config.vocab_size) == (16, 128, 202048)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), None)


def test_fields_that_are_null_mean_what_transformers_takes_them_for() -> None:
    null = ("head_dim", "num_key_value_heads", "attention_chunk_size", "bos_token_id",
            "eos_token_id", "moe_layers")  # fmt: skip
    config = hf(**dict.fromkeys(null), hidden_size=80)
    assert (config.d_k, config.n_kv_heads, config.attention_chunk_size) == (2, 40, None)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())
    assert config.moe_layers == tuple(range(48))


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 1e4, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 1e4, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3}},
    ],
)
def test_old_and_new_spellings_of_rope_mean_the_same(spelling: dict[str, Any]) -> None:
    config = hf(**spelling)
    assert config.rope_theta == 1e4
    assert config.rope_scaling == RopeScaling(**LLAMA3)


def test_an_empty_list_of_rope_layers_means_the_interval() -> None:
    config = hf(no_rope_layers=[], num_hidden_layers=5, no_rope_layer_interval=2)
    assert config.rope_layers == (1, 0, 1, 0, 1)


def test_temperature_tuning_may_be_written_as_4() -> None:
    assert hf(attn_temperature_tuning=4).attn_temperature_tuning is True
    assert hf(attn_temperature_tuning=0).attn_temperature_tuning is False


@pytest.mark.parametrize("eos", [2, [2], [200001, 200008], None])
def test_end_tokens_survive_as_one_several_or_none(eos: object) -> None:
    config = hf(eos_token_id=eos)
    assert from_hf(to_hf(config)).eos_token_ids == config.eos_token_ids


def test_keys_that_the_maths_does_not_read_survive(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    unknown = {"router_aux_loss_coef": 0.5, "my_note": {"é": [1, None]}, "use_cache": False}
    edit_config(tmp_path / "a", lambda config: config.update(unknown))
    LlamaModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {name: written[name] for name in unknown} == unknown


def test_what_was_derived_from_one_dtype_is_not_kept_for_another(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    LlamaModel.from_pretrained(tmp_path / "a", torch.bfloat16).save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"


def test_layers_that_all_see_everything_have_no_chunks(tmp_path: Path) -> None:
    model = saved(tmp_path)
    edit_config(tmp_path, lambda config: config.update(layer_types=["full_attention"] * 4))
    back = LlamaModel.from_pretrained(tmp_path)
    assert back.config == model.config.replace(attention_chunk_size=None)


def test_a_model_without_chunks_is_written_as_transformers_can_run_it(tmp_path: Path) -> None:
    from transformers import Llama4ForCausalLM

    model = tiny_model(tiny_config(attention_chunk_size=None))
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path) == model.config
    twin = Llama4ForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = twin(input_ids=IDS, use_cache=True).logits
    assert float((logits(model) - expected).abs().max()) < 1e-4
