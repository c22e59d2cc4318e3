"""The two sides of a comparison: our model and transformers' with the same weights.

Weights are a function of their names, so that each child makes its own and no file is written:
our state dict has transformers' names.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from quatrain.config import ModelConfig
from quatrain.model.hf_config import to_hf
from quatrain.model.llama import LlamaModel
from quatrain.train.products import set_for_training


def shape(**changes: Any) -> ModelConfig:
    """Describe the model that the bars are about."""
    base: dict[str, Any] = dict(
        vocab_size=8192, d_model=512, n_layers=8, n_heads=8, n_kv_heads=4, num_local_experts=16,
        intermediate_size_expert=1024, interleave_moe_layer_step=1,
    )  # fmt: skip
    return ModelConfig(**{**base, **changes})


def dense_twin(config: ModelConfig) -> ModelConfig:
    """Describe the dense model with as many active parameters, the router left out."""
    width = config.intermediate_size_expert * (config.num_experts_per_tok + 1)
    return config.replace(moe_layers=(), interleave_moe_layer_step=0, intermediate_size_mlp=width)


def ours(config: ModelConfig, dtype: torch.dtype, device: str) -> LlamaModel:
    """Make our model, in training mode."""
    with torch.device(device):
        model = LlamaModel(config)
    return filled(model, dtype).train()


def theirs(config: ModelConfig, dtype: torch.dtype, device: str) -> Any:
    """Make transformers' model, in training mode."""
    from transformers import Llama4ForCausalLM

    with torch.device(device):
        model = Llama4ForCausalLM(their_config(config))
    return filled(model, dtype).train()


def their_config(config: ModelConfig) -> Any:
    """Spell a config in transformers, with the attention that is fast there."""
    from transformers import Llama4TextConfig

    described = Llama4TextConfig(**to_hf(config))
    described._attn_implementation = "sdpa"
    return described


def as_in_a_run(is_ours: bool = True) -> AbstractContextManager[None]:
    """Set what a training run sets for its process; a peer's stays as its users have it."""
    return set_for_training() if is_ours else nullcontext()


Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def filled(module: Module, dtype: torch.dtype) -> Module:
    """Draw every weight by its name, from a normal of 0.02, and let norms be 1.

    Buffers keep their dtype, as they do where transformers reads a checkpoint in bfloat16.
    """
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, 0.02, generator=generator(name, weight.device.type))
        else:
            weight.fill_(1)
        weight.data = weight.data.to(dtype)
    return module


def generator(name: str, device: str = "cpu") -> torch.Generator:
    """Make a generator whose draws are a function of a name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
