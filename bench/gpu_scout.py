"""Llama 4 Scout's whole text shape trained with adapters on one GPU, its base in four bits.

    python bench/gpu_scout.py [--save] [--layers 48] [--cap 24] [--device cpu --small]

The base is random codes of nf4, made on the device; rows of 4,096 random ids, rank 16 on attention,
shared and routed experts, layers recomputed. First with the base on the GPU, then with the memory
capped and the base in main memory, from which it visits layer by layer. Each prints tokens a
second, the peak, and where a step's time goes. `--device cpu --small` proves the script.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch

from quatrain.config import LoraConfig, ModelConfig
from quatrain.evaluate.loss import judge
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

SMALL = dict(
    d_model=128, n_heads=4, n_kv_heads=2, d_k=32, num_local_experts=4, vocab_size=512,
    intermediate_size_expert=128, intermediate_size_mlp=256,
)  # fmt: skip
SCALE = 0.05
"""Of each block: values are then about as large as those of a trained model."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true", help="print as a table row for results")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--row", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=8, help="of a step, one at a time")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--cap", type=float, default=24, help="GB for the second part")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device", file=sys.stderr)
        return 2
    fields = SMALL if options.small else {}
    preset = [] if options.small else ["model.preset=scout"]
    base = load_config(None, preset).model if preset else ModelConfig(**SMALL)
    config = ModelConfig(**{**base.model_dump(exclude_unset=True), **fields,
                            "n_layers": options.layers})  # fmt: skip
    for name, visits in (("on the device", False), ("in main memory", True)):
        print(json.dumps({"base": name, **measured(config, options, visits)}), flush=True)
    return 0


def measured(config: ModelConfig, options: argparse.Namespace, visits: bool) -> dict[str, Any]:
    """Train a few steps; give tokens a second and the peak."""
    device, on_gpu = torch.device(options.device), options.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total = torch.cuda.get_device_properties(0).total_memory
        share = min(1.0, options.cap * 1e9 / total) if visits else 1.0
        torch.cuda.set_per_process_memory_fraction(share)
    model = base_of(config, torch.device("cpu") if visits else device)
    with torch.device("cpu" if visits else device):
        add_adapters(model, choose(LoraConfig(rank=16), config), dtype=torch.float32)
    model.model.activation_checkpointing = True
    if visits:
        offload(list(model.model.layers), device, pinned=True)
    model.to(device).train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    ids = torch.randint(0, config.vocab_size, (options.rows, options.row))
    mask = torch.rand(ids.shape) < 0.25
    seconds = []
    for _ in range(options.steps):
        began = time.perf_counter()
        for row in range(options.rows):
            with torch.autocast(device.type, torch.bfloat16):
                judged = judge(model, ids[row : row + 1].to(device), mask[row : row + 1], None, 512)
            (judged.loss_sum / int(mask.sum())).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    best = min(seconds[1:] or seconds)
    return {"tokens_per_second": round(ids.numel() / best), "step_seconds": seconds,
            "peak_gb": peak, "learning": sum(p.numel() for p in learning)}  # fmt: skip


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
            "codes": torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8, device=device),
            "scales": torch.full((rows, width // 64), 127, dtype=torch.uint8, device=device),
            "nested": torch.zeros(-(-rows * width // 64 // 256), device=device),
            "offset": torch.tensor(SCALE, device=device),
        }
        matrices = (Matrix(KINDS["nf4"], stored, parts),)
    return LazyTensor(shape, torch.bfloat16, drawn, matrices)


if __name__ == "__main__":
    sys.exit(main())
