"""PEFT directories to adapted models and back.

Not for what the configuration says (peft_config.py), nor for merging (lora.py, hub/adapter.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.errors import CheckpointError
from quatrain.files import write_json
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters, lora_at
from quatrain.model.peft_config import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE,
    adapters_of,
    read_fields,
    tensor_places,
    tensor_shape,
    to_peft,
)
from quatrain.model.shards import LazyTensor, check_tensors, open_file, write_file
from quatrain.model.targets import Adapters, Site

_OF_MULTIMODAL = "base_model.model.language_model."


Factors = dict[tuple[Site, str], LazyTensor]
"""A and B of each adapted weight."""


def load_adapter(model: LlamaModel, directory: Path) -> None:
    """Give a model the adapters of a directory, in the dtypes of the weights they are added to.

    Raises:
        CheckpointError: Q401 for files, Q404 for tensors, Q415 for the configuration.
    """
    fields = read_fields(directory)
    adapters = adapters_of(fields, model.config)
    tensors = adapter_tensors(directory, adapters, model.config)
    add_adapters(model, adapters)
    place_adapters(model, tensors)
    model.base = fields[BASE]


def place_adapters(model: LlamaModel, tensors: Factors) -> None:
    """Read factors into a model that has adapters for them."""
    for (site, factor), tensor in tensors.items():
        parameter = lora_at(model, site).get_parameter(factor)
        parameter.data.copy_(tensor.load())


def adapter_tensors(directory: Path, adapters: Adapters, config: ModelConfig) -> Factors:
    """List the factors of a directory, as `LowRank` has them; none is read yet.

    Raises:
        CheckpointError: Q401 for files that are missing, unsafe or broken, Q404 for tensors that
            are not those of the configuration; a reading raises it for what is no finite number.
    """
    given = _open(directory)
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
    adapters: Adapters, factors: Factors, config: ModelConfig, base: str, directory: Path
) -> None:
    """Write adapter_config.json and adapter_model.safetensors; the directory may be new.

    Args:
        adapters: which weights have adapters.
        factors: as `LowRank` has them.
        config: of the base.
        base: where it lies.
        directory: where to.
    """
    tensors = {
        name: factors[place].map(partial(_to_file, *place))
        for name, place in tensor_places(adapters).items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / ADAPTER_CONFIG, to_peft(adapters, config, base))
    write_file(directory / ADAPTER_WEIGHTS, tensors)
