"""AdamW on bfloat16 weights with bfloat16 moments: computed in float32, rounded by chance.

    float32   1.00390625 + 0.0009 = 1.0048   between the bfloat16 numbers 1.0 and 1.0078125
    rounded   to the upper one in 61 % of all draws, to the lower one else: 1.0048 on average

Rounding to the nearest would lose every update below half a unit in the last place, and a second
moment whose decay is as small would never fall. The draws are a function of seed, step and name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from quatrain.model.llama import LlamaModel
from quatrain.model.weights import generator_for

AT_ONCE, ON_GPU = 1 << 15, 1 << 24
"""Numbers that are float32 at once. On a CPU they stay in the cache, and PyTorch gives them to one
thread: on a busy machine, waiting for a second one takes longer than the work."""
_HALVES = 4
"""Draws of 16 bits in a number of 64."""


def keep_in_bfloat16(model: LlamaModel) -> None:
    """Keep all weights in bfloat16, and the states between layers in float32."""
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).contiguous()
    model.model.states_dtype = torch.float32


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW as PyTorch computes it in float32; what it changes is rounded to bfloat16 by chance."""

    grad_scale: Tensor | None = None
    """What gradients are divided by, as in PyTorch's fused optimizers."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], seed: int, betas: tuple[float, float], eps: float
    ) -> None:
        """Take groups of named weights.

        Args:
            groups: as PyTorch's; `params` are pairs of a name and a contiguous bfloat16 weight.
            seed: of the run; the draws depend on it.
            betas: of the two moments.
            eps: added to the root of the second one.
        """
        self.seed = seed
        super().__init__(groups, {"lr": 1e-3, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for name, weight in zip(group["param_names"], group["params"], strict=True):
                if weight.grad is not None:
                    self._update(name, weight, group)

    def _update(self, name: str, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        kept = [one.view(-1) for one in (weight, state["exp_avg"], state["exp_avg_sq"])]
        grads = weight.grad.reshape(-1)  # type: ignore[union-attr]
        done, generator = float(state["step"]), draws(weight, self.seed, int(state["step"]), name)
        at_once = ON_GPU if weight.is_cuda else AT_ONCE
        for start in range(0, len(grads), at_once):
            part = slice(start, start + at_once)
            wide = [one[part].float() for one in kept]
            count = torch.tensor(done, device=weight.device)
            _adamw(wide, grads[part].float(), count, group, self.grad_scale)
            for one, exact, bits in zip(kept, wide, draw(generator, len(wide[0]), 3), strict=True):
                round_by_chance(exact, bits, one[part])
        state["step"] += 1


def _adamw(
    wide: list[Tensor],
    grad: Tensor,
    count: Tensor,
    group: dict[str, Any],
    grad_scale: Tensor | None,
) -> None:
    """Take a step of PyTorch's own AdamW on float32 numbers, in place."""
    weight, first, second = wide
    beta1, beta2 = group["betas"]
    adamw(
        [weight], [grad], [first], [second], [], [count], fused=True, grad_scale=grad_scale,
        amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], eps=group["eps"],
        weight_decay=group["weight_decay"], maximize=False,
    )  # fmt: skip


def draws(weight: Tensor, seed: int, step: int, name: str) -> torch.Generator:
    """Make the source of the bits that round a weight and its moments in a step."""
    return generator_for(weight.device.type, "round", name, seed, step)


def draw(generator: torch.Generator, numbers: int, times: int) -> Tensor:
    """Draw 16 bits for each of so many numbers, so many times: [times, numbers] in int16."""
    total = numbers * times
    words = torch.empty(-(-total // _HALVES), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:total].view(times, numbers)


def round_by_chance(exact: Tensor, bits: Tensor, result: Tensor) -> None:
    """Round finite float32 numbers to bfloat16, up in size where what is cut off is large enough.

    The bits are added to the 16 that bfloat16 has not; a carry makes the number the next one.

    Args:
        exact: float32; overwritten.
        bits: int16, each value as likely as any other.
        result: bfloat16.
    """
    whole = exact.view(torch.int32)
    whole.add_(bits).add_(1 << 15).bitwise_and_(-(1 << 16))
    result.copy_(exact)
