"""A whole training step: ours against transformers' Llama4ForCausalLM, or another one of ours.

    python bench/step.py [--layers 8] [--experts 16] [--dtype fp32|bf16|autocast] [--against dense]

A step is forward, loss, backward, clipping and fused AdamW, on rows of random ids of which every
token but a row's first is a target. Both sides have the same weights and meet the same batches, so
that their losses must agree, after updates too; the dense twin has other weights, and as many
active parameters. `--against wrapped` is our own step in a group of one process, with all that
divides a model among several (parallel/): what its machinery costs. `--dtype` holds for both
sides: fp32; bf16, with bfloat16 weights, gradients and moments; autocast, bfloat16 products over
float32 weights.

transformers' own loop of training steps is left out, which can only add to its side: clipping and
AdamW are called directly. Each side clips as its loop does: ours has AdamW scale gradients that are
too large, where PyTorch's function scales all of them first. `active_flops.py` says what of a
step counts as work; memory is the peak above what the process has after its imports, so that
weights and moments are in it. With `--against none` the limit is measured between the steps, so
that both are of one phase of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from active_flops import step_flops
from paired import (
    WARM_UP,
    Conditions,
    Found,
    Watch,
    add_arguments,
    alternate,
    figures,
    medians,
    ratio,
    timed,
    timed_between_limits,
)
from saving import finish
from sides import as_in_a_run, dense_twin, ours, shape, theirs

from quatrain.config import Config, ModelConfig, ParallelConfig, TrainConfig
from quatrain.data.batches import Batch
from quatrain.model.llama import LlamaModel
from quatrain.train.alone import ALONE, Alone
from quatrain.train.loop import accumulate
from quatrain.train.optim import make_optimizer, set_learning_rate
from quatrain.train.products import meet_experts

RATE, CLIP = 1e-4, 1.0
"""At ten times that rate a router that learns from random ids soon sends all to one expert."""
SMOKE = dict(
    layers=2, experts=4, width=64, inner=64, heads=2, kv_heads=1, vocab=256, row=32, tokens=128,
    steps=2, warm_up=1, repeats=1,
)  # fmt: skip


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options)))
        return
    names = ("ours",) if options.against == "none" else ("ours", options.against)
    found = alternate(__file__, names, options.repeats, conditions=Conditions.of(options))
    finish("step", name_of(options), options, summed_up(found, options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--against", choices=["transformers", "dense", "wrapped", "none"], default="transformers"
    )
    for name, default in (
        ("layers", 8), ("experts", 16), ("width", 512), ("inner", 1024), ("heads", 8),
        ("kv-heads", 4), ("vocab", 8192), ("row", 512), ("tokens", 4096), ("steps", 3),
        ("warm-up", WARM_UP),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--micro-rows", type=int, help="rows at a time, on both sides")
    parser.add_argument("--checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--even", action="store_true", help="set for both what our runs set")
    add_arguments(parser)
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    return options


def name_of(options: argparse.Namespace) -> str:
    """Name a result by what the pages ask for."""
    parts = ["step", f"{options.layers}-layers", f"{options.experts}-experts", options.dtype]
    parts += [options.against] * (options.against != "transformers")
    parts += ["even"] * options.even + ["cuda"] * (options.device == "cuda")
    parts += [f"d{options.width}"] * (options.width != 512)
    return "-".join(parts)


def config_of(options: argparse.Namespace) -> ModelConfig:
    config = shape(
        n_layers=options.layers, num_local_experts=options.experts, d_model=options.width,
        intermediate_size_expert=options.inner, n_heads=options.heads,
        n_kv_heads=options.kv_heads, vocab_size=options.vocab,
    )  # fmt: skip
    return dense_twin(config) if options.child == "dense" else config


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps; time them, and watch the memory."""
    torch.set_num_threads(options.threads)
    config = config_of(options)
    side = {"transformers": their_step, "wrapped": wrapped_step}.get(options.child, our_step)
    draw = np.random.default_rng(0)
    rows = options.tokens // options.row
    losses: list[float] = []
    with Watch(options.device) as watch, as_in_a_run(side is not their_step or options.even):
        step = side(config, options)

        def one() -> None:
            losses.append(step(draw.integers(0, config.vocab_size, (rows, options.row))))

        found: dict[str, Any] = {}
        if options.against == "none":
            found["seconds"], found["limits"] = timed_between_limits(
                one, options.warm_up, options.steps, Conditions.of(options)
            )
        else:
            found["seconds"] = timed(one, options.warm_up, options.steps, options.device)
    documents = [options.row] * rows
    flops = step_flops(config, documents, rows * (options.row - 1))
    return {**found, "peak_mb": watch.peak_mb, "losses": losses,
            "tokens": rows * options.row, "flops": flops}  # fmt: skip


def our_step(
    config: ModelConfig, options: argparse.Namespace
) -> Callable[[np.ndarray[Any, Any]], float]:
    """Make our model and its optimizer; give what takes a step, as the training loop does."""
    model = ours(config, Conditions.of(options).weights, options.device)
    return step_of(model, options)


def wrapped_step(
    config: ModelConfig, options: argparse.Namespace
) -> Callable[[np.ndarray[Any, Any]], float]:
    """Do the same in a group of one process, whose weights and experts are divided by one."""
    import torch.distributed as dist

    from quatrain.parallel.experts import spread
    from quatrain.parallel.seat import Seat
    from quatrain.parallel.sharding import Meshes
    from quatrain.parallel.team import Team

    library: Any = dist  # torch's stores have no types
    backend = "cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo"
    dist.init_process_group(backend, store=library.HashStore(), rank=0, world_size=1)
    model = ours(config, Conditions.of(options).weights, options.device)
    team = Team(Seat(0, 1, 0, "here"), 60.0)
    spread(model, Meshes.of(options.device, 1, 1, 1).expert)
    whole = Config.model_construct(parallel=ParallelConfig())
    return step_of(team.placed(model, whole, torch.device(options.device)), options, team)


def step_of(
    model: LlamaModel, options: argparse.Namespace, team: Alone = ALONE
) -> Callable[[np.ndarray[Any, Any]], float]:
    model.model.activation_checkpointing = options.checkpointing
    precision = "bf16" if options.dtype == "autocast" else "fp32"
    train = TrainConfig(
        learning_rate=RATE, micro_batch_size=options.micro_rows, precision=precision
    )
    optimizer = team.optimizer(model, train)
    set_learning_rate(optimizer, RATE)
    num_tokens = options.micro_rows * options.row if options.micro_rows else options.tokens
    meet_experts(model, num_tokens, precision)

    def step(ids: np.ndarray[Any, Any]) -> float:
        length = ids.shape[1]
        mask = np.ones_like(ids, dtype=np.bool_)
        batch = Batch(ids, mask, [[length]] * len(ids), np.arange(len(ids)), 0.0)
        loss = accumulate(model, batch, train, team=team).loss
        team.update(optimizer, team.norm(model), CLIP)
        return loss

    return step


def their_step(
    config: ModelConfig, options: argparse.Namespace
) -> Callable[[np.ndarray[Any, Any]], float]:
    """Make transformers' model and an optimizer as ours; give what takes a step."""
    conditions = Conditions.of(options)
    model = theirs(config, conditions.weights, options.device)
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE))
    set_learning_rate(optimizer, RATE)

    def step(ids: np.ndarray[Any, Any]) -> float:
        parts = torch.from_numpy(ids).to(options.device).split(options.micro_rows or len(ids))
        total = 0.0
        for part in parts:
            with autocast(options):
                loss = model(input_ids=part, labels=part, use_cache=False).loss
            (loss / len(parts)).backward()
            total += loss.detach() / len(parts)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total)

    return step


def autocast(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    if options.dtype != "autocast":
        return contextlib.nullcontext()
    return torch.autocast(options.device, torch.bfloat16)


def summed_up(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the sides: how often as fast, the share of memory, whether they computed alike."""
    result: dict[str, Any] = {name: figures(runs) for name, runs in found.items()}
    if options.against == "none":
        return result
    peer = found[options.against]
    result["times_as_fast"] = ratio(medians(peer), medians(found["ours"]))
    most = max(1, result[options.against]["peak_mb"])
    result["share_of_memory"] = result["ours"]["peak_mb"] / most
    if options.against in ("transformers", "wrapped"):
        pairs = list(zip(found["ours"][0]["losses"], peer[0]["losses"], strict=True))
        result["losses"] = pairs
        result["largest_difference_of_losses"] = max(abs(a - b) for a, b in pairs)
    return result


if __name__ == "__main__":
    main()
