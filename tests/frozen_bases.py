"""Tiny bases whose weights stay as they are stored, and runs of adapters beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf_files import with_blocks
from quatrain.config import Config
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.open import open_source
from quatrain.recipe import build
from quatrain.train.run import run
from tiny_run import tiny_run

SHAPE: dict[str, Any] = dict(
    d_model=64, n_layers=4, n_heads=4, num_local_experts=4, vocab_size=320,
    attention_chunk_size=8192, max_position_embeddings=1024,
)  # fmt: skip


def trained_base(directory: Path) -> Path:
    """Train a run whose widths are multiples of 64, as a model that llama.cpp has."""
    values = tiny_run(directory, "text", max_steps=4).model_dump(exclude_unset=True)
    return run(build({**values, "model": SHAPE}), quiet=True).run_dir


def in_blocks(base: Path) -> Path:
    """Write a base as a GGUF file in Q4_1, beside it."""
    whole, made = base.parent / "f32.gguf", base.parent / "q4_1.gguf"
    write_gguf(open_source(base), whole, "f32")
    return with_blocks(whole, made, "Q4_1")


def adapters_on(directory: Path, base: Path, name: str = "run", **model: Any) -> Config:
    """Describe a run of adapters beside a base."""
    values = tiny_run(directory, name).model_dump(exclude_unset=True)
    values["train"]["adapter"] = "lora"
    return build({**values, "model": {"init": str(base), **model}, "lora": {"rank": 4}})
