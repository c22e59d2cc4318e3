"""Plan: what memory, steps and disk a run will take, before it starts, and whether it fits.

The data is prepared, as in training, since the number of rows decides the rest. Not for time
(calibrate.py), nor for what a step holds (memory.py), nor for what would fit instead (shrink.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quatrain.config import Config, LoraConfig, TrainConfig
from quatrain.data.batches import Batches
from quatrain.data.prepare import PreparedData
from quatrain.model.targets import choose, num_learning
from quatrain.train.bases import bases
from quatrain.train.exam import Exam, exam_of
from quatrain.train.layer_memory import Way, Work
from quatrain.train.memory import Memory, bytes_of_weight, predict
from quatrain.train.settle import settle_intervals
from quatrain.train.site import BaseSize, Site, Where, estimated
from quatrain.train.sizes import Parameters, parameters
from quatrain.words import Sentence

_BATCHES_SEEN = 32
_SPREAD = 2.0
"""Standard deviations by which a batch may have more targets than the mean."""
_BEST, _BEING_WRITTEN = 1, 1
_SHARE_OF_MEMORY, _SHARE_OF_GPU = 0.2, 0.85
"""Shares of free memory for the steps of a base: a machine is used for other things meanwhile, a
GPU is not."""


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
    exam: Exam | None
    """The largest block of questions of an evaluation."""
    memory: Memory
    site: Site
    disk: Disk

    @property
    def free(self) -> int | None:
        """Memory of the device, in bytes; None where the system does not report it."""
        return self.site.free

    @property
    def where(self) -> Where | None:
        """Where the base of adapters will stay; None where all weights learn."""
        return self.site.where(self.config.model) if self.config.train.adapter else None

    @property
    def base(self) -> BaseSize:
        """What the base of adapters takes."""
        return self.site.base_of(self.config.model)

    @property
    def main_memory(self) -> int:
        """Bytes that the base takes in main memory beside a GPU."""
        beside = self.where is not None and self.site.on_gpu
        return self.base.in_main_memory(self.where) if beside and self.where else 0

    @property
    def steps(self) -> int | None:
        """Steps of the run; None under a budget, until a step is timed."""
        return self.config.train.max_steps

    @property
    def operations(self) -> float:
        """Floating point operations of a step: six a weight and token, eight with recomputation."""
        factor = 8 if self.config.train.activation_checkpointing else 6
        return float(factor * (self.parameters.active - self.parameters.head) * self.tokens_a_step)


def make_plan(config: Config, data: PreparedData, site: Site, free_disk: int) -> Plan:
    """Plan a run on prepared data.

    Args:
        config: settled, except perhaps max_steps and the intervals.
        data: the run's.
        site: where it will take place.
        free_disk: bytes free where the run directory is.
    """
    settled = config if config.train.max_steps is None else settle_intervals(config)
    counts = parameters(settled.model)
    work, tokens = work_of(settled, data)
    exam, learning = exam_of(settled, data), learning_of(settled)
    each = 3 * bytes_of_weight(settled.train)  # a weight and its two moments
    checkpoint = each * (counts.total if learning is None else learning)
    kept = settled.train.keep_last + _BEST + _BEING_WRITTEN
    return Plan(
        config=settled,
        parameters=counts,
        rows=len(data.train),
        work=work,
        tokens_a_step=tokens,
        exam=exam,
        memory=memory_for(settled, work, site, exam),
        site=site,
        disk=Disk(checkpoint, kept * checkpoint, free_disk),
    )


def memory_for(config: Config, work: Work, site: Site, exam: Exam | None = None) -> Memory:
    """Predict what a run holds on the device that trains, wherever its base stays."""
    learning = learning_of(config)
    if learning is None:
        return predict(config.model, config.train, work, on_gpu=site.on_gpu, exam=exam)
    where, train = site.where(config.model), config.train
    if site.on_gpu and where != "none":  # as placing.py does
        train = train.replace(activation_checkpointing=True)
    base = site.base_of(config.model).held(where, site.on_gpu)
    return predict(config.model, train, work, learning, base, site.on_gpu, exam)


def learning_of(config: Config) -> int | None:
    """Count the parameters of a run's adapters; None where all weights are trained."""
    if config.train.adapter is None:
        return None
    return num_learning(choose(config.lora, config.model), config.model)


def rows_at_once(config: Config, data: PreparedData, site: Site) -> int:
    """Choose a micro-batch: the settled one, or the largest that leaves most of the memory free.

    A GPU is used for training only, so it is filled further.
    """
    rows = config.train.micro_batch_size or 1
    if site.free is None:
        return rows
    work, _ = work_of(config, data)
    allowed = site.free * (_SHARE_OF_GPU if site.on_gpu else _SHARE_OF_MEMORY)
    batch = config.train.batch_size or 1
    for fewer in (number for number in range(rows, 1, -1) if batch % number == 0):
        smaller = work.scaled(fewer, work.length)
        changed = config.replace(train=config.train.replace(micro_batch_size=fewer))
        if memory_for(changed, smaller, site).total <= allowed:
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


def part_key(name: str) -> str:
    """Give the catalogue's key of a part of memory, such as `held back`."""
    return f"plan.part.{name.replace(' ', '_')}"


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
        four_bits = base.shape.replace(quantize="nf4")
        in_bf16, in_nf4 = (estimated(one).total for one in (base.shape, four_bits))
        found[name] = {
            "parameters": counts.total,
            "active_parameters": counts.active,
            "licence": base.licence,
            "french": base.french,
            "file": 2 * counts.total,
            "memory": predict(base.shape, train, work).total,
            "lora_memory": predict(base.shape, half, work, learning, in_bf16).total,
            "qlora_memory": predict(four_bits, half, work, learning, in_nf4).total,
            "offload_memory": predict(base.shape, half, work, learning).total,
        }
    return found


def gigabytes(size: float) -> Sentence:
    """Write a number of bytes with decimal prefixes, to three digits."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if size >= scale:
            return Sentence.of(f"formats.bytes.{unit}", size=size / scale)
    return Sentence.of("formats.bytes.k", size=size / 1e3)
