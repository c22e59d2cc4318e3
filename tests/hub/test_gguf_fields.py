"""Every key and tensor of a GGUF file is read, known to be harmless, or refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gguf_files import DENSE_MODEL, LLAMA4_MODEL, rewritten, source_of
from quatrain.data.demo_text import pretraining_text
from quatrain.errors import CheckpointError, QuatrainError
from quatrain.hub import gguf_read
from quatrain.hub.gguf_read import read_file, read_gguf
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.source import Source
from quatrain.text.tokenizer import Tokenizer, train_bpe

SHAPES = {
    "llama": DENSE_MODEL, "llama4": LLAMA4_MODEL,
    "smollm3": DENSE_MODEL | {"rope_layers": (1, 1, 1, 0)},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(pretraining_text(count=300), vocab_size=512)


@pytest.fixture(scope="module")
def sound(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each architecture."""
    directory = tmp_path_factory.mktemp("sound")
    for arch, shape in SHAPES.items():
        write_gguf(source_of(shape, tokenizer), directory / f"{arch}.gguf", "f32")
    return {arch: directory / f"{arch}.gguf" for arch in SHAPES}


OTHER_FUNCTIONS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    ("llama", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}),
    ("llama", {"rope.scaling.type": "longrope"}),
    ("llama", {"rope.scaling.factor": 4.0}),  # llama.cpp takes a factor alone for linear
    ("llama", {"rope.scale_linear": 4.0}),
    ("llama", {"rope.scaling.attn_factor": 1.5}),
    ("llama", {"rope.scaling.yarn_ext_factor": 1.0}),
    ("llama", {"rope.scaling.alpha": 1000.0}),
    ("llama", {"rope.dimension_count": 16}),
    ("llama", {"rope.dimension_sections": [8, 4, 4, 0]}),
    ("llama", {"attention.value_length": 16}),
    ("llama", {"attention.sliding_window": 64}),
    ("llama", {"attention.scale": 0.5}),
    ("llama", {"attention.clamp_kqv": 8.0}),
    ("llama", {"attention.max_alibi_bias": 8.0}),
    ("llama", {"attention.causal": False}),
    ("llama", {"attention.shared_kv_layers": 2}),
    ("llama", {"attention.temperature_scale": 0.1}),
    ("llama", {"attn_logit_softcapping": 50.0}),
    ("llama", {"final_logit_softcapping": 30.0}),
    ("llama", {"logit_scale": 0.5}),
    ("llama", {"residual_scale": 0.22}),
    ("llama", {"embedding_scale": 12.0}),
    ("llama", {"use_parallel_residual": True}),
    ("llama", {"attention.head_count_kv": [2, 2, 4, 2]}),
    ("llama", {"feed_forward_length": [128, 128, 64, 128]}),
    ("llama", {"nextn_predict_layers": 1}),
    ("llama", {"a_key_of_tomorrow": 1}),
    ("llama", {"vocab_size": 500}),
    ("llama4", {"rope.scaling.type": "yarn"}),
    ("llama4", {"rope.freq_base_swa": 10000.0}),
    ("llama4", {"attention.sliding_window": 0}),
    ("llama4", {"attention.sliding_window": 4096}),
    ("llama4", {"attention.sliding_window_pattern": 2}),
    ("llama4", {"expert_gating_func": 1}),
    ("llama4", {"expert_weights_scale": 2.5}),
    ("llama4", {"expert_weights_norm": True}),
    ("llama4", {"expert_shared_count": 2}),
    ("llama4", {"expert_group_count": 4}),
    ("llama4", {"leading_dense_block_count": 1}),
    ("llama4", {"expert_shared_feed_forward_length": 64}),
    ("llama4", {"router_logit_softcapping": 30.0}),
]


@pytest.mark.parametrize(("arch", "changes"), OTHER_FUNCTIONS, ids=str)
def test_a_key_of_another_function_is_refused_by_its_name(
    arch: str, changes: dict[str, Any], sound: dict[str, Path], tmp_path: Path
) -> None:
    named = {f"{arch}.{name}": value for name, value in changes.items()}
    path = rewritten(sound[arch], tmp_path / "m.gguf", named)
    each = "".join(f"(?=.*{name})" for name in named)
    with pytest.raises(CheckpointError, match=rf"(?s)\[Q410\]{each}") as raised:
        read_gguf(path)
    assert raised.value.code == "Q410"
    assert raised.value.remedy


NEUTRAL: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}),
    ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}),
    ("llama", {"rope.scaling.original_context_length": 512, "rope.scaling.finetuned": True}),
    ("llama", {"attention.head_count_kv": [2, 2, 2, 2], "feed_forward_length": [128] * 4}),
    ("llama", {"attention.sliding_window": 4096}),  # wider than the context
    ("llama", {"attention.causal": True, "logit_scale": 1.0, "expert_count": 0}),
    ("llama", {"attention.scale": 32**-0.5, "expert_used_count": 0}),
    ("llama", {"tensor_data_layout": "Meta AI original pth"}),
    ("llama4", {"rope.freq_base_swa": 500000.0, "attention.sliding_window": 8192}),
    ("llama4", {"expert_gating_func": 2, "expert_shared_count": 1}),
    ("llama4", {"attention.temperature_length": 8192, "attention.temperature_scale": 0.1}),
]


@pytest.mark.parametrize(("arch", "changes"), NEUTRAL, ids=str)
def test_a_key_that_says_nothing_new_is_read(
    arch: str, changes: dict[str, Any], sound: dict[str, Path], tmp_path: Path
) -> None:
    named = {f"{arch}.{name}": value for name, value in changes.items()}
    path = rewritten(sound[arch], tmp_path / "m.gguf", named)
    assert read_gguf(path).config == read_gguf(sound[arch]).config


@pytest.mark.parametrize(
    "name",
    ["blk.0.attn_q.bias", "blk.0.attn_q.extra.weight", "blk.1.ffn_up_exps.bias",
     "blk.1.ffn_down_exps.bias",
     "blk.1.ffn_gate_exps.scale", "blk.0.attn_rot_embd.weight", "rope_factors_long.weight",
     "output.bias", "blk.0.attn_q_norm.weight", "blk.1.exp_probs_b.bias"],
)  # fmt: skip
def test_a_tensor_that_nobody_reads_is_refused_by_its_name(
    name: str, sound: dict[str, Path], tmp_path: Path
) -> None:
    path = rewritten(sound["llama4"], tmp_path / "m.gguf", {}, {name: torch.ones(32)})
    with pytest.raises(CheckpointError, match=rf"\[Q404\].*{name}"):
        read_gguf(path)


def test_factors_of_one_are_no_scaling(sound: dict[str, Path], tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": torch.ones(16)}
    path = rewritten(sound["llama"], tmp_path / "m.gguf", {}, extra)
    assert read_gguf(path).config.rope_scaling is None


def test_a_part_of_several_files_is_refused(sound: dict[str, Path], tmp_path: Path) -> None:
    path = rewritten(sound["llama"], tmp_path / "m.gguf", {"split.count": 3})
    with pytest.raises(CheckpointError, match="one of the 3 files"):
        read_gguf(path)


ODD = ["text", "", -1, 0, 1, 2**31 - 1, 2**63, 1.5, True, float("nan"), float("inf"), [], [1, 2],
       ["a"], [["a"]], None]  # fmt: skip


@pytest.mark.parametrize("arch", SHAPES)
def test_no_value_of_any_key_is_a_traceback(
    arch: str, sound: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, tensors = read_file(sound[arch])
    read, codes, first = 0, set(), list(SHAPES).index(arch)
    for place, name in enumerate(one for one in keys if not one.startswith("GGUF.")):
        for value in ODD[(place + first) % len(SHAPES) :: len(SHAPES)]:  # each at some kind
            changed = {one: said for one, said in keys.items() if one != name}
            changed |= {} if value is None else {name: value}
            monkeypatch.setattr(gguf_read, "read_file", lambda path, c=changed: (c, tensors))
            try:
                read += isinstance(read_gguf(sound[arch]), Source)
            except QuatrainError as error:
                codes.add(error.code)
                str(error)
    assert {code[:2] for code in codes} == {"Q4"}
    assert read > 0
