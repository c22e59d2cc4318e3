"""A training step of one layer of Scout's shape beside a base in bfloat16, and in four bits.

    python bench/stored_layer.py [--tokens 4096] [--steps 3] [--small]

Adapters of rank 8 on every matrix, rows of 512 random ids, bfloat16 products, the layer recomputed.
Both bases are in memory, with the same weights, and take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from sides import as_in_a_run

from quatrain.config import LoraConfig, ModelConfig
from quatrain.evaluate.loss import judge
from quatrain.model.io import Form, model_of
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters
from quatrain.model.shards import LazyTensor
from quatrain.model.targets import choose
from quatrain.recipe import load_config
from quatrain.train.machine import keep_freed_memory

ROW, DRAWN = 512, 1 << 22
SHAPE = ("model.preset=scout", "model.n_layers=1", "model.vocab_size=2048")
NARROW = ("model.d_model=256", "model.n_heads=4", "model.n_kv_heads=2", "model.d_k=64",
          "model.intermediate_size_expert=256", "model.intermediate_size_shared=256")  # fmt: skip
FORMS = {"bf16": Form(torch.float32), "nf4": Form(torch.float32, "nf4")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="shows nothing, in seconds")
    options = parser.parse_args()
    keep_freed_memory()
    shape = load_config(None, [*SHAPE, *(NARROW if options.small else ())]).model
    models, ids = made(shape), torch.randint(0, 2048, (options.tokens // ROW, ROW))
    found: dict[str, list[float]] = {name: [] for name in models}
    with as_in_a_run():
        for _ in range(options.steps):
            for name, model in models.items():
                began = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16):
                    judged = judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, ROW)
                (judged.loss_sum / ids.numel()).backward()
                model.zero_grad(set_to_none=True)
                found[name].append(round(time.perf_counter() - began, 2))
    ratio = min(found["nf4"][1:]) / min(found["bf16"][1:])
    print(json.dumps({"seconds": found, "nf4 over bf16": round(ratio, 3)}))


def made(shape: ModelConfig) -> dict[str, LlamaModel]:
    """Make both models of the same random weights."""
    pool = (torch.randn(DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    with torch.device("meta"):
        wanted = LlamaModel(shape).state_dict()
    tensors = {}
    for name, one in wanted.items():
        drawn = torch.ones(one.shape, dtype=torch.bfloat16)
        for part in drawn.view(-1).split(DRAWN) if one.ndim > 1 else ():
            part.copy_(pool[: len(part)])
        tensors[name] = LazyTensor.of(drawn)
    models = {}
    for name, form in FORMS.items():
        model = models[name] = model_of(shape, tensors, form=form).train()
        add_adapters(model, choose(LoraConfig(rank=8), shape), dtype=torch.float32)
        model.model.activation_checkpointing = True
    return models


if __name__ == "__main__":
    main()
