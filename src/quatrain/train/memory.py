"""Memory: what one process holds at each moment of a step, computed from what the code keeps.

    loss             weights, moments, activations of all layers, the logits of a chunk
    head gradient    the same, with the head's gradient twice, before the saved one is let go
    layer gradient   all layers' activations, what the last layer's gradients need on the way, and
                     with several micro-batches the gradients of all weights
    end of backward  all gradients, the embedding's once more
    update           weights, gradients and moments
    answers          weights, moments, and the prompts of an evaluation with their cache (exam.py)

The peak is the largest of these. Elements are float32. Under bf16, products and what they save have
two bytes, and each weight that multiplies has a second copy of two bytes. Weights kept in bf16 have
two bytes, as have their moments, and their gradients where a step has one micro-batch; they need no
second copy, and are decoded by tiles for products in float32. So are weights that do not learn;
where they lie is said in site.py. Nothing is measured here: see bench/plan.py, and
tests/train/test_memory.py, which counts what torch allocates.

Shapes: N tokens of a micro-batch, M targets, H model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quatrain.config import ModelConfig, TrainConfig
from quatrain.train.exam import Exam
from quatrain.train.layer_memory import LayerMemory, Work
from quatrain.train.site import estimated
from quatrain.train.sizes import Parameters, parameters
from quatrain.words import Sentence

_FLOAT, _HALF = 4, 2
_LIBRARIES = 86 * 10**6
"""Thread stacks and scratch space of kernels, on two threads; measured (bench/plan.py)."""
_SPLIT = 0.03
"""Unused memory between blocks, as a share of what is held besides a base; measured in the same
way. Larger where there is no C++ compiler (model/allocator.cpp)."""
_TILE, _TILE_ON_GPU, _TILES = 1 << 21, 1 << 24, 2
"""The most numbers of a frozen weight that are decoded at once (model/frozen.py), and how many such
tiles there are: one, and what makes it."""


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
    base: int | None = None,
    on_gpu: bool = False,
    exam: Exam | None = None,
) -> Memory:
    """Predict what a run takes on the device that trains.

    Args:
        config: the architecture.
        train: settled; micro_batch_size counts where it is smaller than batch_size.
        work: a micro-batch of it.
        learning: parameters of adapters beside frozen weights; None where all weights learn.
        base: bytes of frozen weights that are there; None means that they stay in their file.
        on_gpu: whether the device is a GPU.
        exam: of its evaluations; None where nothing is asked.
    """
    if base is None:
        base = estimated(config).held("disk", False)
    step = _Step(config, train, work, learning, base, on_gpu)
    moments = (step.loss(), step.head(), *step.layers(), step.embedding(), step.update())
    return Memory(moments if exam is None else (*moments, step.answers(exam)))


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
        base: int,
        on_gpu: bool,
    ) -> None:
        self.config, self.work = config, work
        self.counts: Parameters = parameters(config)
        self.frozen = learning is not None
        self.base = base
        self.on_gpu = on_gpu
        self.tile = _TILE_ON_GPU if on_gpu else _TILE
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
        self.layer = LayerMemory(
            config, work, self.half, self.gradient, self.tile if self.frozen else None
        )
        self.kept = [self.layer.kept(layer) for layer in range(config.n_layers)]

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
                    transient=self.layer.transient(layer),
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

    def answers(self, exam: Exam) -> Moment:
        """An evaluation reads prompts, between two steps and without rounding products."""
        return self._moment(
            Sentence.of("plan.moment.answers"), accumulated=0, half=False,
            **exam.parts(self.config, self.on_gpu),
        )  # fmt: skip

    def _moment(
        self,
        name: str,
        fresh: int = 0,
        accumulated: int | None = None,
        half: bool | None = None,
        **parts: int,
    ) -> Moment:
        """Add what is held throughout.

        Args:
            name: of the moment.
            fresh: bytes of gradients that no earlier ones preceded.
            accumulated: bytes of all gradients of earlier micro-batches.
            half: whether products are bf16.
            parts: bytes of what is held then.
        """
        every, learning = self.counts.total * self.weight, self.learning * self.weight
        half = self.half if half is None else half
        if accumulated is None and self.accumulates:
            accumulated = self.learning * _FLOAT
        if self.frozen:  # the gradients are of adapters, in any layer
            every, fresh = self.base + learning, learning
        held = {
            "weights": every,
            "moments": 2 * learning,
            "gradients": fresh if accumulated is None else accumulated,
            **parts,
            "libraries": _LIBRARIES,
        }
        kept_in_bf16 = self.weight == _HALF
        if self.frozen:
            product = _HALF if half else _FLOAT
            held["tiles"] = _TILES * min(self.tile, self.counts.head) * product
        elif kept_in_bf16 and not half:
            held["tiles"] = min(self.tile, self.counts.head) * _FLOAT
        elif half and not kept_in_bf16:
            held["bf16 copies"] = self.counts.total * _HALF
        stays = self.base if self.frozen else 0
        held["held back"] = round(_SPLIT * (sum(held.values()) - stays))
        return Moment(name, held)

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
