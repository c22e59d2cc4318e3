"""Products: which dtype this CPU multiplies fast, by which library, and what a run sets for it.

Not for asking the system (machine.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from quatrain.model.kinds_native import library
from quatrain.model.llama import LlamaModel
from quatrain.model.moe import ExpertMLP
from quatrain.model.weights import meet_numbers_of_rows
from quatrain.train.machine import has_bfloat16, keep_freed_memory

_MORE_THAN_BFLOAT16 = 1 + 2.0**-12
"""A float32 that bfloat16 and TF32 round to 1."""
_SIDES = (64, 512)
_LOAD = 8
"""The largest load of an expert that is expected, as a multiple of an equal share."""
_MKLDNN: Any = torch.backends.mkldnn


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 faster than float32, by its kind."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_bfloat16()


@contextmanager
def set_for_training() -> Iterator[None]:
    """Apply the settings of a training run: freed memory is kept, and oneDNN multiplies."""
    keep_freed_memory()
    with allocated_by_malloc(), onednn_multiplies():
        yield


@contextmanager
def allocated_by_malloc() -> Iterator[bool]:
    """Let tensors on a CPU take the blocks that others of their size have freed, in the body.

    As torch asks for memory, glibc cannot give it such a block (model/allocator.cpp). Needs a C++
    compiler, once.

    Yields:
        Whether they do.
    """
    native = library("allocator") if sys.platform == "linux" else None
    is_new = native is not None and bool(native.allocate_by_malloc())
    try:
        yield native is not None
    finally:
        if native is not None and is_new:
            native.allocate_by_default()


def meet_experts(model: LlamaModel, num_tokens: int, precision: str | None) -> None:
    """Let oneDNN make its kernels for experts before the first step.

    Args:
        model: its experts' weights, trained or frozen; adapters are left out, or there would be
            more kernels than oneDNN keeps (1,024).
        num_tokens: of a micro-batch; how many of them an expert gets varies from step to step.
        precision: of the products, as in TrainConfig.
    """
    config = model.config
    most = _LOAD * num_tokens * config.num_experts_per_tok // max(1, config.num_local_experts)
    layers = (layer for layer in model.modules() if isinstance(layer, ExpertMLP))
    weights = (weight for layer in layers for weight in (layer.gate_up_proj, layer.down_proj))
    by_kind = {(weight.shape, weight.requires_grad): weight for weight in weights}
    for weight in by_kind.values():
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        meet_numbers_of_rows(weight, min(most, num_tokens), dtype)


@contextmanager
def onednn_multiplies() -> Iterator[bool]:
    """Let oneDNN multiply float32 matrices on a CPU in the body, where it does not round.

    PyTorch multiplies float32 by MKL, which has no AVX-512 code for AMD's processors; oneDNN takes
    half the time there (docs/LOG.md). PyTorch uses oneDNN for float32 only with permission to round
    to bfloat16, which oneDNN does where a CPU has AMX. So products are tried whose results would
    show the rounding; if they do, the setting is restored. Without AVX-512, PyTorch still uses MKL.

    Yields:
        Whether the permission is given.
    """
    settings = _MKLDNN.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    exact = _is_exact()
    if not exact:
        settings.fp32_precision = before
    try:
        yield exact
    finally:
        settings.fp32_precision = before


def _is_exact() -> bool:
    """Try products that are exact in float32, in each layout of a backward pass."""
    for side in _SIDES:
        a = torch.full((side, side), _MORE_THAN_BFLOAT16)
        ones = torch.ones(side, side)
        exact = torch.full((side, side), side * _MORE_THAN_BFLOAT16)
        products = (a @ ones, ones @ a, a.T @ ones, ones @ a.T, torch.bmm(a[None], ones[None])[0])
        if not all(torch.equal(product, exact) for product in products):
            return False
    return True
