"""Placing: where the frozen weights of a base stay while adapters learn, and the line that says so.

On a CPU they stay in their file, or are read into memory. On a GPU they are there if they fit, or
else in main memory or in the file, from which they visit it layer by layer (model/offload.py).
"""

from __future__ import annotations

import logging

import torch

from quatrain.config import Config
from quatrain.model.frozen import Frozen, Matrix
from quatrain.model.llama import LlamaModel
from quatrain.model.offload import offload
from quatrain.train.machine import free_memory
from quatrain.train.plan import gigabytes
from quatrain.words import say

logger = logging.getLogger(__name__)

_SHARE_OF_GPU, _SHARE_OF_MEMORY = 0.7, 0.6
"""Shares of free memory that a base may take; the rest is for the step, and for other programs."""


def place(model: LlamaModel, config: Config, device: torch.device) -> LlamaModel:
    """Put an adapted model where the recipe wants it, and say where the base is.

    Args:
        model: on the CPU, its frozen weights as `model_of` holds them.
        config: its `model.offload` decides; `auto` measures.
        device: that trains.
    """
    size = stored_bytes(model)
    where = _where(config.model.offload, size, device)
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


def _where(wanted: str, size: int, device: torch.device) -> str:
    if device.type == "cpu":
        return "none" if wanted in ("none", "host") else "disk"
    if wanted != "auto":
        return wanted
    if size <= _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return "none"
    free = free_memory()
    return "host" if free is not None and size <= _SHARE_OF_MEMORY * free else "disk"


@torch.no_grad()
def _read_into_memory(model: LlamaModel) -> None:
    """Copy what is mapped."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.clone()
    for matrix in (one for one in model.modules() if isinstance(one, Matrix)):
        for name, part in matrix.stored.items():
            matrix.register_buffer(name, part.clone(), persistent=False)
