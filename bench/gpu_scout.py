"""Llama 4 Scout's whole text shape trained with adapters on one GPU, its base in four bits.

    python bench/gpu_scout.py [--save]                      stops at eight minutes
    python bench/gpu_scout.py --device cpu --small          proves the script

The base is random codes of nf4; rows are 4,096 random ids. First the recipe scout-qlora, with the
base on the GPU; then scout-qlora-24gb, with the GPU's memory capped to 24 GB and the base in main
memory, from which it visits layer by layer. Each gives tokens a second, the peak of the GPU's
memory, what `quatrain plan` says of it, and where the time of one row goes, by operation.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from device_parity import NO_CUDA
from parts import run_parts
from saving import finish
from torch.profiler import ProfilerActivity, profile

from quatrain.config import Config, ModelConfig
from quatrain.data.batches import Batch
from quatrain.model.frozen import Matrix
from quatrain.model.io import Form, model_of
from quatrain.model.kinds import KINDS
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters
from quatrain.model.offload import offload
from quatrain.model.shards import LazyTensor
from quatrain.model.stored import may_be_stored, outputs_first
from quatrain.model.targets import choose
from quatrain.recipe import load_config
from quatrain.train.layer_memory import Work
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update
from quatrain.train.plan import memory_for
from quatrain.train.site import Site, estimated

LIMIT = 470.0
"""Seconds in all."""
PLACES = {"device": "scout-qlora", "host": "scout-qlora-24gb"}
"""Where the base is, and the recipe."""
SMALL = dict(
    vocab_size=512, d_model=128, n_heads=4, n_kv_heads=2, d_k=32, num_local_experts=4,
    intermediate_size_expert=128, intermediate_size_mlp=256, interleave_moe_layer_step=1,
)  # fmt: skip
SCALE = 0.05
"""Of each block: values are then about as large as those of a trained model."""
TARGETS = 0.25
"""The share of ids that are learnt."""
SHOWN = 12
"""Operations that take most."""


def main() -> int:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    if options.place is None:
        parts = {place: ("gpu_scout.py", "--place", place) for place in PLACES}
        return run_parts(parts, LIMIT, sys.argv[1:])
    name = "-".join(["gpu-scout", options.place, *["small"] * options.small])
    finish("gpu-scout", name, options, measured(options))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--save", action="store_true", help="keep the results in bench/results")
    parser.add_argument("--place", choices=PLACES, help="only with the base there")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--row", type=int, default=4096, help="its tokens")
    parser.add_argument("--rows", type=int, default=8, help="of a step, one at a time")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cap", type=float, default=24, help="GB of the GPU for the second part")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny layers, for a trial")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps."""
    config, device = config_of(options), torch.device(options.device)
    visits = options.place == "host"
    if device.type == "cuda" and visits:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap * 1e9 / total))
    model = model_for(config, device, visits)
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, 1e-4)
    batch, seconds = batch_of(config, options.row), list[float]()
    for step in range(options.steps):
        began = time.perf_counter()
        accumulate(model, batch, config.train, step)
        update(optimizer, gradient_norm(model), config.train.max_grad_norm)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    best = min(seconds[1:] or seconds)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "tokens_per_second": round(batch.ids.size / best), "step_seconds": seconds,
        "peak_gb": None if peak is None else peak / 1e9,
        "planned_gb": planned(config, batch, learning, visits) / 1e9,
        "learning": learning, "milliseconds": by_operation(model, batch, config, device),
    }  # fmt: skip


def config_of(options: argparse.Namespace) -> Config:
    """Take the recipe, and the shape that its base would have."""
    recipe = load_config(PLACES[options.place], [])
    shape = {"n_layers": options.layers, "quantize": "nf4", "offload":
             "host" if options.place == "host" else "none"}  # fmt: skip
    scout = load_config(None, ["model.preset=scout"]).model
    fields = {**scout.model_dump(exclude_unset=True), **(SMALL if options.small else {}), **shape}
    train = recipe.train.replace(batch_size=options.rows, balance_loss_coef=0.0)
    return recipe.replace(train=train).model_copy(update={"model": ModelConfig(**fields)})


def model_for(config: Config, device: torch.device, visits: bool) -> LlamaModel:
    """Make the adapted model, its base on the device or beside it."""
    beside = torch.device("cpu") if visits else device
    model = base_of(config.model, beside)
    with beside:
        add_adapters(model, choose(config.lora, config.model), dtype=torch.float32)
    model.model.activation_checkpointing = True
    if visits:
        offload(list(model.model.layers), device, pinned=True)
    return model.to(device).train()


def batch_of(config: Config, length: int) -> Batch:
    """Draw rows that are one document each."""
    draw, rows = np.random.default_rng(0), config.train.batch_size or 1
    ids = draw.integers(0, config.model.vocab_size, (rows, length))
    return Batch(ids, draw.random(ids.shape) < TARGETS, [[length]] * rows, np.arange(rows), 0.0)


def planned(config: Config, batch: Batch, learning: int, visits: bool) -> int:
    """Say what `quatrain plan` says of the device's memory."""
    base = estimated(config.model)
    site = Site(on_gpu=True, halves=True, free=None, base=base)
    work = Work(1, batch.ids.shape[1], int(batch.mask[0].sum()), way="kernel")
    return memory_for(config, work, site).total


def by_operation(
    model: LlamaModel, batch: Batch, config: Config, device: torch.device
) -> dict[str, float]:
    """Give the milliseconds of operations in a step of one row, those that take most."""
    one = Batch(batch.ids[:1], batch.mask[:1], batch.segments[:1], batch.indices[:1], 0.0)
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        accumulate(model, one, config.train)
        wait_for(device)
    each = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3
        for event in profiler.key_averages()
    }
    most = sorted(each.items(), key=lambda item: -item[1])[:SHOWN]
    return {"all": round(sum(each.values()), 1), **{name: round(ms, 1) for name, ms in most}}


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def base_of(config: ModelConfig, device: torch.device) -> LlamaModel:
    """Make a model whose matrices are random codes, and whose tables are random in bfloat16."""
    with torch.device("meta"):
        shapes = LlamaModel(config).state_dict()
    tensors = {name: lazy(name, tuple(one.shape), device) for name, one in shapes.items()}
    return model_of(config, tensors, device=str(device), form=Form(torch.float32))


def lazy(name: str, shape: tuple[int, ...], device: torch.device) -> LazyTensor:
    def drawn() -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16, device=device)
        return torch.randn(shape, dtype=torch.bfloat16, device=device) * 0.02

    matrices: tuple[Matrix, ...] = ()
    if may_be_stored(name):
        stored = tuple(outputs_first(torch.empty(shape, device="meta")).shape)
        rows, width = torch.Size(stored[:-1]).numel(), stored[-1]
        parts = {
            "codes": codes(rows, width // 2, device).clone(),
            "scales": torch.full((rows, width // 64), 127, dtype=torch.uint8, device=device),
            "nested": torch.zeros(-(-rows * width // 64 // 256), device=device),
            "offset": torch.tensor(SCALE, device=device),
        }
        matrices = (Matrix(KINDS["nf4"], stored, parts),)
    return LazyTensor(shape, torch.bfloat16, drawn, matrices)


@cache
def codes(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Draw codes, once for each shape: drawing takes longer than copying."""
    return torch.randint(0, 256, (rows, width), dtype=torch.uint8, device=device)


if __name__ == "__main__":
    sys.exit(main())
