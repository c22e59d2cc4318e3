"""Adapters of a run: those that its recipe chooses, or those of model.init, trained further.

The recipe need not repeat what such an adapter has, and must not contradict it; only dropout is set
by the recipe. Not for how adapters are read (model/adapter.py).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import torch

from quatrain.config import Config, LoraConfig
from quatrain.errors import ConfigError
from quatrain.hub.adapter import ranks_of
from quatrain.model.adapter import Adapter, adapter_tensors, place_adapters, read_adapter
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters
from quatrain.model.targets import Adapters, Site, choose
from quatrain.train.start import Start
from quatrain.words import Sentence, say

logger = logging.getLogger(__name__)


def settle_adapters(start: Start) -> Start:
    """Copy into the Config what the adapter of model.init has, as far as its fields can hold it.

    Raises:
        ConfigError: Q203 for a field of lora that contradicts it, or for weights no run trains.
        CheckpointError: Q401, Q404 or Q415 for the adapter.
    """
    if start.adapter is None:
        return start
    config, adapter = start.config, _read(start.adapter, start.config)
    if adapter.beyond:
        names = tuple(adapter.beyond[:5])
        raise ConfigError("Q203.beyond_layers", init=config.model.init, names=names)
    _refuse_contradictions(config, adapter.adapters)
    each = tuple(
        Sentence.of("log.of_rank", group=group, ranks=", ".join(map(str, ranks)))
        for group, ranks in ranks_of(adapter.adapters).items()
    )
    logger.info(say("log.goes_on", init=config.model.init, adapters=each))
    return replace(start, config=config.replace(lora=_stated(config, adapter.adapters)))


def add_adapters_of(model: LlamaModel, config: Config, start: Start, newest: Path | None) -> None:
    """Add the adapters of a run to its model: new ones, those of model.init, or a checkpoint's."""
    if start.adapter is None:
        adapters, factors = choose(config.lora, config.model), None
    else:
        read = _read(start.adapter, config)
        adapters, factors = read.adapters, read.factors
    add_adapters(model, adapters, config.train.seed, torch.float32)
    if newest is not None:
        factors = adapter_tensors(newest, adapters, config.model)
    if factors is not None:
        place_adapters(model, factors)
    model.base = start.base


def _read(directory: Path, config: Config) -> Adapter:
    """Read an adapter, with the dropout that the recipe asks for."""
    adapter, lora = read_adapter(directory, config.model), config.lora
    adapters = {
        site: one._replace(dropout=lora.dropouts.get(site.group, lora.dropout))
        for site, one in adapter.adapters.items()
    }
    return replace(adapter, adapters=adapters)


def _refuse_contradictions(config: Config, adapters: Adapters) -> None:
    """Refuse fields of lora that contradict the adapter."""
    lora, given, model = config.lora, config.lora.model_fields_set, config.model
    for name in ("targets", "train_router"):
        if name in given and _paths(choose(lora, model)) != _paths(adapters):
            has = ", ".join(sorted({f"{site.group}.{site.projection}" for site in adapters}))
            raise _contradicts(config, name, has)
    for site, one in adapters.items():
        if site.group in lora.ranks and lora.ranks[site.group] != one.rank:
            raise _contradicts(config, "ranks", one.rank, site)
        if "rank" in given and lora.ranks.get(site.group, lora.rank) != one.rank:
            raise _contradicts(config, "rank", one.rank, site)
        if "alpha" in given and not isclose(lora.alpha, one.scale * one.rank):
            raise _contradicts(config, "alpha", one.scale * one.rank, site)
    for name in ("ranks", "dropouts"):
        if unused := getattr(lora, name).keys() - {site.group for site in adapters}:
            raise ConfigError("Q203.unused", name=name, groups=", ".join(sorted(unused)))


def _paths(adapters: Iterable[Site]) -> set[str]:
    return {site.path for site in adapters}


def _contradicts(config: Config, name: str, has: Any, site: Site | None = None) -> ConfigError:
    return ConfigError(
        "Q203.of_adapter",
        name=name,
        given=repr(getattr(config.lora, name)),
        init=config.model.init,
        what=f"{site.path}: {has}" if site else has,
    )


def _stated(config: Config, adapters: Adapters) -> LoraConfig:
    """Describe an adapter in fields of lora; leave those as they are that cannot hold it."""
    ranks = {site.group: one.rank for site, one in adapters.items()}
    rank = Counter(one.rank for one in adapters.values()).most_common(1)[0][0]
    alphas = {round(one.scale * one.rank, 9) for one in adapters.values()}
    fields = {
        **config.lora.model_dump(exclude_unset=True, exclude={"train_router"}),
        "targets": tuple(dict.fromkeys(f"{site.group}.{site.projection}" for site in adapters)),
        "rank": rank,
        "ranks": {group: one for group, one in ranks.items() if one != rank},
        "alpha": alphas.pop(),
    }
    try:
        stated = LoraConfig.model_validate(fields)
    except ValueError:
        return config.lora
    chosen = choose(stated, config.model)
    same = chosen.keys() == adapters.keys() and all(
        chosen[site].rank == one.rank and isclose(chosen[site].scale, one.scale)
        for site, one in adapters.items()
    )
    return stated if same else config.lora
