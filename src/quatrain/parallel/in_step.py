"""Forward passes of different numbers, in step: how processes answer questions of their own.

A divided layer is gathered from all processes, so all compute it at the same time. Before each
forward pass a process says that it computes; one that has finished computes a token of nobody's
along with the others, until none says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from quatrain.model.llama import LlamaModel
from quatrain.parallel.sharding import units
from quatrain.parallel.wire import Wire


@contextmanager
def in_step(model: LlamaModel, wire: Wire) -> Iterator[None]:
    """Let processes call the model as often as each needs, in the body; nothing learns there."""
    for unit in units(model):
        unit.unshard()  # the head is not asked equally often

    def announce(*_: Any) -> None:
        wire.added(1.0)

    decoder = model.model
    hook = decoder.register_forward_pre_hook(announce)
    try:
        yield
    finally:
        hook.remove()
    nobodys = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    with torch.no_grad():
        while wire.added(0.0)[0]:
            decoder(nobodys)
    for unit in units(model):
        unit.reshard()
