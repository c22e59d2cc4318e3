"""An adapter as a GGUF file, which llama.cpp adds to a GGUF file of its base (--lora FILE).

A file holds, for each adapted weight under that weight's name, `lora_a` [K, I] and `lora_b`
[O, K], of experts [E, K, I] and [E, O, K]; and one alpha, by which each product counts alpha / K.
llama.cpp keeps the experts' gate and up projections apart: the adapter of both becomes two that
have the same A. Not for PEFT's directories (model/adapter.py).

Shapes: E experts, I input width, O output width, K rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from quatrain.config import ModelConfig
from quatrain.hub.gguf_names import architecture, to_gguf
from quatrain.hub.gguf_read import read_file
from quatrain.hub.gguf_write import library, write_tensors
from quatrain.model.adapter import Factors
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import Adapted, Adapters, Site, shape

_ALPHA = "adapter.lora.alpha"


def write_gguf_adapter(
    adapters: Adapters, factors: Factors, config: ModelConfig, path: Path, kind: str
) -> None:
    """Write an adapter's factors.

    Args:
        adapters: which weights have adapters.
        factors: as `LowRank` has them.
        config: of the base.
        path: of the file.
        kind: f32, f16 or bf16.

    Raises:
        CheckpointError: Q411 naming what llama.cpp cannot represent of the base.
    """
    writer = library().GGUFWriter(path, architecture(config))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    alpha = _alpha(adapters)
    writer.add_float32(_ALPHA, alpha)
    tensors = {}
    for site, adapted in adapters.items():
        by = adapted.scale * adapted.rank / alpha
        names = _names(site, config)
        a, b = factors[site, "A"], factors[site, "B"]
        for name, part in zip(names, _parts(b, len(names)), strict=True):
            tensors[f"{name}.lora_a"] = a.map(_turned)
            tensors[f"{name}.lora_b"] = part.map(partial(_turned, by=by))
    write_tensors(writer, tensors, dict.fromkeys(tensors, kind))


def read_gguf_adapter(path: Path, there: Adapters, config: ModelConfig) -> tuple[Adapters, Factors]:
    """Read a file that `write_gguf_adapter` wrote, for the proof of it.

    Args:
        path: of the file.
        there: the weights that it adapts; their ranks and scales are taken from the file.
        config: of the base.

    Returns:
        The adapters that the file describes, and their factors in float32.
    """
    keys, tensors = read_file(path)
    adapters, factors = {}, {}
    for site in there:
        names = _names(site, config)
        a = _turned(tensors[f"{names[0]}.lora_a"].load())
        b = torch.cat([_turned(tensors[f"{name}.lora_b"].load()) for name in names], -1)
        adapters[site] = Adapted(a.shape[-1], float(keys[_ALPHA]) / a.shape[-1])
        factors[site, "A"], factors[site, "B"] = LazyTensor.of(a), LazyTensor.of(b)
    return adapters, factors


def rounded(adapters: Adapters, factors: Factors, dtype: torch.dtype) -> Factors:
    """Round factors as a file of this dtype holds them."""
    alpha = _alpha(adapters)

    def of(site: Site, factor: str, tensor: LazyTensor) -> LazyTensor:
        by = adapters[site].scale * adapters[site].rank / alpha if factor == "B" else 1.0
        return tensor.map(lambda t: (t.float() * by).to(dtype).float() / by)

    return {(site, factor): of(site, factor, one) for (site, factor), one in factors.items()}


def _alpha(adapters: Adapters) -> float:
    """Choose the alpha of the file; adapters with another one have the difference in their B."""
    found = Counter(one.rank * one.scale for one in adapters.values())
    found.pop(0.0, None)
    return found.most_common(1)[0][0] if found else 1.0


def _names(site: Site, config: ModelConfig) -> list[str]:
    """Give llama.cpp's names of a weight, in the order in which its outputs lie."""
    weight = LazyTensor(shape(site, config), torch.float32, lambda: torch.empty(0))
    return [name for name, _ in to_gguf(site.weight, weight)]


def _parts(factor: LazyTensor, number: int) -> Iterator[LazyTensor]:
    """Divide a factor's outputs into equal parts, [.., K, O] to [.., K, O / number] each."""
    for part in range(number):
        yield factor.map(partial(_part, number=number, part=part))


def _part(factor: Tensor, number: int, part: int) -> Tensor:
    return factor.chunk(number, -1)[part]


def _turned(factor: Tensor, by: float = 1.0) -> Tensor:
    return (factor * by).transpose(-1, -2)
