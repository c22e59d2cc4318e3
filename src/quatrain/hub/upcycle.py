"""Upcycling: a dense model is given routed experts, and starts as the same function.

The dense feed-forward becomes the shared expert. Each routed expert has a copy of its gate and up
projections, and a down projection of zeros: it adds nothing yet. So in the first step only the
down projections learn of what is routed; with them no longer zero, the router, gates and ups learn
from the second step on. The router is small and random, so that experts differ from the first step.
(Komatsuzaki et al. 2022, arXiv:2212.05055, copy whole experts; theirs are not added to a shared
one, where a copy would count twice.)
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from quatrain.config import MOST_EXPERTS
from quatrain.errors import CheckpointError
from quatrain.hub.source import Source
from quatrain.model.shards import LazyTensor
from quatrain.words import Sentence

_FEED_FORWARD = re.compile(r"(model\.layers\.(\d+)\.feed_forward\.)(gate|up|down)_proj\.weight")


def upcycle(source: Source, num_experts: int, seed: int = 0) -> Source:
    """Give every layer of a dense model `num_experts` routed experts, one chosen a token.

    Raises:
        CheckpointError: Q411 when it has experts already, or for a number that no model has.
    """
    config = source.config
    if config.moe_layers:
        raise CheckpointError("Q411.experts", source=source.origin, layers=len(config.moe_layers))
    if not 1 <= num_experts <= MOST_EXPERTS:
        raise CheckpointError("Q411.num_experts", num_experts=num_experts, most=MOST_EXPERTS)
    width = config.intermediate_size_mlp
    upcycled = config.replace(
        num_local_experts=num_experts,
        num_experts_per_tok=1,
        intermediate_size_expert=width,
        intermediate_size_shared=width,
        interleave_moe_layer_step=1,
        moe_layers=tuple(range(config.n_layers)),
    )
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in source.tensors.items():
        found = _FEED_FORWARD.fullmatch(name)
        if not found:
            tensors[name] = tensor
            continue
        place, layer, which = found.groups()
        tensors[f"{place}shared_expert.{which}_proj.weight"] = tensor
        if which == "down":
            experts = _experts(source, place, num_experts)
            router = _router(config.initializer_range, (num_experts, config.d_model),
                             tensor.dtype, seed + int(layer))  # fmt: skip
            tensors |= experts | {f"{place}router.weight": router}
    note = {"experts": Sentence.of("log.new_experts", count=num_experts)}
    return source.replace(config=upcycled, tensors=tensors, notes=source.notes | note)


def _experts(source: Source, place: str, num_experts: int) -> dict[str, LazyTensor]:
    """Copy gate and up [I, H] into [E, H, 2I]; zeros for down [E, I, H]."""
    gate, up = (source.tensors[f"{place}{which}_proj.weight"] for which in ("gate", "up"))
    (inner, model), dtype = gate.shape, gate.dtype

    def gate_up() -> Tensor:
        both = torch.cat([gate.load(), up.load()]).T
        return both.expand(num_experts, model, 2 * inner).contiguous()

    return {
        f"{place}experts.gate_up_proj": LazyTensor((num_experts, model, 2 * inner), dtype, gate_up),
        f"{place}experts.down_proj": LazyTensor(
            (num_experts, inner, model), dtype,
            lambda: torch.zeros(num_experts, inner, model, dtype=dtype),
        ),
    }  # fmt: skip


def _router(std: float, shape: tuple[int, int], dtype: torch.dtype, seed: int) -> LazyTensor:
    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(shape, generator=generator) * std).to(dtype)

    return LazyTensor(shape, dtype, draw)
