"""Plan: what memory, steps and disk a run will take, before it starts, and whether it fits.

The data is prepared, as in training, since the number of rows decides the rest. Not for time
(calibrate.py), nor for what a step holds (memory.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from quatrain.config import Config, LoraConfig, TrainConfig
from quatrain.data.batches import Batches
from quatrain.data.prepare import PreparedData
from quatrain.errors import ResourceError
from quatrain.model.targets import choose, num_learning
from quatrain.train.bases import bases
from quatrain.train.machine import free_memory
from quatrain.train.memory import Memory, Way, Work, bytes_of_weight, predict
from quatrain.train.settle import settle_intervals
from quatrain.train.sizes import Parameters, parameters
from quatrain.words import Sentence

_BATCHES_SEEN = 32
_FEWEST_POSITIONS = 32
_SPREAD = 2.0
"""Standard deviations by which a batch may have more targets than the mean."""
_BEST, _BEING_WRITTEN = 1, 1
_SHARE_OF_MEMORY, _SHARE_OF_GPU = 0.2, 0.85
"""Shares of free memory for the steps of a base: evaluations take more, and a machine is used for
other things meanwhile, a GPU is not."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What checkpoints take, in bytes."""

    checkpoint: int
    most: int
    """Of those kept, the best one, and one that is being written."""
    free: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take."""

    config: Config
    """Settled; max_steps is None where only a budget ends the run."""
    parameters: Parameters
    rows: int
    work: Work
    """The largest micro-batch to be expected."""
    tokens_a_step: int
    memory: Memory
    free: int | None
    """Memory, in bytes; None where the system does not report it."""
    disk: Disk

    @property
    def steps(self) -> int | None:
        """Steps of the run; None under a budget, until a step is timed."""
        return self.config.train.max_steps

    @property
    def operations(self) -> float:
        """Floating point operations of a step: six a weight and token, eight with recomputation."""
        factor = 8 if self.config.train.activation_checkpointing else 6
        return float(factor * (self.parameters.active - self.parameters.head) * self.tokens_a_step)


def make_plan(
    config: Config,
    data: PreparedData,
    free: int | None,
    free_disk: int,
    on_gpu: bool = False,
) -> Plan:
    """Plan a run on prepared data.

    Args:
        config: settled, except perhaps max_steps and the intervals.
        data: the run's.
        free: bytes of memory that a process may take, on the device that trains.
        free_disk: bytes free where the run directory is.
        on_gpu: whether a GPU trains, which holds all weights.
    """
    settled = config if config.train.max_steps is None else settle_intervals(config)
    counts = parameters(settled.model)
    work, tokens = work_of(settled, data)
    learning = learning_of(settled)
    each = 3 * bytes_of_weight(settled.train)  # a weight and its two moments
    checkpoint = each * (counts.total if learning is None else learning)
    kept = settled.train.keep_last + _BEST + _BEING_WRITTEN
    return Plan(
        config=settled,
        parameters=counts,
        rows=len(data.train),
        work=work,
        tokens_a_step=tokens,
        memory=predict(settled.model, settled.train, work, learning, not on_gpu),
        free=free,
        disk=Disk(checkpoint, kept * checkpoint, free_disk),
    )


def learning_of(config: Config) -> int | None:
    """Count the parameters of a run's adapters; None where all weights are trained."""
    if config.train.adapter is None:
        return None
    return num_learning(choose(config.lora, config.model), config.model)


def memory_of(device: Any) -> int | None:
    """Say how many bytes a run may take on a device; None where the system does not report it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def rows_at_once(config: Config, data: PreparedData, free: int | None, on_gpu: bool) -> int:
    """Choose a micro-batch: the settled one, or the largest that leaves most of the memory free.

    A GPU is used for training only, so it is filled further.
    """
    rows = config.train.micro_batch_size or 1
    if free is None:
        return rows
    work, _ = work_of(config, data)
    allowed = free * (_SHARE_OF_GPU if on_gpu else _SHARE_OF_MEMORY)
    batch, learning = config.train.batch_size or 1, learning_of(config)
    for fewer in (number for number in range(rows, 1, -1) if batch % number == 0):
        train = config.train.replace(micro_batch_size=fewer)
        smaller = _scaled(work, fewer, work.length)
        if predict(config.model, train, smaller, learning, not on_gpu).total <= allowed:
            return fewer
    return 1


def work_of(config: Config, data: PreparedData) -> tuple[Work, int]:
    """Describe the largest micro-batch to be expected, and the tokens of a step, from the rows."""
    batch = config.train.batch_size or 1
    micro = min(config.train.micro_batch_size or batch, batch)
    batches = Batches(data.train, micro, config.train.seed)
    number = min(_BATCHES_SEEN, max(1, len(data.train) // micro))
    seen = [batches.batch(index) for index in range(number)]
    targets = np.array([int(one.mask[:, 1:].sum()) for one in seen])
    length = max(one.ids.shape[1] for one in seen)
    expected = float(targets.mean() + _SPREAD * targets.std())
    most = min(round(expected), micro * (length - 1))
    used = np.mean([sum(map(sum, one.segments)) for one in seen])
    ways = [attention_of(one.segments, one.ids.shape[1], config.model.n_heads) for one in seen]
    work = Work(micro, length, max(1, most), ways[0][0], max(kept for _, kept in ways))
    return work, round(float(used) * batch / micro)


def attention_of(segments: list[list[int]], length: int, heads: int) -> tuple[Way, float]:
    """Say how attention will be computed on a CPU, and how many softmax weights it keeps.

    Returns:
        two fields of Work.
    """
    import torch

    from quatrain.model.attention import kernel_is_faster
    from quatrain.model.blocks import weights_kept
    from quatrain.model.layout import Layout

    runs = Layout.of((len(segments), length), segments, None, torch.device("cpu")).documents
    assert runs is not None
    if kernel_is_faster(runs, length):
        return "kernel", 0.0
    return "blocks", weights_kept(runs, heads)


def refusal(plan: Plan) -> ResourceError | None:
    """Say why a run does not fit, and the smallest change that would make it fit; else None.

    Returns:
        Q603 for memory, Q604 for the disk.
    """
    if plan.free is not None and plan.memory.total > plan.free:
        return _too_large(plan, plan.free)
    if plan.disk.most > plan.disk.free:
        return ResourceError(
            "Q604.checkpoints",
            most=gigabytes(plan.disk.most),
            each=gigabytes(plan.disk.checkpoint),
            free=gigabytes(plan.disk.free),
            run_dir=plan.config.run_dir,
        )
    return None


def _too_large(plan: Plan, free: int) -> ResourceError:
    peak = plan.memory.peak
    largest = sorted(peak.parts.items(), key=lambda part: -part[1])[:3]
    parts = tuple(
        Sentence.of("errors.part", part=Sentence.of(part_key(name)), size=gigabytes(size))
        for name, size in largest
    )
    change = smallest_change(plan.config, plan.work, free)
    least = predict(
        plan.config.model,
        plan.config.train,
        Work(1, _FEWEST_POSITIONS, 1),
        learning_of(plan.config),
    ).total
    return ResourceError(
        "Q603.shrink" if change else "Q603.too_large",
        needed=gigabytes(peak.total),
        peak=peak.name,
        parts=parts,
        free=gigabytes(free),
        change=change,
        least=gigabytes(least),
    )


def part_key(name: str) -> str:
    """Give the catalogue's key of a part of memory, such as `held back`."""
    return f"plan.part.{name.replace(' ', '_')}"


def smallest_change(config: Config, work: Work, free: int) -> str | None:
    """Find the overrides that change a run least and make it fit; None if none does.

    In this order: fewer rows at a time (the same numbers, a little slower), fewer logits at a time,
    recomputed activations (a third slower), both, for a base adapters instead of all weights, and
    finally shorter rows.
    """
    for changes, smaller in _changes(config, work):
        train = config.train.replace(**{k: v for k, v in changes.items() if k != "block_size"})
        learning = learning_of(config.replace(train=train))
        if predict(config.model, train, smaller, learning).total <= free:
            return " ".join(
                f"{'data' if name == 'block_size' else 'train'}.{name}={str(value).lower()}"
                for name, value in changes.items()
            )
    return None


def _changes(config: Config, work: Work) -> Iterator[tuple[dict[str, Any], Work]]:
    rows = list(_fewer_rows(config, work))
    recompute: dict[str, Any] = {"activation_checkpointing": True}
    chunk: dict[str, Any] = {"loss_chunk_size": min(256, config.train.loss_chunk_size)}
    yield from rows
    yield chunk, work
    yield recompute, work
    for change, smaller in rows:
        yield {**change, **recompute}, smaller
    least, smallest = rows[-1] if rows else ({}, work)
    yield {**least, **chunk, **recompute}, smallest
    if config.model.init is not None and config.train.adapter is None:
        yield {"adapter": "lora"}, work
        yield {**least, **chunk, **recompute, "adapter": "lora"}, smallest
    length = work.length // 2
    while length >= _FEWEST_POSITIONS:
        shorter = _scaled(smallest, smallest.rows, length)
        yield {**least, **chunk, **recompute, "block_size": length}, shorter
        length //= 2


def _fewer_rows(config: Config, work: Work) -> Iterator[tuple[dict[str, Any], Work]]:
    batch = config.train.batch_size or 1
    for rows in range(work.rows - 1, 0, -1):
        if batch % rows == 0:
            yield {"micro_batch_size": rows}, _scaled(work, rows, work.length)


def _scaled(work: Work, rows: int, length: int) -> Work:
    share = rows * length / work.tokens
    return Work(rows, length, max(1, round(work.targets * share)), work.way, work.weights_kept)


def needs(length: int = 512) -> dict[str, dict[str, Any]]:
    """List for each known base its parameters, its bf16 file size, and the memory to train it.

    The memory is for one row of `length` tokens at a time, with recomputed activations: for all
    weights in float32, or for adapters of the default rank, computed in bf16, beside a base in
    bf16 or nf4 that is in memory, or one that stays in its file.
    """
    found: dict[str, dict[str, Any]] = {}
    train = TrainConfig(batch_size=1, micro_batch_size=1, activation_checkpointing=True)
    work = Work(1, length, length // 4)
    for name, base in bases().items():
        counts = parameters(base.shape)
        learning = num_learning(choose(LoraConfig(), base.shape), base.shape)
        half = train.replace(precision="bf16")
        beside = predict(base.shape, half, work, learning).total
        four_bits = base.shape.replace(quantize="nf4")
        found[name] = {
            "parameters": counts.total,
            "active_parameters": counts.active,
            "licence": base.licence,
            "french": base.french,
            "file": 2 * counts.total,
            "memory": predict(base.shape, train, work).total,
            "lora_memory": predict(base.shape, half, work, learning, mapped=False).total,
            "qlora_memory": predict(four_bits, half, work, learning, mapped=False).total,
            "offload_memory": beside,
        }
    return found


def gigabytes(size: float) -> Sentence:
    """Write a number of bytes with decimal prefixes, to three digits."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if size >= scale:
            return Sentence.of(f"formats.bytes.{unit}", size=size / scale)
    return Sentence.of("formats.bytes.k", size=size / 1e3)
