"""Which weights can have an adapter, by which names they are asked for, and what each one gets.

Needs no torch, so mistakes in a recipe are reported at once. Not for the adapters themselves
(weights.py, lora.py), nor for PEFT's names of them (peft_config.py).

Shapes: E experts, H model width, I inner width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from quatrain.config import LORA_GROUPS, LoraConfig, ModelConfig
from quatrain.errors import ConfigError

_PLACES = {
    "attention": "self_attn.",
    "shared": "feed_forward.shared_expert.",
    "dense": "feed_forward.",
    "experts": "feed_forward.experts.",
    "router": "feed_forward.",
}


TABLES = {"embedding": "model.embed_tokens", "head": "lm_head"}
"""Groups of one weight outside the layers: PEFT can adapt them; runs here do not."""


class Site(NamedTuple):
    """A weight that can have an adapter."""

    layer: int
    group: str
    projection: str

    @property
    def suffix(self) -> str:
        """Its path in a layer: a module's, or the parameter's where that is of three dimensions."""
        return _PLACES[self.group] + self.projection

    @property
    def path(self) -> str:
        """Its path in the model."""
        if self.group in TABLES:
            return TABLES[self.group]
        return f"model.layers.{self.layer}.{self.suffix}"

    @property
    def weight(self) -> str:
        """Its name in a state dict."""
        return self.path if self.group == "experts" else f"{self.path}.weight"

    @property
    def adapter(self) -> str:
        """The path of its adapter in an adapted model."""
        return f"{self.path}_lora" if self.group == "experts" else f"{self.path}.lora"


EMBEDDINGS, HEAD = Site(-1, "embedding", "embed_tokens"), Site(-1, "head", "lm_head")


class Adapted(NamedTuple):
    """What a site gets."""

    rank: int
    scale: float
    dropout: float = 0.0
    """In training only."""


Adapters = dict[Site, Adapted]


def sites(config: ModelConfig) -> list[Site]:
    """List every weight of a model's layers that can have an adapter, layer by layer."""
    found = []
    for layer in range(config.n_layers):
        groups = ("shared", "experts", "router") if layer in config.moe_layers else ("dense",)
        for group in ("attention", *groups):
            found += [Site(layer, group, projection) for projection in LORA_GROUPS[group]]
    return found


def shape(site: Site, config: ModelConfig) -> tuple[int, ...]:
    """Give the shape of a weight: [input, output], or [E, input, output]."""
    wide, expert = config.d_model, config.intermediate_size_expert
    if site.group in TABLES:
        pair = (wide, config.vocab_size)
        return pair if site == HEAD else pair[::-1]
    if site.group == "attention":
        heads = config.n_heads if site.projection in "q_proj o_proj" else config.n_kv_heads
        pair = (wide, heads * config.d_k)
        return pair[::-1] if site.projection == "o_proj" else pair
    if site.group == "router":
        return (wide, config.num_local_experts)
    if site.group == "experts":
        pair = (wide, 2 * expert) if site.projection == "gate_up_proj" else (expert, wide)
        return (config.num_local_experts, *pair)
    inner = {"shared": config.intermediate_size_shared, "dense": config.intermediate_size_mlp}
    pair = (wide, inner[site.group])
    return pair[::-1] if site.projection == "down_proj" else pair


def choose(lora: LoraConfig, config: ModelConfig) -> Adapters:
    """Choose the weights that a recipe asks adapters for.

    Raises:
        ConfigError: Q203 when a target, or a group of ranks or dropouts, matches nothing.
    """
    there = sites(config)
    asked = lora.targets
    if asked is None:
        asked = tuple(g for g in LORA_GROUPS if g != "router" and any(s.group == g for s in there))
    if lora.train_router:
        asked = (*asked, "router")
    for target in asked:
        if not any(_means(target, site) for site in there):
            raise ConfigError("Q203.target", target=target, known=_what_is(there))
    chosen = [site for site in there if any(_means(target, site) for target in asked)]
    for name in ("ranks", "dropouts"):
        unused = getattr(lora, name).keys() - {site.group for site in chosen}
        if unused:
            raise ConfigError("Q203.unused", name=name, groups=", ".join(sorted(unused)))
    return {site: _settings(lora, site.group) for site in chosen}


def num_learning(adapters: Adapters, config: ModelConfig) -> int:
    """Count the parameters of adapters."""
    total = 0
    for site, (rank, _, _) in adapters.items():
        *experts, wide, out = shape(site, config)
        total += math.prod(experts) * rank * (wide + out)
    return total


def _settings(lora: LoraConfig, group: str) -> Adapted:
    rank = lora.ranks.get(group, lora.rank)
    return Adapted(rank, lora.alpha / rank, lora.dropouts.get(group, lora.dropout))


def _means(target: str, site: Site) -> bool:
    return target in (site.group, site.projection, f"{site.group}.{site.projection}")


def _what_is(there: Iterable[Site]) -> str:
    """List the groups and projections that a model has."""
    groups: dict[str, list[str]] = {}
    for site in there:
        names = groups.setdefault(site.group, [])
        names += [site.projection] * (site.projection not in names)
    return "; ".join(f"{group}: {', '.join(names)}" for group, names in groups.items())
