"""What `import quatrain` promises, and the ten names that the project began with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import quatrain
from quatrain import (
    Attention,
    Config,
    ExpertMLP,
    LlamaModel,
    MoE,
    RMSNorm,
    RotaryPositionalEmbedding,
    SimpleCharTokenizer,
    TransformerBlock,
    load_and_prepare_french_data,
)
from quatrain.data.batches import Batches
from quatrain.model.layout import Layout

ORIGIN = (
    "Config",
    "SimpleCharTokenizer",
    "load_and_prepare_french_data",
    "RMSNorm",
    "RotaryPositionalEmbedding",
    "Attention",
    "ExpertMLP",
    "MoE",
    "TransformerBlock",
    "LlamaModel",
)
TINY = {
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 64,
}


def test_public_names_are_sorted_and_each_can_be_imported() -> None:
    assert quatrain.__all__ == sorted(quatrain.__all__)
    for name in quatrain.__all__:
        assert getattr(quatrain, name).__name__ == name


def test_the_ten_names_of_the_origin_are_public() -> None:
    assert set(ORIGIN) <= set(quatrain.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LamaModel'"):
        _ = quatrain.LamaModel


def test_importing_quatrain_imports_no_torch() -> None:
    program = "import quatrain, sys; assert 'torch' not in sys.modules and dir(quatrain)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_ten_names_of_the_origin_work_in_their_order(tmp_path: Path) -> None:
    config = _config(tmp_path)
    tokenizer = SimpleCharTokenizer(["Où est l'été ?", "Là."])
    config, data = load_and_prepare_french_data(config, tokenizer)
    assert config.model.vocab_size == tokenizer.vocab_size
    model = config.model

    x = torch.randn(1, 8, model.d_model, generator=torch.Generator().manual_seed(0))
    layout = Layout.of((1, 8), None, model.attention_chunk_size, x.device)
    normal = RMSNorm(model.d_model, model.rms_norm_eps)(x)
    rotation = RotaryPositionalEmbedding(model.d_k, model.rope_theta)(layout.positions)
    assert Attention(model, layer=0)(normal, rotation, layout).shape == x.shape

    experts = ExpertMLP(model.num_local_experts, model.d_model, model.intermediate_size_expert)
    torch.nn.init.normal_(experts.gate_up_proj)
    torch.nn.init.normal_(experts.down_proj)
    assert experts(x[0], torch.tensor([3, 0, 4, 1])).shape == x[0].shape
    # These two draw no weights of their own: LlamaModel initialises the whole.
    whole = LlamaModel(model)
    moe, block = MoE(model), TransformerBlock(model, layer=0)
    moe.load_state_dict(whole.model.layers[0].feed_forward.state_dict())
    block.load_state_dict(whole.model.layers[0].state_dict())
    assert moe(x)[1].load_E.sum() == 8
    assert block(x, rotation, layout)[0].shape == x.shape

    batch = Batches(data.train, batch_size=1, seed=0).batch(0)
    logits = whole(torch.from_numpy(batch.ids), batch.segments)
    assert logits.shape == (1, config.data.block_size, tokenizer.vocab_size)
    assert bool(logits.isfinite().all())


def _config(tmp_path: Path) -> Config:
    rows = [
        {"instruction": "Où est l'été ?", "input": "", "output": "Là."},
        {"instruction": "L'été est là ?", "input": "Où ?", "output": "Là."},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Config.model_validate(
        {
            "run_dir": str(tmp_path / "run"),
            "model": TINY,
            "data": {"train": [str(file)], "block_size": 64},
        }
    )
