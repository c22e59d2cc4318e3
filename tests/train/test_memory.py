"""The computed memory of a step is what torch allocates in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allocated import allocated_by
from quatrain.config import ModelConfig, TrainConfig
from quatrain.data.batches import Batch
from quatrain.model import attention
from quatrain.model.llama import LlamaModel
from quatrain.train.loop import accumulate
from quatrain.train.memory import Memory, Work, predict
from quatrain.train.optim import make_optimizer
from quatrain.train.plan import attention_of
from quatrain.train.rounded import keep_in_bfloat16
from quatrain.train.sizes import parameters

SHAPE: dict[str, Any] = dict(
    vocab_size=1024, d_model=96, n_layers=3, n_heads=4, n_kv_heads=2, d_k=24,
    num_local_experts=4, intermediate_size_expert=160, intermediate_size_mlp=320,
)  # fmt: skip
LENGTH, LONG_BY_BLOCKS, LONG = 128, 768, 1152

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "experts": ({}, {}, 32),
    "two experts a token": ({"num_experts_per_tok": 2}, {}, 32),
    "one micro-batch": ({}, {"batch_size": 2}, 32),
    "dense": ({"moe_layers": ()}, {}, 32),
    "one document a row": ({}, {}, LENGTH),
    "a large vocabulary": ({"vocab_size": 12_000}, {}, LENGTH),
    "tied": ({"vocab_size": 12_000, "tie_word_embeddings": True}, {}, LENGTH),
    "logits by chunks": ({"vocab_size": 6000}, {"loss_chunk_size": 16}, LENGTH),
    "recomputed": ({"n_layers": 6}, {"activation_checkpointing": True}, 32),
    "recomputed, dense": (
        {"n_layers": 6, "moe_layers": ()}, {"activation_checkpointing": True}, LENGTH,
    ),
    "bfloat16 products": ({}, {"precision": "bf16"}, 32),
    "bfloat16 products, one document a row": ({}, {"precision": "bf16"}, LENGTH),
    "bfloat16 weights and products": (
        {}, {"weights": "bf16", "precision": "bf16", "batch_size": 2}, 32,
    ),
    "bfloat16 weights, accumulated": ({}, {"weights": "bf16", "precision": "bf16"}, 32),
    "bfloat16 weights, float32 products, dense": (
        {"moe_layers": ()}, {"weights": "bf16", "batch_size": 2}, LENGTH,
    ),
    "bfloat16 weights, a large tied vocabulary": (
        {"vocab_size": 12_000, "tie_word_embeddings": True},
        {"weights": "bf16", "precision": "bf16", "batch_size": 2}, LENGTH,
    ),
    "softmax weights computed again": ({}, {}, LONG_BY_BLOCKS),
    "without QK-norm": ({"use_qk_norm": False}, {}, LENGTH),
    "PyTorch's kernel": ({}, {}, LONG),
    "bfloat16 products, PyTorch's kernel": ({}, {"precision": "bf16"}, LONG),
}  # fmt: skip


def batch_of(rows: int, vocab_size: int, document: int) -> Batch:
    draw = np.random.default_rng(0)
    length = max(document, LENGTH)
    mask = np.zeros((rows, length), dtype=bool)
    for end in range(document, length + 1, document):
        mask[:, end - document // 4 : end] = True
    ids = draw.integers(0, vocab_size, (rows, length))
    return Batch(ids, mask, [[document] * (length // document)] * rows, np.arange(rows), 0.0)


def allocated(model: LlamaModel, batch: Batch, train: TrainConfig, trace: Path) -> int:
    """The most that torch holds in the second step above what it holds before it, in bytes."""
    optimizer = make_optimizer(model, train)

    def step() -> None:
        accumulate(model, batch, train)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return allocated_by(step, trace)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_the_predicted_peak_is_what_torch_allocates(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_has_amx", lambda: False)
    changes, settings, document = CASES[name]
    config = ModelConfig(**{**SHAPE, **changes})
    train = TrainConfig(**{"batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-3,
                           "balance_loss_coef": 0.0, **settings})  # fmt: skip
    model = LlamaModel(config)
    if train.weights == "bf16":
        keep_in_bfloat16(model)
    model.model.activation_checkpointing = train.activation_checkpointing
    batch = batch_of(train.batch_size or 1, config.vocab_size, document)
    measured = allocated(model, batch, train, tmp_path / "trace.json")
    length = batch.ids.shape[1]
    attention_is = attention_of(batch.segments[:2], length, config.n_heads)
    work = Work(2, length, int(batch.mask[:2, 1:].sum()), *attention_is)
    predicted = _of_the_step(predict(config, train, work))
    assert predicted == pytest.approx(measured, rel=0.05)


def _of_the_step(memory: Memory) -> int:
    """Leave out what is there before a step, and what is not torch's."""
    outside = ("weights", "moments", "libraries", "held back")
    return max(
        sum(size for name, size in moment.parts.items() if name not in outside)
        for moment in memory.moments
    )


def test_weights_gradients_and_moments_take_sixteen_bytes_a_parameter() -> None:
    config = ModelConfig(**SHAPE)
    train = TrainConfig(batch_size=2, micro_batch_size=1)
    update = predict(config, train, Work(1, LENGTH, 10)).moments[-1]
    held = sum(update.parts[name] for name in ("weights", "gradients", "moments"))
    assert update.name == "update"
    assert held == 16 * parameters(config).total


@pytest.mark.parametrize(("batch", "each"), [(1, 8), (2, 10)])
def test_weights_in_bfloat16_take_eight_bytes_a_parameter_or_ten(batch: int, each: int) -> None:
    config = ModelConfig(**SHAPE)
    train = TrainConfig(batch_size=batch, micro_batch_size=1, weights="bf16")
    update = predict(config, train, Work(1, LENGTH, 10)).moments[-1]
    held = sum(update.parts[name] for name in ("weights", "gradients", "moments"))
    assert held == each * parameters(config).total


def test_what_should_lessen_the_peak_does() -> None:
    config = ModelConfig(**{**SHAPE, "n_layers": 12, "vocab_size": 8192})
    train = TrainConfig(batch_size=8, micro_batch_size=8)
    work = Work(8, 512, 2000)
    most = predict(config, train, work).total
    recompute = train.replace(activation_checkpointing=True)
    assert predict(config, recompute, work).total < 0.7 * most
    fewer = train.replace(micro_batch_size=1)
    assert predict(config, fewer, Work(1, 512, 250)).total < 0.5 * most
    assert predict(config, train.replace(loss_chunk_size=64), work).total < most
