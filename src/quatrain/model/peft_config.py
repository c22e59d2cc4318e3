"""PEFT's spelling of an adapter: adapter_config.json to Adapters and back, and its tensors' names.

What is written is what PEFT 0.21 reads; what is read is checked field by field, and anything that
would be another function is refused by its name. Needs no torch. Not for the tensors themselves
(adapter.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.model.hf_config import read_json
from quatrain.model.targets import Adapted, Adapters, Site, shape, sites
from quatrain.words import Sentence

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"
_PARAMETERS = ("experts", "router")
"""Groups that PEFT names by parameter (target_parameters), not by module."""
_ROOT = "base_model.model."
_LARGEST_RANK, _LARGEST_ALPHA = 2**12, 2**20
_INITS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")
"""Ways to draw an adapter that leave the base as it is."""
_READ = {
    BASE, "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules",
    "target_parameters", "use_rslora", "bias", "init_lora_weights", "revision",
}  # fmt: skip
_HARMLESS = {
    "task_type", "peft_version", "inference_mode", "auto_mapping", "lora_dropout", "megatron_core",
    "qalora_group_size", "eva_config", "runtime_config",
}  # fmt: skip
"""Fields that do not bear on what a saved adapter computes; any further one must be empty."""
_MLP, _FEED_FORWARD = (re.compile(rf"(^|[.^]){one}\.") for one in ("mlp", "feed_forward"))
"""Where a dense Llama's names differ from Llama 4's."""
_LITERAL = re.compile(r"\^?[\w.]+")


def read_fields(directory: Path) -> dict[str, Any]:
    """Read an adapter_config.json, and refuse what is not plain LoRA.

    Raises:
        CheckpointError: Q401 when it cannot be read, Q415 naming the field that is refused.
    """
    fields = read_json(directory / ADAPTER_CONFIG)
    if fields.get("peft_type") != "LORA":
        raise _refused("peft_type", fields.get("peft_type"), "rules.adapter.lora")
    for name, value in fields.items():
        if name not in _READ | _HARMLESS and value:
            raise _refused(name, value, "rules.adapter.without")
    if fields.get("bias", "none") != "none":
        raise _refused("bias", fields["bias"], "rules.adapter.biases")
    if fields.get("revision") not in (None, "main"):
        raise _refused("revision", fields["revision"], "rules.adapter.revision", field=BASE)
    init = fields.get("init_lora_weights", True)
    if not any(init is one or init == one for one in _INITS):
        raise _refused("init_lora_weights", init, "rules.adapter.init")
    if not isinstance(fields.get("use_rslora", False), bool | None):
        raise _refused("use_rslora", fields["use_rslora"], "rules.adapter.truth")
    base = fields.get(BASE)
    if not isinstance(base, str) or not base:
        raise _refused(BASE, base, "rules.adapter.base")
    return fields


def _refused(name: str, value: Any, rule: str, **values: object) -> CheckpointError:
    """Say which field is refused, and the rule of the catalogue by which it is."""
    shown, remedy = repr(value)[:200], Sentence.of(rule, **values)
    return CheckpointError("Q415.field", file=ADAPTER_CONFIG, name=name, shown=shown, remedy=remedy)


def of_dense_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the names of a dense Llama's weights in an adapter_config.json as Llama 4's."""
    changed = dict(fields)
    for name in ("target_modules", "rank_pattern", "alpha_pattern"):
        value = fields.get(name)
        if isinstance(value, list):
            changed[name] = [_as_llama4(one) if isinstance(one, str) else one for one in value]
        elif isinstance(value, dict):
            changed[name] = {_as_llama4(key): one for key, one in value.items()}
    return changed


def _as_llama4(name: str) -> str:
    return _MLP.sub(r"\1feed_forward.", name)


def _as_dense(name: str) -> str:
    return _FEED_FORWARD.sub(r"\1mlp.", name)


def to_dense_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `of_dense_names`."""
    return {
        **fields,
        "target_modules": sorted(map(_as_dense, fields["target_modules"])),
        **{
            name: {_as_dense(key): one for key, one in fields[name].items()}
            for name in ("rank_pattern", "alpha_pattern")
        },
    }


def adapters_of(fields: Mapping[str, Any], config: ModelConfig) -> Adapters:
    """Match an adapter_config.json with a model: which weights it adapts, by what rank and scale.

    Raises:
        CheckpointError: Q415 for a target that the model lacks, or a value that none can have.
    """
    there = sites(config)
    modules = _named(fields, "target_modules", [s for s in there if s.group not in _PARAMETERS])
    parameters = _named(fields, "target_parameters", [s for s in there if s.group in _PARAMETERS])
    chosen = [site for site in there if site in modules | parameters]
    if not chosen:
        raise _refused("target_modules", fields.get("target_modules"), "rules.adapter.some")
    adapters = {}
    for site in chosen:
        rank = _pattern(fields, "rank_pattern", site, fields.get("r"))
        alpha = _pattern(fields, "alpha_pattern", site, fields.get("lora_alpha"))
        if type(rank) is not int or not 1 <= rank <= _LARGEST_RANK:
            raise _refused("r", rank, "rules.adapter.rank", most=_LARGEST_RANK)
        if type(alpha) not in (int, float) or not abs(alpha) <= _LARGEST_ALPHA:
            raise _refused("lora_alpha", alpha, "rules.adapter.alpha", most=_LARGEST_ALPHA)
        by = math.sqrt(rank) if fields.get("use_rslora") else rank
        adapters[site] = Adapted(rank, alpha / by)
    return adapters


def _named(fields: Mapping[str, Any], name: str, there: list[Site]) -> set[Site]:
    """Find the weights that a list of names means; a name is a path's end, as in PEFT."""
    names = fields.get(name) or []
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise _refused(name, names, "rules.adapter.names")
    found = set()
    for one in names:
        meant = {site for site in there if _ends(_key(site), one)}
        if not meant:
            raise _refused(name, one, "rules.adapter.no_weight")
        found |= meant
    return found


def _pattern(fields: Mapping[str, Any], name: str, site: Site, default: Any) -> Any:
    """Take the value of the first pattern that means a weight, as PEFT does."""
    patterns = fields.get(name) or {}
    if not isinstance(patterns, dict):
        raise _refused(name, patterns, "rules.adapter.patterns")
    for key, value in patterns.items():
        if not _LITERAL.fullmatch(key):
            raise _refused(name, key, "rules.adapter.literal")
        path = _key(site)
        if path == key[1:] if key.startswith("^") else _ends(path, key):
            return value
    return default


def _key(site: Site) -> str:
    """Give the path by which PEFT matches a weight: a module's, or the parameter's."""
    return site.weight if site.group in _PARAMETERS else site.path


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def to_peft(adapters: Adapters, config: ModelConfig, base: str) -> dict[str, Any]:
    """Spell adapters as PEFT does; dropout is left at 0, which PEFT asks for where experts are.

    r is the rank of the parameters' adapters, where there are any: PEFT 0.21 warns of a pattern
    that names a parameter, though it obeys it.
    """
    there = sites(config)
    alphas = {site: one.rank * one.scale for site, one in adapters.items()}
    first = [site for site in adapters if site.group in _PARAMETERS] or list(adapters)
    rank = Counter(adapters[site].rank for site in first).most_common(1)[0][0]
    alpha = Counter(alphas[site] for site in first).most_common(1)[0][0]
    ranks = {site: one.rank for site, one in adapters.items() if one.rank != rank}
    scales = {site: one for site, one in alphas.items() if not math.isclose(one, alpha)}
    modules = [site for site in adapters if site.group not in _PARAMETERS]
    parameters = [site for site in adapters if site.group in _PARAMETERS]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        BASE: base,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "target_modules": sorted(_short(modules, there)),
        "target_parameters": sorted(_short(parameters, there)) or None,
        "rank_pattern": _patterns(ranks, there),
        "alpha_pattern": {key: _plain(one) for key, one in _patterns(scales, there).items()},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _short(chosen: Iterable[Site], there: list[Site]) -> set[str]:
    """Name weights by their place in a layer where every layer's is meant, else by their path."""
    chosen, names = set(chosen), set()
    for site in chosen:
        alike = {one for one in there if one.suffix == site.suffix}
        place = _key(site).removeprefix(f"model.layers.{site.layer}.")
        names.add(place if alike <= chosen else _key(site))
    return names


def _patterns(values: Mapping[Site, Any], there: list[Site]) -> dict[str, Any]:
    """Write the values of weights as patterns, one a place where all layers agree."""
    patterns: dict[str, Any] = {}
    for value in sorted(set(values.values())):
        meant = [site for site, one in values.items() if one == value]
        patterns |= dict.fromkeys(sorted(_short(meant, there)), value)
    return patterns


def _plain(number: float) -> int | float:
    """Write a whole number without its point."""
    return int(number) if float(number).is_integer() else number


def tensor_places(adapters: Adapters) -> dict[str, tuple[Site, str]]:
    """Name the tensors of PEFT's file: which factor of which weight each one holds.

    A module with two adapted parameters is wrapped twice, its first parameter inside. A tensor of
    experts is called A where the product's second factor lies in it: PEFT takes an expert's matrix
    for one that is stored output first, which Llama 4's are not.
    """
    places = {}
    for site in adapters:
        path = site.path
        if site.group == "experts":
            path = path.rpartition(".")[0]
            outer = Site(site.layer, "experts", "down_proj")
            path += ".base_layer" * (site != outer and outer in adapters)
        for factor in "AB":
            called = {"A": "B", "B": "A"}[factor] if site.group == "experts" else factor
            places[f"{_ROOT}{path}.lora_{called}.weight"] = (site, factor)
    return places


def tensor_shape(site: Site, factor: str, rank: int, config: ModelConfig) -> tuple[int, int]:
    """Give the shape of a tensor of PEFT's file: [K, I] and [O, K], of experts [I, KE], [EK, O]."""
    *groups, wide, out = shape(site, config)
    if site.group == "experts":
        (experts,) = groups
        return (wide, rank * experts) if factor == "A" else (experts * rank, out)
    return (rank, wide) if factor == "A" else (out, rank)
