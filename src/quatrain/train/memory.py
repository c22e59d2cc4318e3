"""Memory: what one process holds at each moment of a step, computed from what the code keeps.

    loss             weights, moments, activations of all layers, the logits of a chunk
    head gradient    the same, with the head's gradient twice, before the saved one is let go
    layer gradient   all layers' activations, what the last layer's gradients need on the way, and
                     with several micro-batches the gradients of all weights
    end of backward  all gradients, the embedding's once more
    update           weights, gradients and moments

The peak is the largest of these. Elements are float32. Under bf16, products and what they save have
two bytes, and each weight that multiplies has a second copy of two bytes. Weights kept in bf16 have
two bytes, as have their moments, and their gradients where a step has one micro-batch; they need no
second copy, and are decoded by tiles for products in float32. Weights that do not learn stay in
their file, are not counted, and are decoded by tiles. Nothing is measured here:
see bench/plan.py, and tests/train/test_memory.py, which counts what torch allocates.

Shapes: N tokens of a micro-batch, M targets, H model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from quatrain.config import ModelConfig, TrainConfig
from quatrain.train.sizes import Parameters, parameters
from quatrain.words import Sentence

Way = Literal["blocks", "kernel"]

_FLOAT, _HALF = 4, 2
_LIBRARIES = 86 * 10**6
"""Thread stacks and scratch space of kernels, on two threads; measured (bench/plan.py)."""
_HELD_BACK = 48 * 10**6
"""Unused memory between blocks even in a small run, since glibc keeps all that was freed
(machine.keep_freed_memory). Chosen to fit what bench/plan.py measured."""
_SPLIT = 0.12
"""Further unused memory, as a share of what is held; chosen in the same way."""
_TILE, _TILE_ON_GPU, _TILES = 1 << 21, 1 << 24, 2
"""The most numbers of a frozen weight that are decoded at once (model/frozen.py), and how many such
tiles there are: one, and what makes it."""
_QUANTISED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.01}
"""Bytes a number: codes and the scales of blocks or rows (model/kinds.py)."""


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


@dataclass(frozen=True, slots=True)
class Moment:
    """What is held at one time, in bytes by part."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Memory:
    """All moments of a step."""

    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        """The moment that takes the most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.peak.total


def predict(
    config: ModelConfig,
    train: TrainConfig,
    work: Work,
    learning: int | None = None,
    mapped: bool = True,
) -> Memory:
    """Predict what a step takes.

    Args:
        config: the architecture.
        train: settled; micro_batch_size counts where it is smaller than batch_size.
        work: a micro-batch of it.
        learning: parameters of adapters beside frozen weights; None where all weights learn.
        mapped: whether frozen weights stay in their file, as on a CPU; else they are taken for
            bf16, unless quantised.
    """
    step = _Step(config, train, work, learning, mapped)
    return Memory((step.loss(), step.head(), *step.layers(), step.embedding(), step.update()))


def base_bytes(config: ModelConfig, mapped: bool) -> int:
    """Count what the weights of a base take that does not learn.

    Args:
        config: its architecture, and whether it is quantised.
        mapped: see `predict`.
    """
    counts = parameters(config)
    small = config.n_layers * 2 * config.d_model + config.d_model
    small += len(config.moe_layers) * config.num_local_experts * config.d_model
    tables = counts.total - sum(counts.layers)
    held = 0 if mapped else tables * _HALF
    if config.quantize:
        return held + round(sum(counts.layers) * _QUANTISED[config.quantize]) + small * _FLOAT
    return held + (0 if mapped else sum(counts.layers) * _HALF) + small * _FLOAT


def bytes_of_weight(train: TrainConfig) -> int:
    """Say how many bytes a number of a weight that learns takes, and of each of its moments."""
    return _HALF if train.weights == "bf16" else _FLOAT


class _Step:
    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        work: Work,
        learning: int | None,
        mapped: bool,
    ) -> None:
        self.config, self.work = config, work
        self.counts: Parameters = parameters(config)
        self.frozen = learning is not None
        self.base = base_bytes(config, mapped)
        self.tile = _TILE if mapped else _TILE_ON_GPU
        self.learning = self.counts.total if learning is None else learning
        self.weight = bytes_of_weight(train)
        self.half = train.precision == "bf16"
        self.recomputes = train.activation_checkpointing
        micro = train.micro_batch_size or train.batch_size or 1
        self.accumulates = (train.batch_size or 1) > micro
        self.gradient = 0 if self.frozen else _FLOAT if self.accumulates else self.weight
        """Bytes of a weight's gradient; those of adapters are small and counted together."""
        self.table = 0 if self.frozen else self.counts.head * _FLOAT
        """Bytes of the head's gradient while it is added up, chunk by chunk."""
        self.chunk = min(train.loss_chunk_size, max(1, work.targets))
        self.chunks = -(-max(1, work.targets) // self.chunk)
        self.kept = [self._layer(layer) for layer in range(config.n_layers)]

    def loss(self) -> Moment:
        """The forward pass is done, and a chunk's logits exist."""
        logits = self.chunk * self.config.vocab_size * _FLOAT
        width = self.chunk * self.config.d_model * _FLOAT
        table = self.table
        rounded = 1.5 if self.half else 1  # a product in bf16 is float32, too, while it is added
        adding = round(rounded * (logits + table)) + width
        copies = max((2 + (self.chunks > 1)) * logits, adding if table else 0)
        moment = Sentence.of("plan.moment.loss")
        return self._moment(moment, logits=copies, head=table + self._states(),
                            activations=self._stored() + self._ends())  # fmt: skip

    def head(self) -> Moment:
        """The head's gradient is scaled, or rounded: a second one beside the first."""
        both = self.table + self.counts.head * self.gradient
        return self._moment(Sentence.of("plan.moment.head"), head=both + 2 * self._states(),
                            activations=self._stored() + self._ends())  # fmt: skip

    def layers(self) -> list[Moment]:
        """Each layer's gradient is computed while the layers below wait."""
        moments = []
        table = self.counts.head * self.gradient
        tied, done = (table, 0) if self.config.tie_word_embeddings else (0, table)
        for layer in reversed(range(self.config.n_layers)):
            below = sum(self._waiting(lower) for lower in range(layer))
            again = self.kept[layer] + (self._stream() if self.recomputes else 0)
            moments.append(
                self._moment(
                    Sentence.of("plan.moment.layer", layer=layer),
                    activations=below + again + 2 * self._stream() + self._rest(),
                    transient=self._transient(layer),
                    head=tied,
                    fresh=done,
                )
            )
            done += self.counts.layers[layer] * self.gradient
        return moments

    def embedding(self) -> Moment:
        """All gradients exist, and a second one of the embedding before it is added."""
        table = self.counts.head * self.gradient
        twice = table if self.accumulates or self.config.tie_word_embeddings else 0
        moment = Sentence.of("plan.moment.end")
        return self._moment(moment, fresh=self.counts.total * self.gradient, head=twice,
                            activations=self._stream() + self._rest())  # fmt: skip

    def update(self) -> Moment:
        """AdamW works in place."""
        return self._moment(
            Sentence.of("plan.moment.update"), fresh=self.counts.total * self.gradient
        )

    def _moment(self, name: str, fresh: int = 0, **parts: int) -> Moment:
        """Add what is held throughout; `fresh` are gradients that no earlier ones preceded."""
        every, learning = self.counts.total * self.weight, self.learning * self.weight
        if self.frozen:  # the gradients are of adapters, in any layer
            every, fresh = self.base + learning, learning
        held = {
            "weights": every,
            "moments": 2 * learning,
            "gradients": self.learning * _FLOAT if self.accumulates else fresh,
            **parts,
            "libraries": _LIBRARIES,
            "held back": min(_HELD_BACK, every + self._stored()) + self._holes(),
        }
        kept_in_bf16 = self.weight == _HALF
        if self.frozen:
            product = _HALF if self.half else _FLOAT
            held["tiles"] = _TILES * min(self.tile, self.counts.head) * product
        elif kept_in_bf16 and not self.half:
            held["tiles"] = min(self.tile, self.counts.head) * _FLOAT
        elif self.half and not kept_in_bf16:
            held["bf16 copies"] = self.counts.total * _HALF
        held["held back"] += round(_SPLIT * sum(held.values()))
        return Moment(name, held)

    def _holes(self) -> int:
        """Count a layer's activations twice where they are recomputed among new gradients.

        The gradients stay in the space that the previous layer left, and what remains is too small.
        """
        return max(self.kept) if self.recomputes and not self.accumulates else 0

    def _stream(self) -> int:
        """Bytes of the residual stream, [N, H]."""
        return self.work.tokens * self.config.d_model * _FLOAT

    def _states(self) -> int:
        """Bytes of the states before targets, [M, H]; their gradient is as large."""
        return 2 * self.work.targets * self.config.d_model * _FLOAT

    def _ends(self) -> int:
        """What is kept besides the layers: two of the last norm, and what all layers share."""
        return 2 * self._stream() + self._rest()

    def _rest(self) -> int:
        """Bytes of the rotations."""
        return self.work.tokens * self.config.d_k * _FLOAT

    def _stored(self) -> int:
        return sum(self._waiting(layer) for layer in range(self.config.n_layers))

    def _waiting(self, layer: int) -> int:
        """What a layer keeps for its backward pass: everything, or only its input."""
        return self._stream() if self.recomputes else self.kept[layer]

    def _layer(self, layer: int) -> int:
        """Bytes that a layer's forward pass saves for the backward pass."""
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

    def _transient(self, layer: int) -> int:
        """Temporary memory of a feed-forward's backward pass, at the worst of three places.

        After the down projection: its weight's gradient. After the product: the gradients of both
        factors. After gate and up: their weights' gradients, when what they saved has been freed.
        """
        config, tokens = self.config, self.work.tokens
        product = _HALF if self.half else _FLOAT
        inner, copies, experts = config.intermediate_size_mlp, 1, 1
        if layer in config.moe_layers:
            inner, experts = config.intermediate_size_expert, config.num_local_experts
            copies = config.num_experts_per_tok
        weight = experts * inner * config.d_model * self.gradient
        joined = 2 if layer in config.moe_layers else 1  # experts' gate and up are one matrix
        rows = tokens * copies * product
        return max(
            rows * (inner + config.d_model) + weight,
            rows * (2 * inner + config.d_model),
            rows * config.d_model + joined * weight,
        )
