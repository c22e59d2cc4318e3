"""PEFT directories to adapted models and back.

Not for what the configuration says (peft_config.py), nor for merging (lora.py, hub/adapter.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.model.hf_config import DENSE_TYPES
from quatrain.model.llama import LlamaModel
from quatrain.model.locate import model_type_of
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.peft_config import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    adapters_of,
    of_dense_names,
    read_fields,
    tensor_places,
    tensor_shape,
    to_dense_names,
    to_peft,
)
from quatrain.model.rope import deinterleave, interleave
from quatrain.model.shards import LazyTensor, check_tensors, notes_of, open_file, write_file
from quatrain.model.targets import Adapters, Site

_OF_MULTIMODAL = "base_model.model.language_model."
_TRAINED_ON, _LLAMA4 = "model_type", "llama4_text"
"""What adapter_model.safetensors says of its base besides its tensors, where it was written here:
names and order of rows follow from it."""
_ROTATED = ("q_proj", "k_proj")
Order = Callable[[Tensor, int], Tensor]

Factors = dict[tuple[Site, str], LazyTensor]
"""A and B of each adapted weight."""


def load_adapter(model: LlamaModel, directory: Path) -> None:
    """Give a model the adapters of a directory, in the dtypes of the weights they are added to.

    Raises:
        CheckpointError: Q401 for files, Q404 for tensors, Q415 for the configuration.
    """
    adapters, factors = read_adapter(directory, model.config)
    add_adapters(model, adapters)
    place_adapters(model, factors)
    model.base = read_fields(directory)[BASE]


def read_adapter(
    directory: Path, config: ModelConfig, of_dense: bool = False
) -> tuple[Adapters, Factors]:
    """Read a directory: which weights it adapts, and its factors in Llama 4's order of rows.

    An adapter that was trained on a dense Llama has other names, and its rows of q and k stand in
    another order (hub/dense.py).

    Args:
        directory: what PEFT writes.
        config: of the base.
        of_dense: whether the base at hand is a dense directory: an adapter that does not tell what
            it was trained on is then of that.

    Raises:
        CheckpointError: Q401 for files, Q404 for tensors, Q415 for the configuration, or where its
            rows may stand in either order.
    """
    fields, given = read_fields(directory), _open(directory)
    dense = _was_trained_on_dense(directory, fields, given)
    if dense is None and of_dense:
        dense = True
    if dense:
        fields = of_dense_names(fields)
        given = {name.replace(".mlp.", ".feed_forward."): one for name, one in given.items()}
    adapters = adapters_of(fields, config)
    if dense is None and _has_an_order(adapters, config):
        raise CheckpointError("Q415.order", directory=directory, named=fields[BASE])
    factors = _factors_of(given, adapters, config)
    return adapters, {place: _in_order(place, one, config, interleave) if dense else one
                      for place, one in factors.items()}  # fmt: skip


def _was_trained_on_dense(
    directory: Path, fields: dict[str, Any], given: dict[str, LazyTensor]
) -> bool | None:
    """Find out by what was written, by the names of tensors, by the base; None where all fail."""
    said = notes_of(directory / ADAPTER_WEIGHTS).get(_TRAINED_ON)
    for dense, part in ((True, ".mlp."), (False, ".feed_forward.")):
        if said is None and any(part in name for name in given):
            return dense
    kind = said or model_type_of(fields[BASE])
    return kind in DENSE_TYPES if kind in (*DENSE_TYPES, "llama4", _LLAMA4) else None


def _has_an_order(adapters: Adapters, config: ModelConfig) -> bool:
    """Whether the base may once have been dense, and rows that changed places are adapted."""
    alike = all(config.rope_layers) or config.attention_chunk_size is None
    from_dense = alike and not config.use_qk_norm
    return from_dense and any(_is_turned(site, config) for site in adapters)


def _is_turned(site: Site, config: ModelConfig) -> bool:
    return site.projection in _ROTATED and bool(config.rope_layers[site.layer])


def _in_order(
    place: tuple[Site, str], factor: LazyTensor, config: ModelConfig, order: Order
) -> LazyTensor:
    """Reorder the outputs of a second factor [K, O] of q or k under RoPE; leave any other."""
    site, which = place
    if which == "A" or not _is_turned(site, config):
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


def _factors_of(given: dict[str, LazyTensor], adapters: Adapters, config: ModelConfig) -> Factors:
    """List factors as `LowRank` has them; none is read yet.

    Raises:
        CheckpointError: Q404 for tensors that are not those of the configuration; a reading raises
            it for what is no finite number.
    """
    places = tensor_places(adapters)
    wanted = {
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
    return {
        name.replace(_OF_MULTIMODAL, "base_model.model.", 1): tensor
        for name, tensor in open_file(path).items()
    }


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


def write_adapter(model: LlamaModel, directory: Path) -> None:
    """Write an adapted model's adapters as a PEFT directory; its base is named, not written."""
    assert model.base is not None
    factors = {
        (site, factor): LazyTensor.of(lora_at(model, site).get_parameter(factor).detach())
        for site in model.adapters
        for factor in "AB"
    }
    write_factors(model.adapters, factors, model.config, model.base, directory)


def write_factors(
    adapters: Adapters,
    factors: Factors,
    config: ModelConfig,
    base: str,
    directory: Path,
    model_type: str = _LLAMA4,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors; the directory may be new.

    Args:
        adapters: which weights have adapters.
        factors: as `LowRank` has them.
        config: of the base.
        base: where it lies.
        directory: where to.
        model_type: of the base; a dense one's names and order of rows are written for it.
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
    write_file(directory / ADAPTER_WEIGHTS, tensors, {_TRAINED_ON: model_type})
