"""AdamW, its learning rate as a pure function of the step, and an update with both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quatrain.config import TrainConfig
from quatrain.train.rounded import RoundedAdamW


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Compute the rate of a step, counted from 1 to num_steps.

    It rises linearly for warmup_ratio of the steps. Then it follows config.schedule: `cosine` falls
    to min_learning_rate_ratio of the peak at the last step; `wsd` stays at the peak and falls
    linearly to the same value in the last decay_ratio of the steps (Hu et al., 2024).
    """
    assert config.learning_rate is not None
    peak, warmup = config.learning_rate, round(config.warmup_ratio * num_steps)
    if step <= warmup:
        return peak * step / warmup
    floor = config.min_learning_rate_ratio
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, num_steps - warmup)
        share = floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2
    else:
        decay = max(1, round(config.decay_ratio * num_steps))
        share = floor + (1 - floor) * min(1.0, (num_steps - step) / decay)
    return peak * share


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make a fused AdamW; norms and biases do not decay (Loshchilov and Hutter, 2019).

    Weights of bfloat16 get one that rounds by chance (rounded.py).
    """
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [one for one in learning if one[1].ndim >= 2],
         "weight_decay": config.weight_decay},
        {"params": [one for one in learning if one[1].ndim < 2], "weight_decay": 0.0},
    ]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    if config.weights == "bf16":
        return RoundedAdamW(groups, config.seed, betas, config.adam_eps)
    return torch.optim.AdamW(groups, betas=betas, eps=config.adam_eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(model: nn.Module) -> Tensor:
    """Compute the L2 norm of all gradients together, a scalar.

    Row by row: PyTorch adds up the squares of a whole matrix in few float32 sums, which takes
    longer and loses some of 16 million numbers (docs/LOG.md).
    """
    grads = (p.grad for p in model.parameters() if p.grad is not None)
    return torch.nn.utils.get_total_norm(
        torch.linalg.vector_norm(grad, dim=-1).float() for grad in grads
    )


def update(optimizer: torch.optim.Optimizer, norm: Tensor, max_norm: float) -> None:
    """Update the weights, and drop the gradients.

    Args:
        optimizer: divides gradients by its `grad_scale` during the update, as PyTorch's fused ones
            do for torch.amp.GradScaler.
        norm: of the gradients, which are finite.
        max_norm: gradients with a larger norm are scaled down to it; others are left as they are.
    """
    scale = norm.float() / max_norm if norm > max_norm else None
    optimizer.grad_scale = scale  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
