"""Layer memory: what a layer saves for its gradients, and what these take on the way.

Elements are float32; under bf16 products and what they save have two bytes. Not for what is held
beside the layers (memory.py).

Shapes: R rows of an expert or of a feed-forward, H model width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from quatrain.config import ModelConfig

Way = Literal["blocks", "kernel"]

_FLOAT, _HALF = 4, 2


@dataclass(frozen=True, slots=True)
class Work:
    """One micro-batch."""

    rows: int
    length: int
    targets: int
    way: Way = "blocks"
    """How attention is computed on a CPU; see model/attention.py."""
    weights_kept: float = 0.0
    """Softmax weights kept for each query and head; see model/blocks.py."""

    @property
    def tokens(self) -> int:
        """Positions, including padding."""
        return self.rows * self.length

    def scaled(self, rows: int, length: int) -> Work:
        """Describe another number of rows of another length, as full of targets."""
        targets = max(1, round(self.targets * rows * length / self.tokens))
        return replace(self, rows=rows, length=length, targets=targets)


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Counts the bytes of layers of one model in one micro-batch."""

    config: ModelConfig
    work: Work
    half: bool
    """Whether products are bf16."""
    gradient: int
    """Bytes of a number of a weight's gradient; 0 beside frozen weights."""
    tile: int | None
    """Numbers of a frozen weight that are decoded at once; None where all weights learn."""

    def kept(self, layer: int) -> int:
        """Count what a layer's forward pass saves for the backward pass."""
        config, tokens = self.config, self.work.tokens
        product = _HALF if self.half else _FLOAT
        norms = 4 * config.d_model * _FLOAT + (2 * config.d_model * _HALF if self.half else 0)
        feed = self._experts() if layer in config.moe_layers else 3 * config.intermediate_size_mlp
        return tokens * (norms + self._attention(layer) + feed * product)

    def _experts(self) -> int:
        """Elements a token that experts save: the sorted copies, gate and up, and their product."""
        config = self.config
        routed = config.num_experts_per_tok * (config.d_model + 3 * config.intermediate_size_expert)
        return routed + 3 * config.intermediate_size_shared + 2 * config.num_local_experts

    def _attention(self, layer: int) -> int:
        """Bytes a token: queries, keys, values and the result, copies of some, and weights.

        QK-norm keeps its result in float32, which attention can share. Under bf16, PyTorch's kernel
        keeps float32, as on a CPU without AMX, and its result is copied.
        """
        config, kernel = self.config, self.work.way == "kernel"
        queries, keys = config.n_heads * config.d_k, config.n_kv_heads * config.d_k
        bytes_a_token = 2 * (queries + keys) * (_HALF if self.half and not kernel else _FLOAT)
        bytes_a_token += round(config.n_heads * self.work.weights_kept * _FLOAT)
        if kernel:
            bytes_a_token += config.n_heads * _FLOAT + (queries * _HALF if self.half else 0)
        if self.half and config.use_qk_norm and config.rope_layers[layer]:
            bytes_a_token += (queries + keys) * _FLOAT
        return bytes_a_token

    def transient(self, layer: int) -> int:
        """Count what a feed-forward's backward pass takes for a time, at the worst of three places.

        After the down projection: its weight's gradient. After the product: the gradients of both
        factors. After gate and up: their weights' gradients, when what they saved has been freed.
        """
        width, product = self.config.d_model, _HALF if self.half else _FLOAT
        inner, experts = self.config.intermediate_size_mlp, 1
        joined = 1
        if layer in self.config.moe_layers:
            inner = self.config.intermediate_size_expert
            experts, joined = self.config.num_local_experts, 2  # gate and up are one matrix
        weight = experts * inner * width * self.gradient
        rows = self._rows(layer) * product
        return self._decoding(layer, inner) + max(
            rows * (inner + width) + weight,
            rows * (2 * inner + width),
            rows * width + joined * weight,
        )

    def _rows(self, layer: int) -> int:
        """Rows that the feed-forward multiplies; of experts, all of them together."""
        copies = self.config.num_experts_per_tok if layer in self.config.moe_layers else 1
        return self.work.tokens * copies

    def _decoding(self, layer: int, inner: int) -> int:
        """Count a gradient's sum over the tiles of a frozen weight, if one expert gets all rows.

        The sum is float32; beside it stands the share of one tile.
        """
        width = self.config.d_model
        if self.tile is None or inner * width <= self.tile:
            return 0
        share = _FLOAT + _HALF if self.half else _FLOAT
        return self._rows(layer) * max(inner, width) * share
