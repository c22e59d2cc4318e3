"""Placing: where the frozen weights of a base stay while adapters learn, and the line that says so.

Asks the machine, and the headers of the base's files, for what the rules of site.py need.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from quatrain.config import Config, ModelConfig
from quatrain.hub.opened import tensors_of
from quatrain.model.frozen import Frozen, Matrix
from quatrain.model.llama import LlamaModel
from quatrain.model.offload import offload
from quatrain.model.stored import is_small, may_be_stored
from quatrain.train.machine import free_memory
from quatrain.train.plan import gigabytes
from quatrain.train.products import multiplies_bfloat16
from quatrain.train.site import BaseSize, Site, Where, pinned, quantised_bytes, where_of
from quatrain.words import say

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FLOAT = 4


def site_here(config: Config, device: torch.device, weights: Path | None) -> Site:
    """Describe this machine, and the base of a run of adapters.

    Args:
        config: with the model's architecture.
        device: that trains.
        weights: of the base: a directory, or a GGUF file.
    """
    base, on_gpu = _base(config, weights), device.type == "cuda"
    main = free_memory() if on_gpu else None
    return Site(on_gpu, multiplies_bfloat16(device), _free(device), main, base)


def site_of_card(config: Config, size: int, weights: Path | None) -> Site:
    """Describe this machine with a GPU of so many bytes, which need not be here."""
    return Site.of_card(size, free_memory(), _base(config, weights))


def _base(config: Config, weights: Path | None) -> BaseSize | None:
    return size_of_base(config.model, weights) if config.train.adapter and weights else None


def size_of_base(config: ModelConfig, weights: Path) -> BaseSize:
    """Count what a base takes that does not learn; no weight is read.

    Args:
        config: its architecture, and how it is to be quantised.
        weights: a directory, or a GGUF file.
    """
    layers, pins = [0] * config.n_layers, 0
    tables = small = 0
    for name, tensor in tensors_of(config, weights).items():
        numbers = torch.Size(tensor.shape).numel()
        quantise = config.quantize if may_be_stored(name) and not tensor.in_blocks else None
        parts = [quantised_bytes(numbers, quantise)] if quantise else [
            part.nbytes for one in tensor.matrices for part in one.stored.values()
        ]  # fmt: skip
        layer = _LAYER.match(name)
        if is_small(name):
            small += numbers * _FLOAT
        elif parts and layer:
            layers[int(layer[1])] += sum(parts)
            pins += sum(map(pinned, parts))
        else:
            tables += sum(parts) or tensor.nbytes
    return BaseSize(tuple(layers), tables, small, pins, made=config.quantize is not None)


def place(model: LlamaModel, config: Config, device: torch.device) -> LlamaModel:
    """Put an adapted model where the recipe wants it, and say where the base is.

    Args:
        model: on the CPU, its frozen weights as `model_of` holds them.
        config: its `model.offload` decides; `auto` measures.
        device: that trains.
    """
    size = stored_bytes(model)
    matrices = (one for one in model.model.layers.modules() if isinstance(one, Matrix))
    pins = sum(pinned(part.nbytes) for one in matrices for part in one.stored.values())
    where = _where(config.model.offload, size, device, pins)
    if device.type == "cpu":
        if where == "none":
            _read_into_memory(model)
    elif where != "none":
        offload(list(model.model.layers), device, pinned=where == "host")
        model.model.activation_checkpointing = True  # a layer's gradients follow its second visit
    logger.info(say(f"train.base.{device.type}.{where}", size=gigabytes(size)))
    return model.to(device)


def stored_bytes(model: LlamaModel) -> int:
    """Count the bytes of what does not learn."""
    plain = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    return plain + sum(one.nbytes for one in model.modules() if isinstance(one, Frozen))


def _where(wanted: str, size: int, device: torch.device, pins: int) -> Where:
    on_gpu = device.type == "cuda"
    return where_of(wanted, size, on_gpu, _free(device), free_memory() if on_gpu else None, pins)


def _free(device: torch.device) -> int | None:
    """Say how many bytes a run may take on a device; None where the system does not report it."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


@torch.no_grad()
def _read_into_memory(model: LlamaModel) -> None:
    """Copy what is mapped."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.clone()
    for matrix in (one for one in model.modules() if isinstance(one, Matrix)):
        for name, part in matrix.stored.items():
            matrix.register_buffer(name, part.clone(), persistent=False)
