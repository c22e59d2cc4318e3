"""Shrink: why a run does not fit, and the smallest change that would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from quatrain.config import Config
from quatrain.errors import ResourceError
from quatrain.train.exam import Exam
from quatrain.train.layer_memory import Work
from quatrain.train.plan import Plan, gigabytes, memory_for, part_key
from quatrain.train.site import Site
from quatrain.words import Sentence

_FEWEST_POSITIONS = 32


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
    change = smallest_change(plan.config, plan.work, plan.site, plan.exam)
    least = memory_for(plan.config, Work(1, _FEWEST_POSITIONS, 1), plan.site).total
    return ResourceError(
        "Q603.shrink" if change else "Q603.too_large",
        needed=gigabytes(peak.total),
        peak=peak.name,
        parts=parts,
        free=gigabytes(free),
        change=change,
        least=gigabytes(least),
    )


def smallest_change(config: Config, work: Work, site: Site, exam: Exam | None = None) -> str | None:
    """Find the overrides that change a run least and make it fit; None if none does.

    In this order: fewer rows at a time (the same numbers, a little slower), fewer logits at a time,
    recomputed activations (a third slower), both, for a base adapters instead of all weights, and
    finally shorter rows. Where answers take most, an evaluation takes less before all that.
    """
    assert site.free is not None
    fewer = dict[str, int | str]()
    if exam is not None:
        fewer, exam = _easier(config, work, site, exam)
    for changes, smaller in _changes(config, work):
        changed = overridden(config, {**fewer, **changes})
        if memory_for(changed, smaller, site, exam).total <= site.free:
            return " ".join(_said(name, value) for name, value in {**fewer, **changes}.items())
    return None


def _said(name: str, value: Any) -> str:
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def overridden(config: Config, changes: Mapping[str, Any]) -> Config:
    """Replace fields that are named as overrides name them."""
    for name, value in changes.items():
        section, field = name.split(".")
        config = config.replace(**{section: getattr(config, section).replace(**{field: value})})
    return config


def _easier(
    config: Config, work: Work, site: Site, exam: Exam
) -> tuple[dict[str, int | str], Exam]:
    """Let an exam take less until it fits: fewer answers side by side, then less is kept of them.

    Nothing is changed where steps take more than answers.
    """
    memory, found = memory_for(config, work, site, exam), (dict[str, int | str](), exam)
    if memory.peak is not memory.moments[-1]:
        return found
    for found in _easier_ones(config, exam):
        answers = memory_for(config, work, site, found[1]).moments[-1]
        if answers.total <= (site.free or 0):
            break
    return found


def _easier_ones(config: Config, exam: Exam) -> Iterator[tuple[dict[str, int | str], Exam]]:
    rows, megabytes = exam.rows, exam.bound(config.model) // 10**6
    needed = -(-exam.needed(config.model) // 10**6)
    while rows > 1:
        rows //= 2
        options = exam.options.replace(batch_size=rows)
        yield {"generate.batch_size": rows}, replace(exam, options=options)
    while megabytes > needed:
        megabytes = max(needed, megabytes // 2)
        kept = f"{megabytes}MB"
        yield (
            {"generate.kv_memory": kept},
            replace(exam, options=exam.options.replace(kv_memory=kept)),
        )


def _changes(config: Config, work: Work) -> Iterator[tuple[dict[str, Any], Work]]:
    rows = list(_fewer_rows(config, work))
    recompute: dict[str, Any] = {"train.activation_checkpointing": True}
    chunk: dict[str, Any] = {"train.loss_chunk_size": min(256, config.train.loss_chunk_size)}
    yield {}, work
    yield from rows
    yield chunk, work
    yield recompute, work
    for change, smaller in rows:
        yield {**change, **recompute}, smaller
    least, smallest = rows[-1] if rows else ({}, work)
    yield {**least, **chunk, **recompute}, smallest
    if config.model.init is not None and config.train.adapter is None:
        yield {"train.adapter": "lora"}, work
        yield {**least, **chunk, **recompute, "train.adapter": "lora"}, smallest
    length = work.length // 2
    while length >= _FEWEST_POSITIONS:
        shorter = smallest.scaled(smallest.rows, length)
        yield {**least, **chunk, **recompute, "data.block_size": length}, shorter
        length //= 2


def _fewer_rows(config: Config, work: Work) -> Iterator[tuple[dict[str, Any], Work]]:
    batch = config.train.batch_size or 1
    for rows in range(work.rows - 1, 0, -1):
        if batch % rows == 0:
            yield {"train.micro_batch_size": rows}, work.scaled(rows, work.length)
