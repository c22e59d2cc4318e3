"""One MoE layer alone, forward and backward: ours against transformers' Llama4TextMoe, and over E.

    python bench/moe_layer.py [--experts 4,16,64] [--dtype fp32|bf16] [--device cpu|cuda]

Four thousand tokens meet a layer of E experts, top-1, with the router's own choice. The shared
expert is left out on both sides, unless --shared is given: it is the same dense product in both,
and would hide what is measured. Printed are, for each E, how often as fast ours is; and what ours
at the most experts costs over ours at the fewest, at equal tokens and, per token, at equal tokens
an expert. A peer that would not fit into free memory, or has more experts than --peer-experts, is
left out, and named.

On a CUDA device the layer of Scout's dimensions (d 5120, I 8192, 16 experts, 16k tokens) is
measured too, as ours alone.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from active_flops import FORWARD_AND_BACKWARD, moe_flops
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
)
from saving import finish
from sides import as_in_a_run, filled, generator, shape, their_config
from torch import Tensor, nn

from quatrain.config import ModelConfig
from quatrain.model.moe import MoE
from quatrain.train.machine import free_memory

TOKENS_AN_EXPERT = 256
SCOUT = {"width": 5120, "inner": 8192, "experts": 16, "tokens": 16384}


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options)))
        return
    experts = [int(number) for number in options.experts.split(",")]
    names, left_out = sides_of(experts, options)
    found = alternate(__file__, names, options.repeats, conditions=Conditions.of(options))
    result = summed_up(found, experts, options) | {"left_out": left_out}
    name = "-".join(["moe-layer", options.dtype, *["cuda"] * (options.device == "cuda"),
                     *["shared"] * options.shared])  # fmt: skip
    finish("moe-layer", name, options, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--experts", default="4,16,64")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--inner", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peer-experts", type=int, default=16, help="its most: it runs them all")
    parser.add_argument("--shared", action="store_true", help="with the shared expert")
    add_arguments(parser)
    options = parser.parse_args()
    if options.dtype == "autocast":
        parser.error("a layer alone is measured in fp32 or bf16")
    if options.smoke:
        options.experts, options.width, options.inner = "4", 32, 32
        options.tokens, options.steps, options.repeats = 64, 2, 1
    return options


def sides_of(experts: list[int], options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Name the children, `side:experts:tokens`; and say which peers are too large for here."""
    names, left_out = [], []
    for number in experts:
        names.append(f"ours:{number}:{options.tokens}")
        if number > options.peer_experts:
            left_out.append(f"transformers at {number} experts: time")
        elif peer_bytes(number, options) < 0.8 * free_bytes(options.device):
            names.append(f"transformers:{number}:{options.tokens}")
        else:
            left_out.append(f"transformers at {number} experts: memory")
    each = options.tokens // max(experts) if options.smoke else TOKENS_AN_EXPERT
    names += [f"ours:{number}:{each * number}" for number in (experts[0], experts[-1])]
    if options.device == "cuda":
        names.append(f"ours:{SCOUT['experts']}:{SCOUT['tokens']}:scout")
    return list(dict.fromkeys(names)), left_out


def peer_bytes(experts: int, options: argparse.Namespace) -> int:
    """Estimate what transformers' layer takes: every expert meets every token.

    Rows in, twice; gate and up, their product, the activation and the result, each with its
    gradient; and the weights with theirs.
    """
    size = 2 if options.dtype == "bf16" else 4
    rows = experts * options.tokens * (3 * options.width + 4 * options.inner)
    weights = experts * 3 * options.width * options.inner
    return 2 * size * (rows + weights)


def free_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return free_memory() or 1 << 62


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Time forward and backward of one layer."""
    torch.set_num_threads(options.threads)
    side, experts, tokens, *scout = options.child.split(":")
    config = config_of(int(experts), bool(scout), options)
    dtype = Conditions.of(options).weights
    layer = layer_of(side, config, dtype, options)
    draw = generator("x", options.device)
    shape_of = (1, int(tokens), config.d_model)
    x = torch.randn(shape_of, generator=draw, device=options.device).to(dtype).requires_grad_()
    upwards = torch.randn(shape_of, generator=draw, device=options.device).to(dtype)
    with Watch(options.device) as watch, as_in_a_run(side == "ours"):
        seconds = timed(
            lambda: both_ways(layer, x, upwards), WARM_UP, options.steps, options.device
        )
    out = both_ways(layer, x, upwards).detach()
    assert x.grad is not None
    sums = [float(t.double().pow(2).sum()) for t in (out, x.grad, layer.experts.down_proj.grad)]
    flops = FORWARD_AND_BACKWARD * moe_flops(config, int(tokens), options.shared)
    return {"seconds": seconds, "peak_mb": watch.peak_mb, "tokens": int(tokens), "flops": flops,
            "squares": sums}  # fmt: skip


def config_of(experts: int, scout: bool, options: argparse.Namespace) -> ModelConfig:
    width, inner = (SCOUT["width"], SCOUT["inner"]) if scout else (options.width, options.inner)
    return shape(d_model=width, intermediate_size_expert=inner, num_local_experts=experts,
                 n_heads=width // 64 or 1, n_kv_heads=1, d_k=64, n_layers=1)  # fmt: skip


def layer_of(
    side: str, config: ModelConfig, dtype: torch.dtype, options: argparse.Namespace
) -> nn.Module:
    """Make a side's layer; the names of the weights are the same, and so are they."""
    with torch.device(options.device):
        if side == "ours":
            layer: nn.Module = MoE(config)
        else:
            from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

            layer = Llama4TextMoe(their_config(config))
        if not options.shared:
            layer.shared_expert = Nothing()
    return filled(layer, dtype)


class Nothing(nn.Module):
    """Stands in for the shared expert, and adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Give zeros of x's shape."""
        return torch.zeros_like(x)


def both_ways(layer: nn.Module, x: Tensor, upwards: Tensor) -> Tensor:
    """Run the layer forward and backward, with fresh gradients."""
    layer.zero_grad(set_to_none=True)
    x.grad = None
    out: Tensor = layer(x)[0]
    out.view_as(upwards).backward(upwards)
    return out


def summed_up(found: Found, experts: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Compare at each number of experts, and ours with itself over them."""
    result: dict[str, Any] = {"sides": {name: figures(runs) for name, runs in found.items()}}
    result["times_as_fast"], result["largest_relative_difference"] = {}, {}
    for number in experts:
        mine, peer = (f"{who}:{number}:{options.tokens}" for who in ("ours", "transformers"))
        if peer in found:
            result["times_as_fast"][number] = ratio(medians(found[peer]), medians(found[mine]))
            pairs = zip(found[mine][0]["squares"], found[peer][0]["squares"], strict=True)
            result["largest_relative_difference"][number] = max(abs(a / b - 1) for a, b in pairs)
    few, many = experts[0], experts[-1]
    at = {number: medians(found[f"ours:{number}:{options.tokens}"]) for number in (few, many)}
    result["most_over_fewest"] = ratio(at[many], at[few])
    result["most_over_fewest_at_equal_tokens_an_expert"] = per_token(found, few, many, options)
    return result


def per_token(found: Found, few: int, many: int, options: argparse.Namespace) -> dict[str, float]:
    """Compare the seconds a token where each expert has as many."""
    each = options.tokens // many if options.smoke else TOKENS_AN_EXPERT
    costs = {
        number: [
            time / (each * number) for time in medians(found[f"ours:{number}:{each * number}"])
        ]
        for number in (few, many)
    }
    return ratio(costs[many], costs[few])


if __name__ == "__main__":
    main()
