"""PEFT's spelling of an adapter: adapter_config.json to Adapters and back.

Writes what PEFT 0.21 reads. Checks every field that it reads, and refuses by name whatever would be
another function. The weights file determines which weights are adapted; fields that select weights
must not contradict it. Needs no torch. Not for the names of tensors (peft_names.py), nor for the
tensors themselves (adapter.py).
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.model.hf_config import read_json
from quatrain.model.targets import Adapted, Adapters, Site, sites
from quatrain.words import Sentence

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"
_PARAMETERS = ("experts", "router")
"""Groups that PEFT names by parameter (target_parameters), not by module."""
_LARGEST_RANK, _LARGEST_ALPHA = 2**12, 2**20
_INITS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights unchanged."""
_BIASES = ("none", "all", "lora_only")
_READ = {
    BASE, "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules",
    "target_parameters", "use_rslora", "bias", "init_lora_weights", "revision", "exclude_modules",
    "layers_to_transform", "layers_pattern", "modules_to_save", "use_dora", "lora_bias",
}  # fmt: skip
_HARMLESS = {
    "task_type", "peft_version", "inference_mode", "auto_mapping", "lora_dropout", "megatron_core",
    "qalora_group_size", "eva_config", "runtime_config",
}  # fmt: skip
"""Fields that do not change what a saved adapter computes; any other one must be empty."""
_FEED_FORWARD = re.compile(r"(^|[.^])feed_forward\.")
"""Where a dense Llama's names differ from Llama 4's."""
_REPETITION, _UNSAFE = re.compile(r"[*+{]"), re.compile(r"\)[*+{]|\\[1-9]|\(\?[^:]")
_LONGEST_PATTERN, _MOST_REPETITIONS = 200, 2


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
    for name in ("use_dora", "lora_bias"):
        if fields.get(name):
            raise _refused(name, fields[name], "rules.adapter.merge")
    if (bias := fields.get("bias", "none")) not in _BIASES:
        raise _refused("bias", bias, "rules.adapter.biases", known=", ".join(_BIASES))
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
    """Build the error for a refused field, with its rule of the catalogue."""
    shown, remedy = repr(value)[:200], Sentence.of(rule, **values)
    return CheckpointError("Q415.field", file=ADAPTER_CONFIG, name=name, shown=shown, remedy=remedy)


def _as_dense(name: str) -> str:
    return _FEED_FORWARD.sub(r"\1mlp.", name)


def to_dense_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Spell an adapter_config.json as one of a dense model, whose feed-forward is called mlp."""
    return {
        **fields,
        "target_modules": sorted(map(_as_dense, fields["target_modules"])),
        **{
            name: {_as_dense(key): one for key, one in fields[name].items()}
            for name in ("rank_pattern", "alpha_pattern")
        },
    }


def adapters_of(fields: Mapping[str, Any], found: Mapping[Site, str]) -> Adapters:
    """Find the rank and the scale of each adapted weight.

    Args:
        fields: of adapter_config.json.
        found: the weights, and the key that PEFT's patterns match for each.

    Raises:
        CheckpointError: Q415 for an impossible value.
    """
    adapters = {}
    for site, key in found.items():
        rank = _pattern(fields, "rank_pattern", key, fields.get("r"))
        alpha = _pattern(fields, "alpha_pattern", key, fields.get("lora_alpha"))
        if type(rank) is not int or not 1 <= rank <= _LARGEST_RANK:
            raise _refused("r", rank, "rules.adapter.rank", most=_LARGEST_RANK)
        if type(alpha) not in (int, float) or not abs(alpha) <= _LARGEST_ALPHA:
            raise _refused("lora_alpha", alpha, "rules.adapter.alpha", most=_LARGEST_ALPHA)
        by = math.sqrt(rank) if fields.get("use_rslora") else rank
        adapters[site] = Adapted(rank, alpha / by)
    return adapters


def refuse_contradictions(
    fields: Mapping[str, Any], found: Mapping[Site, str], whole: Iterable[str]
) -> None:
    """Refuse an adapter_config.json that contradicts the weights file.

    Patterns are not compared: an untrusted pattern is never run.

    Args:
        fields: of adapter_config.json.
        found: the weights that the file adapts, and PEFT's key of each.
        whole: the weights that the file holds as a whole.

    Raises:
        CheckpointError: Q415 naming the field.
    """
    if not found:
        raise _refused("target_modules", fields.get("target_modules"), "rules.adapter.some")
    parameters = {key for site, key in found.items() if site.group in _PARAMETERS}
    modules = {key.removesuffix(".weight") for key in found.values()}
    named = [*_meant(fields, "target_modules", modules),
             *_meant(fields, "target_parameters", parameters)]  # fmt: skip
    targets, excluded = fields.get("target_modules"), fields.get("exclude_modules")
    for site, key in found.items():
        if isinstance(targets, list) and not {key, key.removesuffix(".weight")} & set(named):
            raise _refused("target_modules", targets, "rules.adapter.not_meant", path=key)
        if isinstance(excluded, list) and any(_ends(key, str(one)) for one in excluded):
            raise _refused("exclude_modules", excluded, "rules.adapter.not_meant", path=key)
        if site.layer >= 0:
            _refuse_another_layer(fields.get("layers_to_transform"), site.layer, key)
    _meant(fields, "modules_to_save", {name.rpartition(".")[0] for name in whole})


def _refuse_another_layer(layers: Any, layer: int, key: str) -> None:
    name = "layers_to_transform"
    if layers is None:
        return
    each = [layers] if type(layers) is int else layers
    if not isinstance(each, list) or not all(type(one) is int for one in each):
        raise _refused(name, layers, "rules.adapter.layers")
    if layer not in each:
        raise _refused(name, layers, "rules.adapter.not_meant", path=key)


def _meant(fields: Mapping[str, Any], name: str, there: Iterable[str]) -> list[str]:
    """Find the weights that a list of names selects; a name is the end of a path, as in PEFT."""
    names, meant = fields.get(name) or [], list[str]()
    if name == "target_modules" and isinstance(names, str):
        return meant
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise _refused(name, names, "rules.adapter.names")
    for one in names:
        ends = [key for key in there if _ends(key, one)]
        if not ends and not (name == "target_modules" and fields.get("exclude_modules")):
            raise _refused(name, one, "rules.adapter.no_weight")
        meant += ends
    return meant


def _pattern(fields: Mapping[str, Any], name: str, path: str, default: Any) -> Any:
    """Take the value of the first pattern that matches a weight, as PEFT does."""
    patterns = fields.get(name) or {}
    if not isinstance(patterns, dict):
        raise _refused(name, patterns, "rules.adapter.patterns")
    for key, value in patterns.items():
        if _compiled(name, key).match(path):
            return value
    return default


@functools.cache
def _compiled(name: str, key: str) -> re.Pattern[str]:
    """Compile a pattern that cannot run for ever: short, few repetitions, no repeated group.

    Raises:
        CheckpointError: Q415 for any other pattern.
    """
    repeated = len(_REPETITION.findall(key))
    if len(key) > _LONGEST_PATTERN or repeated > _MOST_REPETITIONS or _UNSAFE.search(key):
        raise _refused(name, key, "rules.adapter.pattern")
    try:
        return re.compile(rf"(?:.*\.)?(?:{key})$")
    except (re.error, OverflowError):
        raise _refused(name, key, "rules.adapter.pattern") from None


def _key(site: Site) -> str:
    """Give the path by which PEFT matches a weight: a module's, or the parameter's."""
    return site.weight if site.group in _PARAMETERS else site.path


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def to_peft(adapters: Adapters, config: ModelConfig, base: str) -> dict[str, Any]:
    """Spell adapters as PEFT does, with dropout 0, which PEFT requires for experts.

    r is the rank of the parameters' adapters, if there are any: PEFT 0.21 warns of patterns that
    name a parameter, though it obeys them.
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
    """Name weights by their place in a layer if every layer is meant, else by their path."""
    chosen, names = set(chosen), set()
    for site in chosen:
        alike = {one for one in there if one.suffix == site.suffix}
        place = _key(site).removeprefix(f"model.layers.{site.layer}.")
        names.add(place if alike <= chosen else _key(site))
    return names


def _patterns(values: Mapping[Site, Any], there: list[Site]) -> dict[str, Any]:
    """Write the values of weights as patterns, one for each place where all layers agree."""
    patterns: dict[str, Any] = {}
    for value in sorted(set(values.values())):
        meant = [site for site, one in values.items() if one == value]
        patterns |= dict.fromkeys(sorted(_short(meant, there)), value)
    return patterns


def _plain(number: float) -> int | float:
    """Write a whole number without a decimal point."""
    return int(number) if float(number).is_integer() else number
