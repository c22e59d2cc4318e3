"""PEFT directories to adapted models and back.

Not for what the configuration says (peft_config.py), nor for a model in memory (lora.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.model.hf_config import DENSE_TYPES
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import model_type_of
from quatrain.model.lora import add_adapters, lora_at, with_delta
from quatrain.model.peft_config import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    adapters_of,
    read_fields,
    refuse_contradictions,
    to_dense_names,
    to_peft,
)
from quatrain.model.peft_names import read_names, sites_in, tensor_places, tensor_shape
from quatrain.model.rope import deinterleave, interleave
from quatrain.model.shards import LazyTensor, check_tensors, notes_of, open_file, write_file
from quatrain.model.targets import EMBEDDINGS, HEAD, TABLES, Adapters, Site

_TRAINED_ON, LLAMA4 = "model_type", "llama4_text"
"""Metadata of an adapter_model.safetensors written here: the model type of its base, from which the
names and the order of rows follow."""
_QUANTISED = "quantize"
"""Likewise: the kind in which the base's weights were held; absent where they were as in its file.
"""
_ROTATED = re.compile(r"model\.layers\.(\d+)\.self_attn\.[qk]_proj\.(?:weight|bias)")
Order = Callable[[Tensor, int], Tensor]

Factors = dict[tuple[Site, str], LazyTensor]
"""A and B of each adapted weight."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter's directory holds, in Llama 4's names and order of rows; none is read yet."""

    adapters: Adapters
    factors: Factors
    whole: dict[str, LazyTensor]
    """Weights that replace those of the base, by name."""

    @property
    def beyond(self) -> list[str]:
        """Name the changed weights that are not adapted weights of layers: these are merged."""
        return [*self.whole, *(site.weight for site in self.adapters if site.group in TABLES)]


def load_adapter(model: LlamaModel, adapter: Adapter, base: str) -> None:
    """Add adapters to a model, in the dtypes of the weights that they adapt.

    Args:
        model: the base.
        adapter: one that changes only weights of layers.
        base: the base that it names.
    """
    assert not adapter.beyond
    add_adapters(model, adapter.adapters)
    place_adapters(model, adapter.factors)
    model.base = base


def merged(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], adapter: Adapter
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Merge an adapter into its base; weights with low-rank adapters become float32.

    A tied head is untied where the head or the embeddings are changed.
    """
    result, changed = dict(tensors), {EMBEDDINGS.weight, HEAD.weight} & {*adapter.beyond}
    if config.tie_word_embeddings and changed:
        config = config.replace(tie_word_embeddings=False)
        result[HEAD.weight] = tensors[EMBEDDINGS.weight]
    for name, tensor in adapter.whole.items():
        result[name] = tensor.to(result[name].dtype, name)
    for site, adapted in adapter.adapters.items():
        weight, a, b = result[site.weight], adapter.factors[site, "A"], adapter.factors[site, "B"]
        load = partial(_with_product, weight, a, b, adapted.scale, site)
        result[site.weight] = LazyTensor(weight.shape, torch.float32, load)
    return config, result


def _with_product(
    weight: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, site: Site
) -> Tensor:
    return with_delta(weight.load(), a.load().float() @ b.load().float() * scale, site)


def read_adapter(directory: Path, config: ModelConfig, of_dense: bool = False) -> Adapter:
    """Read which weights a directory adapts, and its factors in Llama 4's order of rows.

    An adapter trained on a dense Llama has other names, and another order of rows of q and k
    (hub/dense.py).

    Args:
        directory: a PEFT directory.
        config: of the base.
        of_dense: whether the given base is a dense directory; an adapter that does not record its
            base is then assumed to be dense too.

    Raises:
        CheckpointError: Q401 for files, Q404 for tensors, Q415 for the configuration, or where the
            order of rows cannot be determined.
    """
    fields, given = read_fields(directory), _open(directory)
    dense = _was_trained_on_dense(directory, fields, given)
    if dense is None and of_dense:
        dense = True
    held = read_names(given, bool(dense))
    found = sites_in(held, {name: one.shape for name, one in given.items()}, config)
    known = _weights_of(config)
    whole = {name: given[theirs] for name, theirs in held.whole.items() if name in known}
    refuse_contradictions(fields, found, whole)
    adapters = adapters_of(fields, found)
    if dense is None and _has_an_order([site.weight for site in adapters] + [*whole], config):
        raise CheckpointError("Q415.order", directory=directory, named=fields[BASE])
    tensors = {ours: given[theirs] for ours, theirs in (held.factors | held.whole).items()}
    factors = _factors_of(tensors, adapters, config, {name: known[name] for name in whole})
    whole = {name: one.finite(name) for name, one in whole.items()}
    if dense:
        factors = {place: _in_order(place, one, config, interleave)
                   for place, one in factors.items()}  # fmt: skip
        whole = {name: one.map(partial(interleave, d_k=config.d_k)) if _is_turned(name, config)
                 else one for name, one in whole.items()}  # fmt: skip
    return Adapter(adapters, factors, whole)


def quantised_base(directory: Path) -> str | None:
    """Say in which kind an adapter's base was held when it was trained here, if in another one."""
    path = directory / ADAPTER_WEIGHTS
    return notes_of(path).get(_QUANTISED) if path.is_file() else None


def _weights_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """List the shapes of a model's weights."""
    with torch.device("meta"):
        return {name: tuple(one.shape) for name, one in LlamaModel(config).state_dict().items()}


def _was_trained_on_dense(
    directory: Path, fields: dict[str, Any], given: dict[str, LazyTensor]
) -> bool | None:
    """Decide by the metadata, the names of tensors, or the base; None where none of them tells."""
    said = notes_of(directory / ADAPTER_WEIGHTS).get(_TRAINED_ON)
    for dense, part in ((True, ".mlp."), (False, ".feed_forward.")):
        if said is None and any(part in name for name in given):
            return dense
    kind = said or model_type_of(fields[BASE])
    return kind in DENSE_TYPES if kind in (*DENSE_TYPES, "llama4", LLAMA4) else None


def _has_an_order(weights: Iterable[str], config: ModelConfig) -> bool:
    """Whether the base may have been dense, and weights whose rows were reordered are adapted."""
    alike = all(config.rope_layers) or config.attention_chunk_size is None
    return alike and not config.use_qk_norm and any(_is_turned(one, config) for one in weights)


def _is_turned(weight: str, config: ModelConfig) -> bool:
    """Whether RoPE rotates the output of a weight or a bias."""
    found = _ROTATED.fullmatch(weight)
    return found is not None and bool(config.rope_layers[int(found[1])])


def _in_order(
    place: tuple[Site, str], factor: LazyTensor, config: ModelConfig, order: Order
) -> LazyTensor:
    """Reorder the outputs of a second factor [K, O] of q or k under RoPE; leave any other."""
    site, which = place
    if which == "A" or not _is_turned(site.weight, config):
        return factor
    return factor.map(lambda tensor: order(tensor.T, config.d_k).T)


def place_adapters(model: LlamaModel, tensors: Factors) -> None:
    """Read factors into a model that has adapters for them."""
    for (site, factor), tensor in tensors.items():
        parameter = lora_at(model, site).get_parameter(factor)
        parameter.data.copy_(tensor.load())


def adapter_tensors(directory: Path, adapters: Adapters, config: ModelConfig) -> Factors:
    """List the factors of a directory that was written here; none is read yet.

    Raises:
        CheckpointError: Q401 for files that are missing, unsafe or broken, Q404 for tensors.
    """
    return _factors_of(_open(directory), adapters, config)


def _factors_of(
    given: dict[str, LazyTensor],
    adapters: Adapters,
    config: ModelConfig,
    whole: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Factors:
    """List factors as `LowRank` has them; none is read yet.

    Args:
        given: by the names of `tensor_places`, and whole weights by theirs.
        adapters: which weights have adapters.
        config: of the base.
        whole: shapes of the weights that are there whole.

    Raises:
        CheckpointError: Q404 for tensors that do not match the configuration; reading a tensor that
            is not finite raises it too.
    """
    places = tensor_places(adapters)
    wanted = dict(whole) | {
        name: tensor_shape(site, factor, adapters[site].rank, config)
        for name, (site, factor) in places.items()
    }
    check_tensors(wanted, given, ADAPTER_CONFIG)
    return {
        place: given[name].finite(name).map(partial(_from_file, *place, adapters[place[0]].rank))
        for name, place in places.items()
    }


def _open(directory: Path) -> dict[str, LazyTensor]:
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        key = "Q401.pickled_adapter" if list(directory.glob("*.bin")) else "Q401.no_adapter"
        raise CheckpointError(key, directory=directory, file=ADAPTER_WEIGHTS)
    return open_file(path)


def _from_file(site: Site, factor: str, rank: int, tensor: Tensor) -> Tensor:
    """Turn a tensor of PEFT's file into a factor [I, K], [K, O], [E, I, K] or [E, K, O]."""
    if site.group != "experts":
        return tensor.T
    axis, parts = (1, (rank, -1)) if factor == "A" else (0, (-1, rank))
    whole: Tensor = tensor.unflatten(axis, parts)
    return whole.permute(2, 0, 1) if factor == "A" else whole


def _to_file(site: Site, factor: str, tensor: Tensor) -> Tensor:
    """Undo `_from_file`."""
    if site.group != "experts":
        return tensor.T
    return tensor.permute(1, 2, 0).flatten(1) if factor == "A" else tensor.flatten(0, 1)


Whole = Callable[[str, Tensor], LazyTensor]
"""Gives a weight by its name in the model, and as the model holds it."""


def held(_: str, tensor: Tensor) -> LazyTensor:
    """Give a weight that the model holds whole."""
    return LazyTensor.of(tensor)


def write_adapter(model: LlamaModel, directory: Path, whole: Whole = held) -> None:
    """Write an adapted model's adapters as a PEFT directory; its base is named, not written."""
    assert model.base is not None
    factors = {
        (site, factor): whole(
            f"{site.adapter}.{factor}", lora_at(model, site).get_parameter(factor).detach()
        )
        for site in model.adapters
        for factor in "AB"
    }
    notes = {_QUANTISED: model.quantised} if model.quantised else {}
    write_factors(model.adapters, factors, model.config, model.base, directory, notes=notes)


def write_factors(
    adapters: Adapters,
    factors: Factors,
    config: ModelConfig,
    base: str,
    directory: Path,
    model_type: str = LLAMA4,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write adapter_config.json and adapter_model.safetensors; the directory may be new.

    Args:
        adapters: which weights have adapters.
        factors: as `LowRank` has them.
        config: of the base.
        base: its path or Hub id.
        directory: to write to.
        model_type: of the base; for a dense one, its names and order of rows are written.
        notes: further metadata.
    """
    fields, places = to_peft(adapters, config, base), tensor_places(adapters)
    if model_type in DENSE_TYPES:
        fields = to_dense_names(fields)
        places = {name.replace(".feed_forward.", ".mlp."): one for name, one in places.items()}
        factors = {
            place: _in_order(place, one, config, deinterleave) for place, one in factors.items()
        }
    tensors = {
        name: factors[place].map(partial(_to_file, *place)) for name, place in places.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / ADAPTER_CONFIG, fields)
    write_file(directory / ADAPTER_WEIGHTS, tensors, {_TRAINED_ON: model_type, **notes})
