"""Names of tensors in PEFT's weights file: which factor, or which whole weight, each one is.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight     the first factor of q_proj
    base_model.model.model.embed_tokens.lora_embedding_A               of the embeddings
    base_model.model.lm_head.weight                                    a whole weight

Reads the names of every version of PEFT: with or without the adapter's name, prefixed or not. Needs
no torch. Not for what adapter_config.json says (peft_config.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.model.targets import EMBEDDINGS, HEAD, Adapters, Site, shape, sites

_ROOT = "base_model.model."
_COMPILED = "_orig_mod."
_OF_MULTIMODAL = (("language_model.", ""), ("model.language_model.", "model."))
_FACTOR = re.compile(
    r"(.+)\.lora_(?:embedding_)?([AB])(?:\.(?!(?:weight|bias)$)(\w+))?(?:\.weight)?"
)
_WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.\w+)?)(?=\.\w+$)")
_INSIDE = ".base_layer"
_EXPERTS = re.compile(r"model\.layers\.(\d+)\.feed_forward\.experts((?:\.base_layer)*)")


@dataclass(frozen=True)
class Held:
    """What a file holds, under names that do not depend on PEFT's version."""

    factors: dict[str, str] = field(default_factory=dict)
    """Names as in `tensor_places` -> the file's names."""
    modules: dict[str, str] = field(default_factory=dict)
    """Paths of adapted modules under Llama 4's names -> under the names of the model's patterns."""
    whole: dict[str, str] = field(default_factory=dict)
    """Weights under Llama 4's names -> the file's names."""


def read_names(names: Iterable[str], dense: bool) -> Held:
    """Identify each tensor of a file.

    Args:
        names: of the tensors.
        dense: whether the base was a dense model, whose feed-forward is called mlp.

    Raises:
        CheckpointError: Q404 for a file with several adapters.
    """
    held, names = Held(), list(names)
    adapters = {found[3] or "default" for one in names if (found := _FACTOR.fullmatch(one))}
    if len(adapters) > 1:
        raise CheckpointError("Q404.several_adapters", names=", ".join(sorted(adapters)))
    for name in names:
        own = _own(name)
        found = _FACTOR.fullmatch(own)
        path = _under_llama4s_names(found[1] if found else own, dense)
        if found is None:
            place, kept = _WRAPPED.sub("", path), held.whole
        else:
            held.modules[path] = found[1]
            place, kept = _tensor(path, found[2]), held.factors
        if place in kept:
            raise CheckpointError("Q404.twice", one=kept[place], other=name)
        kept[place] = name
    return held


def _own(name: str) -> str:
    """Strip PEFT's own prefixes."""
    while name.startswith(_ROOT):
        name = name.removeprefix(_ROOT).removeprefix(_COMPILED)
    return name


def _under_llama4s_names(path: str, dense: bool) -> str:
    for prefix, ours in _OF_MULTIMODAL:
        if path.startswith(prefix):
            path = ours + path.removeprefix(prefix)
    return path.replace(".mlp.", ".feed_forward.") if dense else path


def _tensor(path: str, factor: str) -> str:
    """Name a factor as PEFT 0.21 does."""
    called = f"lora_embedding_{factor}" if path == EMBEDDINGS.path else f"lora_{factor}.weight"
    return f"{_ROOT}{path}.{called}"


def sites_in(
    held: Held, shapes: Mapping[str, tuple[int, ...]], config: ModelConfig
) -> dict[Site, str]:
    """Find the weights that a file adapts, and the key that PEFT's patterns match for each.

    Paths of no known weight are left out. Shapes tell the two parameters of experts apart.

    Args:
        held: the names.
        shapes: of the file's tensors, by its own names.
        config: of the base.
    """
    there = [*sites(config), EMBEDDINGS, HEAD]
    by_path = {site.path: site for site in there if site.group != "experts"}
    found = {
        site: f"{key}.weight" if site.group == "router" else key
        for path, key in held.modules.items()
        if (site := by_path.get(path)) is not None
    }
    for path, key in held.modules.items():
        if match := _EXPERTS.fullmatch(path):
            inner = path + _INSIDE in held.modules
            tensor = held.factors.get(_tensor(path, "B"), "")
            wide = shapes[tensor][0] if shapes.get(tensor) else 0
            gated = bool(match[2]) or (not inner and wide == config.d_model)
            site = Site(int(match[1]), "experts", "gate_up_proj" if gated else "down_proj")
            found[site] = f"{key.replace(_INSIDE, '')}.{site.projection}"
    return {site: found[site] for site in there if site in found}


def tensor_places(adapters: Adapters) -> dict[str, tuple[Site, str]]:
    """Name the tensors of PEFT's file: which factor of which weight each one holds.

    A module with two adapted parameters is wrapped twice, with its first parameter inside. For
    experts, the tensor called A holds the second factor: PEFT assumes that an expert's matrix is
    stored with the output first, which is not so in Llama 4.
    """
    places = {}
    for site in adapters:
        path = site.path
        if site.group == "experts":
            path = path.rpartition(".")[0]
            outer = Site(site.layer, "experts", "down_proj")
            path += _INSIDE * (site != outer and outer in adapters)
        for factor in "AB":
            called = {"A": "B", "B": "A"}[factor] if site.group == "experts" else factor
            places[_tensor(path, called)] = (site, factor)
    return places


def tensor_shape(site: Site, factor: str, rank: int, config: ModelConfig) -> tuple[int, int]:
    """Give the shape of a tensor of PEFT's file: [K, I] and [O, K], of experts [I, KE], [EK, O]."""
    *groups, wide, out = shape(site, config)
    if site.group == "experts":
        (experts,) = groups
        return (wide, rank * experts) if factor == "A" else (experts * rank, out)
    return (rank, wide) if factor == "A" else (out, rank)
