"""Any value of any field of a directory's JSON files is read, or refused with a code."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from adapted import adapted_model
from foreign import silently, text_tools
from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError, QuatrainError
from quatrain.hub.convert import Conversion, convert
from quatrain.hub.dense import dense_config
from quatrain.hub.open import open_source
from quatrain.model.adapter import read_adapter
from quatrain.model.hf_config import from_hf, to_hf
from quatrain.model.peft_config import read_fields, to_peft
from quatrain.text.tokenizer import Tokenizer
from tiny import tiny_config, tiny_model

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_parameters": LLAMA3,
    "rope_theta": 500000.0, "rope_scaling": None, "hidden_act": "silu", "attention_bias": False,
    "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None, "initializer_range": 0.02, "pretraining_tp": 1, "sliding_window": None,
    "quantization_config": None, "auto_map": None, "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FOUR = to_hf(tiny_config()) | {
    "rope_theta": None, "rope_scaling": None, "quantization_config": None, "auto_map": None,
}  # fmt: skip
NESTED = {"model_type": "llama4", "text_config": FOUR, "tie_word_embeddings": False}
Reader = Callable[[dict[str, Any]], ModelConfig]
CONFIGS: dict[str, tuple[dict[str, Any], Reader]] = {
    "llama": (LLAMA, dense_config),
    "mistral": (LLAMA | {"model_type": "mistral"}, dense_config),
    "qwen2": (
        LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "layer_types": None},
        dense_config,
    ),
    "smollm3": (
        LLAMA
        | {
            "model_type": "smollm3",
            "use_sliding_window": False,
            "layer_types": None,
            "no_rope_layers": [1, 0],
            "no_rope_layer_interval": 2,
        },
        dense_config,
    ),
    "llama4_text": (FOUR, from_hf),
    "llama4": (NESTED, from_hf),
}
ODD: list[Any] = [
    None, True, False, "", "text", "1e-6", "16", "\ud800", [], [1], ["a"], [[1]], [None], {},
    {"a": 1}, 0, -1, 1, 2.5, -0.5, math.nan, math.inf, -math.inf, 10**30, 10**400, 2**63, 1e308,
    1e-320,
]  # fmt: skip


def places(fields: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in fields.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


def with_value(fields: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Copy an object with another value at a place; `...` leaves the field out."""
    changed = copy.deepcopy(fields)
    inside = changed
    for name in path[:-1]:
        inside = inside[name]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return changed


def outcome(read: Callable[[], object]) -> str:
    """Say the code and the message of a refusal; of anything read, nothing."""
    try:
        read()
    except QuatrainError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_value_of_config_json_is_a_traceback(kind: str) -> None:
    sound, read = CONFIGS[kind]
    assert outcome(lambda: read(sound)) == ""
    for path in places(sound):
        for value in [*ODD, ...]:
            changed = with_value(sound, path, value)
            said = outcome(lambda changed=changed: read(changed))
            assert said == "" or said.startswith("[Q410] "), (path, value, said)


NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "initializer_range",
)  # fmt: skip
OF_ROPE = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor",
           "original_max_position_embeddings")  # fmt: skip
WRONG: list[Any] = ["1e-6", "16", "", -1.5, math.nan, math.inf, {}, [[1]], 10**400]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "smollm3", "llama4_text"])
def test_a_wrong_value_is_refused_by_its_field(kind: str) -> None:
    sound, read = CONFIGS[kind]
    for path in [*((n,) for n in NUMBERS), *(("rope_parameters", n) for n in OF_ROPE)]:
        for value in WRONG:
            with pytest.raises(CheckpointError, match=path[-1]) as raised:
                read(with_value(sound, path, value))
            assert raised.value.remedy


def test_a_wrong_value_of_smollm3_is_refused_by_its_field() -> None:
    sound, read = CONFIGS["smollm3"]
    for name in ("no_rope_layers", "no_rope_layer_interval", "attention_bias"):
        for value in ("1", "yes", math.nan, {"a": 1}, [[1]], [2, 2]):
            with pytest.raises(CheckpointError, match=name):
                read(with_value(sound, (name,), value))


FOUR_NUMBERS = (
    "intermediate_size_mlp", "num_local_experts", "num_experts_per_tok", "moe_layers",
    "no_rope_layers", "interleave_moe_layer_step", "use_qk_norm", "attention_chunk_size",
    "attn_temperature_tuning", "floor_scale", "attn_scale", "attention_bias",
)  # fmt: skip


def test_a_wrong_value_of_llama_4_is_refused_by_its_field() -> None:
    for name in FOUR_NUMBERS:
        for value in ("1e-6", "16", "yes", math.nan, {"a": 1}, [[1]]):
            with pytest.raises(CheckpointError, match=name):
                from_hf(with_value(FOUR, (name,), value))


@pytest.mark.parametrize("kind", ["llama", "llama4_text"])
@pytest.mark.parametrize("name", ["factor", "low_freq_factor", "high_freq_factor"])
@pytest.mark.parametrize("value", [..., None])
def test_a_scaling_without_a_factor_is_refused_by_its_name(
    kind: str, name: str, value: Any
) -> None:
    sound, read = CONFIGS[kind]
    with pytest.raises(CheckpointError, match=rf"(?s)\[Q410\].*{name}.*help: "):
        read(with_value(sound, ("rope_parameters", name), value))


@pytest.mark.parametrize(
    ("field", "value"),
    [("partial_rotary_factor", 0.5), ("rope_theta", 0), ("rope_theta", False), ("rope_scaling", 0),
     ("rope_scaling", []), ("rope_parameters", {"full_attention": LLAMA3}),
     ("rope_parameters", LLAMA3 | {"partial_rotary_factor": 0.5}),
     ("original_max_position_embeddings", 128),
     ("rope_parameters", LLAMA3 | {"field_of_tomorrow": 2})],
    ids=str,
)  # fmt: skip
def test_a_field_of_rope_that_is_not_carried_over_is_refused(field: str, value: Any) -> None:
    changes = {"rope_parameters": {"rope_type": "default"}} if field == "rope_theta" else {}
    with pytest.raises(CheckpointError, match=r"\[Q410\]"):
        dense_config(LLAMA | changes | {field: value})


keys = st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_config_json_holds_has_a_code(data: st.DataObject) -> None:
    sound, read = data.draw(st.sampled_from(list(CONFIGS.values())))
    changed = sound
    for path in data.draw(st.lists(st.sampled_from(list(places(sound))), max_size=3)):
        if len(path) == 1 or isinstance(changed.get(path[0]), dict):
            if len(path) == 3 and not isinstance(changed[path[0]].get(path[1]), dict):
                continue
            changed = with_value(changed, path, data.draw(anything))
    said = outcome(lambda: read(changed))
    assert said == "" or said.startswith("[Q410] ")


def rewrite(path: Path, fields: Any) -> None:
    path.write_text(json.dumps(fields))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fields")
    model = adapted_model("every_layer_moe", targets="attention,experts")
    tiny_model(model.config).save_pretrained(directory / "base")
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")
    return directory / "adapter"


def test_no_value_of_adapter_config_json_is_a_traceback(adapter: Path) -> None:
    from quatrain.model.llama import LlamaModel

    path = adapter / "adapter_config.json"
    sound = json.loads(path.read_text()) | {"revision": None, "use_rslora": False}
    sound |= {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 3}}
    sound |= {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    config = LlamaModel.from_pretrained(adapter.parent / "base").config

    def read() -> None:
        named = read_fields(adapter)["base_model_name_or_path"]
        to_peft(read_adapter(adapter, config).adapters, config, named)

    base = "base_model_name_or_path"
    try:
        for place in places(sound):
            for value in [*ODD, ..., "a\0b", "a" * 5000]:
                rewrite(path, with_value(sound, place, value))
                if place == (base,):
                    said = outcome(lambda: LlamaModel.from_pretrained(adapter))
                else:
                    said = outcome(read)
                assert said == "" or said.startswith(("[Q415] ", "[Q401] ", "[Q404] ")), (
                    value,
                    said,
                )
    finally:
        rewrite(path, sound)


@pytest.mark.parametrize(
    ("field", "value"), [("use_rslora", "false"), ("use_rslora", 1), ("lora_alpha", 1e300)]
)
def test_a_wrong_field_of_an_adapter_is_refused_by_its_name(
    field: str, value: Any, adapter: Path
) -> None:
    path = adapter / "adapter_config.json"
    sound = json.loads(path.read_text())
    rewrite(path, sound | {field: value})
    try:
        with pytest.raises(CheckpointError, match=rf"\[Q415\].*{field}"):
            read_adapter(adapter, tiny_config("every_layer_moe"))
    finally:
        rewrite(path, sound)


def test_no_value_of_tokenizer_config_json_is_a_traceback(tmp_path: Path) -> None:
    text_tools(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    sound = json.loads(path.read_text()) | {"unknown_characters": "unk", "unk_token": None}
    for place in places(sound):
        for value in [*ODD, ...]:
            rewrite(path, with_value(sound, place, value))
            said = outcome(lambda: Tokenizer.load(tmp_path))
            assert said == "" or said.startswith("[Q43"), (place, value, said)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dense")
    model = LlamaForCausalLM(LlamaConfig(**{n: v for n, v in LLAMA.items() if v is not None}))
    model.save_pretrained(directory)
    text_tools(directory)
    return directory


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rms_norm_eps": "1e-6"}),
        ("config.json", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}),
        ("config.json", {"attention_dropout": "much"}),
        ("config.json", {"use_cache": [1]}),
        ("config.json", {"dtype": "float33"}),
        ("config.json", {"model_type": ["llama"]}),
        ("config.json", {"torch_dtype": 7}),
        ("generation_config.json", {"temperature": "hot"}),
        ("generation_config.json", {"eos_token_id": {"a": 1}}),
        ("generation_config.json", {"max_length": -5, "do_sample": "maybe"}),
        ("tokenizer_config.json", {"model_max_length": "long"}),
    ],
    ids=str,
)
def test_a_whole_conversion_ends_well_or_with_a_code(
    file: str, changes: dict[str, Any], dense: Path, tmp_path: Path
) -> None:
    path = dense / file
    sound = path.read_text()
    rewrite(path, json.loads(sound) | changes)
    try:
        said = outcome(lambda: silently(convert, dense, tmp_path / "out", Conversion(to="llama4")))
        assert said == "" or said.startswith(("[Q410]", "[Q412]", "[Q401]"))
        assert (tmp_path / "out").exists() == (said == "")
        outcome(lambda: open_source(dense))
    finally:
        path.write_text(sound)
