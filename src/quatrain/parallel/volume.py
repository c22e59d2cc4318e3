"""Volume: the bytes that a process sends in a step, by arithmetic. Needs no torch.

    gather    weights of the others, for each forward and each backward pass of a micro-batch
    reduce    gradients, to the process that keeps them, once a step
    repeat    gradients of what several hold, replicas or a tied head, once a step
    tokens    rows to their experts and back, and their gradients the other way

Of n processes that gather a tensor, each sends its part to n - 1 others: (n - 1) / n of the bytes
of the tensor, and as much where gradients are added up. Rows go to a process with the probability
that their expert is there: 1 / n with an even router, and as an expected value also with another
one, where processes have rows alike. Weights that stay as they are stored are not sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from quatrain.config import Config
from quatrain.model.targets import choose
from quatrain.model.targets import shape as shape_of
from quatrain.train.sizes import expert_parameters, layer_parameters, parameters

_FLOAT, _HALF = 4, 2


@dataclass(frozen=True, slots=True)
class Held:
    """Numbers of the weights that processes divide, by unit of gathering."""

    tables: float
    """Bytes of embeddings, last norm and head."""
    dense: tuple[float, ...]
    """Bytes of each layer, without experts that are spread."""
    experts: tuple[float, ...]
    """Bytes of each layer's experts that one process holds or gathers; 0 where not spread."""
    learning_dense: float
    """Numbers that learn, experts that are spread left out."""
    learning_experts: float
    """Numbers of one process' experts that learn."""
    learning_tied: float
    """Numbers of a tied head that learns, which each process holds whole."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Bytes that a process sends in a step."""

    gather: float
    reduce: float
    repeat: float
    tokens: float

    @property
    def total(self) -> float:
        """All together."""
        return self.gather + self.reduce + self.repeat + self.tokens


def held_of(config: Config, stored: bool = False) -> Held:
    """Count what is gathered of a model.

    Args:
        config: settled.
        stored: whether the matrices of the base's layers stay as they are stored, in blocks.
    """
    model, parts = config.model, config.parallel.expert_parallel
    adapted = config.train.adapter is not None
    width = _HALF if adapted or config.train.weights == "bf16" else _FLOAT
    adapters = choose(config.lora, model) if adapted else {}
    dense, experts, learning = list[float](), list[float](), [0.0, 0.0]
    for layer in range(model.n_layers):
        of_experts = 0
        if layer in model.moe_layers and parts > 1:
            of_experts = model.num_local_experts * expert_parameters(model)
        own = layer_parameters(model, layer) - of_experts
        small = 2 * model.d_model
        small += model.num_local_experts * model.d_model if layer in model.moe_layers else 0
        factors = [0, 0]
        for site, one in adapters.items():
            if site.layer == layer:
                *groups, wide, out = shape_of(site, model)
                number = (groups[0] if groups else 1) * (wide + out) * one.rank
                factors[bool(groups) and parts > 1] += number
        if not adapted:
            learning[0] += own
            learning[1] += of_experts / parts
            dense.append(own * width)
            experts.append(of_experts / parts * width)
            continue
        learning[0] += factors[0]
        learning[1] += factors[1] / parts
        matrices = 0 if stored or model.quantize else (own - small) * width
        dense.append(matrices + small * _FLOAT + factors[0] * _FLOAT)
        of_base = 0 if stored or model.quantize else of_experts / parts * width
        experts.append(of_base + factors[1] / parts * _FLOAT)
    table = parameters(model).head
    tables = 0.0 if model.tie_word_embeddings else 2.0 * table * width
    tables += model.d_model * _FLOAT
    tied = 0.0
    if not adapted:
        learning[0] += model.d_model + (0 if model.tie_word_embeddings else 2 * table)
        tied = table if model.tie_word_embeddings else 0.0
    return Held(tables, tuple(dense), tuple(experts), learning[0], learning[1], tied)


def volume_of(
    config: Config,
    world: int,
    tokens: int,
    micro_batches: int = 1,
    stored: bool = False,
    moved: float | None = None,
) -> Volume:
    """Compute what a process sends in a step.

    Args:
        config: settled.
        world: processes.
        tokens: of a step and a process, padding included.
        micro_batches: of a step.
        stored: see `held_of`.
        moved: rows of this process whose experts are elsewhere, and rows of others whose experts
            are here, in the forward passes of a step; None for an even router.
    """
    parallel, model, held = config.parallel, config.model, held_of(config, stored)
    shards = world // parallel.replicas
    data = shards // parallel.expert_parallel
    of_shards, of_data = (shards - 1) / shards, (data - 1) / data
    gather = micro_batches * (
        held.tables * of_shards + 2 * sum(held.dense) * of_shards + 2 * sum(held.experts) * of_data
    )
    reduce = _FLOAT * (held.learning_dense * of_shards + held.learning_experts * of_data)
    replicas = parallel.replicas
    own = held.learning_dense / shards + held.learning_experts / data
    repeat = 2 * (replicas - 1) / replicas * own * _FLOAT
    repeat += 2 * (world - 1) / world * held.learning_tied * _FLOAT
    width = _HALF if config.train.precision == "bf16" else _FLOAT
    if moved is None:
        away = (parallel.expert_parallel - 1) / parallel.expert_parallel
        moved = 2 * away * tokens * model.num_experts_per_tok * len(model.moe_layers)
    passes = 3 if config.train.activation_checkpointing else 2  # forward once or twice, backward
    sent = passes * moved * model.d_model * width
    return Volume(gather, reduce, repeat, sent)
