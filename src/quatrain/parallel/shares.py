"""Shares: what each of several processes holds of a planned run. Needs no torch.

Weights, moments and gradients are divided; a layer and its neighbour are gathered at a time, and
embeddings and head for the whole step. Activations are those of a process' own rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.parallel.volume import held_of, volume_of
from quatrain.train.memory import Memory, Moment
from quatrain.train.plan import Plan
from quatrain.train.sizes import expert_parameters, parameters

_AT_A_TIME = 2
"""Layers that are gathered: the one that computes, and the next one."""


def of_each(config: Config, world: int) -> Config:
    """Settle the micro-batch of each process, which has its share of a step's rows.

    Raises:
        ConfigError: Q201 or Q217 for sizes that do not divide one another.
    """
    refuse_sizes(config, world)
    batch, train = config.train.batch_size or 1, config.train
    if batch % world:
        raise ConfigError(
            "Q201.processes", batch_size=batch, world=world, left=batch % world,
            better=-(-batch // world) * world,
        )  # fmt: skip
    micro = math.gcd(min(train.micro_batch_size or batch, batch // world), batch)
    return config.replace(train=train.replace(micro_batch_size=micro))


def refuse_sizes(config: Config, world: int) -> None:
    """Refuse sizes that do not divide one another, and what needs one process.

    Raises:
        ConfigError: Q217, Q219.
    """
    if config.train.weights == "bf16":
        raise ConfigError("Q219.weights", world=world)
    if config.model.offload not in ("auto", "none"):
        raise ConfigError("Q219.offload", where=config.model.offload, world=world)
    parallel, experts = config.parallel, config.model.num_local_experts
    asked = parallel.expert_parallel * parallel.replicas
    if world % asked:
        raise ConfigError(
            "Q217.processes", world=world, experts=parallel.expert_parallel,
            replicas=parallel.replicas,
        )  # fmt: skip
    if experts % parallel.expert_parallel:
        raise ConfigError("Q217.experts", parts=parallel.expert_parallel, experts=experts)


def among(plan: Plan, world: int) -> dict[str, Any]:
    """Describe how processes are arranged, and what each sends in a step, in bytes."""
    config, train = plan.config, plan.config.train
    rows = (train.batch_size or 1) // world
    micro_batches = -(-rows // (train.micro_batch_size or rows))
    stored = train.adapter is not None and config.model.quantize is not None
    sent = volume_of(config, world, rows * plan.work.length, micro_batches, stored)
    replicas, experts = config.parallel.replicas, config.parallel.expert_parallel
    return {
        "mesh": {"world": world, "replicas": replicas, "experts": experts,
                 "shards": world // replicas},
        "sent": {**{name: round(one) for name, one in asdict(sent).items()},
                 "total": round(sent.total)},
    }  # fmt: skip


def share(plan: Plan, world: int) -> Plan:
    """Plan what one process of several takes.

    Args:
        plan: of one process, with the rows that one of these processes has at a time.
        world: processes; on GPUs each has one, else they share the memory of a machine.
    """
    stored = 0 if plan.where is None else plan.base.held(plan.where, plan.site.on_gpu)
    moments = tuple(_shared(one, plan.config, world, stored) for one in plan.memory.moments)
    free = plan.free
    if free is not None and not plan.site.on_gpu:
        free //= world
    return replace(plan, memory=Memory(moments), site=replace(plan.site, free=free))


def _shared(moment: Moment, config: Config, world: int, stored: int) -> Moment:
    shards = world // config.parallel.replicas
    held = held_of(config)
    largest = max(a + b for a, b in zip(held.dense, held.experts, strict=True))
    parts = dict(moment.parts)
    for name in ("weights", "moments", "gradients"):
        parts[name] = round(parts.get(name, 0) / shards)
    if config.train.adapter is not None:
        parts["weights"] += _stored_whole(config, shards, stored)
    parts["gathered"] = round(held.tables + _AT_A_TIME * largest)
    return replace(moment, parts=parts)


def _stored_whole(config: Config, shards: int, stored: int) -> int:
    """Count what stored matrices take beyond an equal share: only experts are divided."""
    model, parts = config.model, config.parallel.expert_parallel
    if not model.quantize:
        return 0
    experts = len(model.moe_layers) * model.num_local_experts * expert_parameters(model)
    share_of_experts = min(1.0, experts / parameters(model).total)
    whole = stored * (1 - share_of_experts) + stored * share_of_experts / parts
    return max(0, round(whole - stored / shards))
