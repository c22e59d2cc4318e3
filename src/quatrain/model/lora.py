"""Adapters in a model: added to the chosen weights, which are frozen; merged, and taken out again.

Not for the arithmetic (weights.py), nor for files (adapter.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quatrain.model.frozen import Weight
from quatrain.model.llama import LlamaModel
from quatrain.model.targets import Adapters, Site, shape
from quatrain.model.weights import Draw, LowRank


def add_adapters(
    model: LlamaModel, adapters: Adapters, seed: int = 0, dtype: torch.dtype | None = None
) -> None:
    """Freeze a model and give it adapters that add nothing yet.

    Args:
        model: without adapters; it is changed.
        adapters: from `targets.choose`, or as a directory names them.
        seed: of the factors' first values.
        dtype: of the factors; None takes that of each weight.
    """
    model.requires_grad_(False)
    for site, (rank, scale, dropout) in adapters.items():
        weight = weight_at(model, site)
        with torch.device(weight.device):
            lora = LowRank(shape(site, model.config), rank, scale, dropout, site.path)
        lora.initialise(seed)
        owner, _, name = site.adapter.rpartition(".")
        setattr(model.get_submodule(owner), name, lora.to(dtype or weight.dtype))
    model.adapters = dict(adapters)


def learning(model: LlamaModel) -> dict[str, int]:
    """Count the trainable parameters, by group of the adapted weights."""
    counts: dict[str, int] = {}
    for site in model.adapters:
        parameters = lora_at(model, site).parameters()
        number = sum(p.numel() for p in parameters if p.requires_grad)
        counts[site.group] = counts.get(site.group, 0) + number
    return counts


def weight_at(model: LlamaModel, site: Site) -> Weight:
    """Give the weight itself: a parameter, or one that is kept as it is stored."""
    owner, _, name = site.weight.rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    assert isinstance(found, Weight)
    return found


def lora_at(model: LlamaModel, site: Site) -> LowRank:
    """Give the adapter of a weight."""
    found = model.get_submodule(site.adapter)
    assert isinstance(found, LowRank)
    return found


@contextmanager
def dropping(model: LlamaModel, draw: Draw) -> Iterator[None]:
    """Turn dropout of adapters on in the body, in forward passes and in recomputation alike."""
    loras = [lora_at(model, site) for site in model.adapters]
    for lora in loras:
        lora.draw = draw
    try:
        yield
    finally:
        for lora in loras:
            lora.draw = None


@torch.no_grad()
def merge(model: LlamaModel) -> None:
    """Merge the adapters into the weights; the adapters stay, but add nothing."""
    for site in model.adapters:
        lora, weight = lora_at(model, site), model.get_parameter(site.weight)
        if not lora.merged:
            weight.copy_(with_delta(weight, lora.delta(), site))
            lora.merged = True


@torch.no_grad()
def unmerge(model: LlamaModel) -> None:
    """Undo `merge`, except for rounding."""
    for site in model.adapters:
        lora, weight = lora_at(model, site), model.get_parameter(site.weight)
        if lora.merged:
            weight.copy_(with_delta(weight, -lora.delta(), site))
            lora.merged = False


def with_delta(weight: Tensor, delta: Tensor, site: Site) -> Tensor:
    """Add a product of factors to a weight, in float32; most weights are stored [O, I]."""
    return weight.float() + (delta if site.group in ("experts", "embedding") else delta.T)
