"""A training step of expert adapters: ours against PEFT's target_parameters on transformers' model.

    python bench/adapters.py [--experts 16] [--rank 16] [--tokens 2048] [--repeats 5]

Both train the same adapters of the same weights on the same batches in float32, in a child process
each, one after the other and in turn. Printed are the medians of the steps' seconds, the peak of
each child's anonymous memory above what it has with its model read, and the losses, which must
agree: both begin with the same factors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from paired import Conditions, Watch, alternate

from quatrain.config import LoraConfig, ModelConfig
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import add_adapters
from quatrain.model.targets import choose

ROW = 512
WARM_UP = 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=["ours", "peft"])
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        write_base_and_adapter(Path(temporary), options)
        more = ("--directory", temporary)
        conditions = Conditions(threads=options.threads)
        names = ("ours", "peft")
        found = alternate(__file__, names, options.repeats, *more, conditions=conditions)
    report(found)


def write_base_and_adapter(directory: Path, options: argparse.Namespace) -> None:
    """Write random weights, and adapters of the experts that add nothing yet."""
    config = ModelConfig(
        vocab_size=8192, d_model=512, n_layers=2, n_heads=8, num_local_experts=options.experts,
        intermediate_size_expert=1024, interleave_moe_layer_step=1,
    )  # fmt: skip
    model = LlamaModel(config)
    model.save_pretrained(directory / "base")
    lora = LoraConfig(targets=("experts",), rank=options.rank)
    add_adapters(model, choose(lora, config))
    model.base = str(directory / "base")
    model.save_pretrained(directory / "adapter")


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps on random rows; time them, and watch the memory."""
    torch.set_num_threads(options.threads)
    loss_of, learning = (ours if options.child == "ours" else peft)(options.directory)
    optimizer = torch.optim.AdamW(learning, lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (options.tokens // ROW, ROW)
    seconds, losses = [], []
    with Watch() as watch:
        for _ in range(WARM_UP + options.steps):
            ids = torch.randint(8192, shape, generator=generator)
            begun = time.perf_counter()
            loss = loss_of(ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - begun)
            losses.append(float(loss))
    return {"seconds": seconds[WARM_UP:], "peak_mb": watch.peak_mb, "losses": losses}


def ours(directory: Path) -> tuple[Any, list[torch.nn.Parameter]]:
    """Open the adapter here; the loss is the training loop's own."""
    from quatrain.evaluate.loss import judge

    model = LlamaModel.from_pretrained(directory / "adapter").train()

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        judged = judge(model, ids, torch.ones_like(ids, dtype=torch.bool), None, 1024)
        return judged.loss_sum / judged.num_targets

    return loss_of, [p for p in model.parameters() if p.requires_grad]


def peft(directory: Path) -> tuple[Any, list[torch.nn.Parameter]]:
    """Open the same adapter in PEFT, on transformers' model; the loss is transformers' own."""
    from peft import PeftModel
    from transformers import Llama4ForCausalLM

    base = Llama4ForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, directory / "adapter", is_trainable=True).train()

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    return loss_of, [p for p in model.parameters() if p.requires_grad]


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians, and whether the two computed the same."""
    medians = {
        name: {
            "seconds": statistics.median(s for one in runs for s in one["seconds"]),
            "peak_mb": statistics.median(one["peak_mb"] for one in runs),
        }
        for name, runs in found.items()
    }
    pairs = zip(found["ours"][0]["losses"], found["peft"][0]["losses"], strict=True)
    print(
        json.dumps(
            {
                **medians,
                "times_as_fast": medians["peft"]["seconds"] / medians["ours"]["seconds"],
                "share_of_memory": medians["ours"]["peak_mb"] / medians["peft"]["peak_mb"],
                "largest_difference_of_losses": max(abs(a - b) for a, b in pairs),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
