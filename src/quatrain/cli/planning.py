"""`quatrain plan`: what a run needs, and the base models."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quatrain.cli.telling import telling
from quatrain.cli.usage import size_of
from quatrain.progress import working
from quatrain.recipe import load_config
from quatrain.words import say, spoken, tell

_BAR = 30
_PIPED_WIDTH, _BASES_WIDTH = 100, 170
_FORWARD = 1 / 3
"""The share of the forward pass in the time of a step; the backward pass takes twice as long."""
_SIZES = (8, 16, 24, 32, 48, 64, 80, 96, 128, 141, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Common memory sizes of machines and GPUs, in GB."""


def run_planning(
    recipe: str,
    overrides: list[str],
    times: bool,
    as_json: bool,
    processes: int = 1,
    task: str | None = None,
    card: int | None = None,
) -> None:
    """Prepare the data, plan, time a few steps if they fit, and show the result.

    Args:
        recipe: its name or path.
        overrides: of its fields.
        times: whether to time steps; those of several processes, or of a card, are not timed.
        as_json: whether to print JSON.
        processes: that will train together; the plan is that of each of them.
        task: where the command gives it.
        card: bytes of a GPU to plan for, which need not be here.

    Raises:
        ResourceError: Q603 or Q604 after the plan is shown, if the run cannot fit.
    """
    config = load_config(recipe, overrides, **({"train": {"task": task}} if task else {}))
    with telling():
        times = times and processes == 1 and card is None
        described, refused = _planned(config, times, processes, card)
    if as_json:
        print(json.dumps(described, ensure_ascii=False))
    else:
        _show(described)
    if refused is not None:
        raise refused


def card_of(size: str | None) -> int | None:
    """Read the size of a GPU. Raises Q208."""
    return None if size is None else size_of(size, "--device-memory")


def _planned(
    config: Any, times: bool, processes: int = 1, card: int | None = None
) -> tuple[dict[str, Any], Any]:
    """Describe the plan, with the error if the run cannot fit."""
    from quatrain.data.prepare import load_and_prepare_french_data
    from quatrain.train.start import locked, resolve

    with working("progress.starting", task=config.train.task, run_dir=config.run_dir):
        start = resolve(config)
        if start.adapter is not None:
            from quatrain.train.adapted import settle_adapters

            start = settle_adapters(start)
    with locked(config.run_dir):
        config, data = load_and_prepare_french_data(start.config, start.tokenizer, start.chat)
        with working("progress.measuring"):
            import torch

            from quatrain.train.budget import is_timed
            from quatrain.train.calibrate import calibrate
            from quatrain.train.machine import free_disk
            from quatrain.train.placing import site_here, site_of_card
            from quatrain.train.plan import make_plan
            from quatrain.train.run import build_model, device_of
            from quatrain.train.settling import by_size, expect
            from quatrain.train.shrink import refusal

            if config.train.threads:
                torch.set_num_threads(config.train.threads)
            if card is None:
                site = site_here(config, device_of(config), start.weights)
            else:
                site = site_of_card(config, card, start.weights)
            disk = free_disk(config.run_dir)
            settled = by_size(config, config, data, site)
            if processes > 1:
                from quatrain.parallel.shares import among, of_each, share

                settled = of_each(settled, processes)
            plan = make_plan(settled, data, site, disk)
            if processes > 1:
                plan = share(plan, processes)
            refused, timed, seconds = refusal(plan), None, None
            if times and refused is None:
                model = build_model(plan.config, start, None)
                if is_timed(config):
                    settled, *seconds = expect(config, data, model, site)
                    plan = make_plan(settled, data, site, disk)
                timed = calibrate(plan.config, data, model)
    described = describe(plan, timed, data, seconds)
    described |= {
        "fits": refused is None, "device": "cuda" if site.on_gpu else "cpu", "card": card,
    }  # fmt: skip
    if processes > 1:
        described["processes"] = among(plan, processes)
    return described, refused


def describe(
    plan: Any, timed: Any, data: Any, seconds: list[float] | None = None
) -> dict[str, Any]:
    """Describe a plan, and what was timed, as plain values; sizes in bytes, times in seconds.

    `seconds` are those of a step and of an evaluation with its checkpoint, where a trial says so.
    """
    train, counts = plan.config.train, plan.parameters
    peak = plan.memory.peak
    return {
        "run_dir": str(plan.config.run_dir),
        "task": train.task,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "rows": plan.rows,
        "block_size": plan.config.data.block_size,
        "batch_size": train.batch_size,
        "micro_batch_size": train.micro_batch_size,
        "activation_checkpointing": train.activation_checkpointing,
        "precision": train.precision,
        "attention": plan.work.way,
        "tokens_a_step": plan.tokens_a_step,
        "operations_a_step": plan.operations,
        "memory": {
            "peak": peak.name,
            "total": peak.total,
            "parts": dict(peak.parts),
            "moments": {moment.name: moment.total for moment in plan.memory.moments},
            "free": plan.free,
            "measured_above_weights": None if timed is None else timed.peak_bytes,
        },
        "base": None
        if plan.where is None
        else {
            "total": plan.base.total,
            "where": plan.where,
            "main_memory": plan.main_memory,
        },
        "disk": {
            "checkpoint": plan.disk.checkpoint,
            "most": plan.disk.most,
            "free": plan.disk.free,
        },
        **_time(plan, timed, data, seconds),
    }


def _time(plan: Any, timed: Any, data: Any, tried: list[float] | None) -> dict[str, Any]:
    """Estimate the number of steps, and the time of steps and evaluations."""
    from quatrain.sections import seconds

    train = plan.config.train
    steps = plan.steps
    found: dict[str, Any] = {
        "steps": steps, "tokens": None, "budget": seconds(train.budget) if train.budget else None,
        "seconds": None, "step_seconds": None, "evaluation_seconds": None,
    }  # fmt: skip
    if timed is not None:
        assert steps is not None
        step, check = tried or (timed.step_seconds, _evaluation(plan, timed, data))
        interval = train.eval_interval or max(1, -(-steps // 10))
        checks = 1 + -(-steps // interval)
        found |= {"steps": steps, "step_seconds": step, "evaluation_seconds": check,
                  "evaluations": checks, "steps_timed": timed.steps,
                  "seconds": steps * step + checks * check}  # fmt: skip
    if found["steps"] is not None:
        found["tokens"] = found["steps"] * plan.tokens_a_step
    return found


def _evaluation(plan: Any, timed: Any, data: Any) -> float:
    """Estimate the time of an evaluation from those of an answer and of a step."""
    train = plan.config.train
    questions = min(plan.config.evaluate.questions, len(data.questions))
    rows = len(data.eval) if data.eval is not None else 0
    learning = rows / (train.batch_size or 1) * timed.step_seconds
    return float(questions * (timed.answer_seconds or 0.0) + learning * _FORWARD)


def _show(described: dict[str, Any]) -> None:
    from quatrain.train.plan import gigabytes

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPED_WIDTH)
    about = {name: described[name] for name in ("run_dir", "task", "device")}
    if described["card"] is not None:
        about["device"] = say("plan.card", size=gigabytes(described["card"]))
    console.print(Text(say("plan.head", **about), "bold"))
    console.print(_facts(described))
    console.print()
    console.print(_memory(described["memory"]))


def _facts(described: dict[str, Any]) -> Table:
    from quatrain.train.plan import gigabytes

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(say("plan.model"), say("plan.model.what", count=described["parameters"],
                                         active=described["active_parameters"]))  # fmt: skip
    if several := described.get("processes"):
        sent = {name: gigabytes(several["sent"][name]) for name in several["sent"]}
        table.add_row(say("plan.processes"), say("plan.processes.what", **several["mesh"]))
        table.add_row(say("plan.sent"), say("plan.sent.what", **sent))
    elif described["base"] is not None:
        table.add_row(say("plan.frozen"), _base(described))
    table.add_row(say("plan.data"), say("plan.data.what", rows=described["rows"],
                                        size=described["block_size"]))  # fmt: skip
    table.add_row(say("plan.step"), say(
        "plan.step.what", rows=described["batch_size"], at_once=described["micro_batch_size"],
        tokens=described["tokens_a_step"], operations=described["operations_a_step"] / 1e12,
    ))  # fmt: skip
    steps = say("plan.steps.budget")
    if described["steps"] is not None:
        steps = say("plan.steps.what", steps=described["steps"], tokens=described["tokens"])
    table.add_row(say("plan.steps"), steps)
    table.add_row(say("plan.time"), _clock(described))
    disk = {name: gigabytes(described["disk"][name]) for name in ("checkpoint", "most", "free")}
    table.add_row(say("plan.disk"), say("plan.disk.what", **disk))
    return table


def _base(described: dict[str, Any]) -> str:
    """Say where the base of adapters stays."""
    from quatrain.train.plan import gigabytes

    base = described["base"]
    sizes = {name: gigabytes(base[name]) for name in ("total", "main_memory")}
    return say(f"plan.frozen.{described['device']}.{base['where']}", **sizes)


def _clock(described: dict[str, Any]) -> str:
    if described["seconds"] is None:
        return say("plan.time.not_measured")
    duration = spoken().duration
    return say(
        "plan.time.what", time=duration(described["seconds"]), step=described["step_seconds"],
        timed=described["steps_timed"], evaluations=described["evaluations"],
        evaluation=duration(described["evaluation_seconds"]),
    )  # fmt: skip


def _memory(memory: dict[str, Any]) -> Table:
    from quatrain.train.plan import gigabytes, part_key

    at_peak = say("plan.memory.peak", peak=memory["peak"])
    if memory["free"] is not None:
        at_peak = say("plan.memory.peak_of", peak=memory["peak"], free=gigabytes(memory["free"]))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    beyond = memory["free"] is not None and memory["total"] > memory["free"]
    style = "bold red" if beyond else "bold"
    table.add_row(say("plan.memory"), Text(tell(gigabytes(memory["total"])), style), at_peak)
    parts = sorted(memory["parts"].items(), key=lambda part: -part[1])
    for name, size in parts:
        if size:
            bar = "█" * max(1, round(_BAR * size / memory["total"]))
            part = say(part_key(name))
            table.add_row(part, tell(gigabytes(size)), Text(bar, "red" if beyond else "blue"))
    if memory["measured_above_weights"] is not None:
        table.add_row(say("plan.measured"), tell(gigabytes(memory["measured_above_weights"])),
                      say("plan.measured.what"))  # fmt: skip
    return table


_COLUMNS = {
    "fits_here": "memory", "lora_fits_here": "lora_memory", "qlora_fits_here": "qlora_memory",
    "offload_fits_here": "offload_memory",
}  # fmt: skip
"""Ways to train a base: whether one fits, and its memory."""


def list_bases(as_json: bool) -> None:
    """List the base models, and what training them takes on this machine."""
    from quatrain.train.machine import free_memory
    from quatrain.train.plan import gigabytes, needs

    free = free_memory()
    found: list[dict[str, Any]] = [{"id": name, **need} for name, need in needs().items()]
    for one in found:
        for fits, memory in _COLUMNS.items():
            one[fits] = None if free is None else one[memory] <= free
    if as_json:
        print(json.dumps({"free": free, "bases": found}, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_BASES_WIDTH)
    heads = ("base", "total", "licence", "french", "file", "all_weights", "lora", "qlora",
             "offload", "machine")  # fmt: skip
    table = Table(*(say(f"plan.{head}") for head in heads), box=None)
    for name in ("total", *heads[4:]):
        table.columns[heads.index(name)].justify = "right"
    for one in found:
        table.add_row(
            one["id"], billions(one["parameters"]), one["licence"],
            say(f"plan.french.{one['french']}"), tell(gigabytes(one["file"])),
            *(Text(tell(gigabytes(one[memory])), "bold green" if one[fits] else "")
              for fits, memory in _COLUMNS.items()),
            say("plan.machine.both", lora=machine_for(one["qlora_memory"]),
                all=machine_for(one["memory"])),
        )  # fmt: skip
    console.print(table)
    here = say("plan.here", free=gigabytes(free)) if free is not None else ""
    console.print(Text(say("plan.bases", here=here), "dim"))


def billions(number: int) -> str:
    """Write a count of parameters: 134M, 1.24B."""
    if number >= 1e9:
        return say("plan.billions", count=number / 1e9)
    return say("plan.millions", count=number / 1e6)


def machine_for(memory: int) -> str:
    """Name the smallest common memory size, RAM or GPU, that is enough."""
    least = next((size for size in _SIZES if size * 1e9 >= memory), None)
    return say("plan.machine.what", size=str(least)) if least else say("plan.machine.beyond")
