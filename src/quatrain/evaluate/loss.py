"""The loss: a sum over answer tokens and their count, divided once by the global count.

The only shift is here: the hidden state at t predicts the id at t + 1, if the mask marks that id as
a target.

    ids       <bos>  Oui  ?  Non  <eot>
    mask        0     0   0   1     1
    judged                ^   ^          hidden states that predict Non and <eot>

Shapes: B rows, T tokens, M targets, H model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quatrain.model.frozen import Weight, gradient_dtype, has_to_be_decoded, times, times_transposed
from quatrain.model.layout import Segments
from quatrain.model.llama import LlamaModel


class Judged(NamedTuple):
    """Sums over one batch; the caller divides by the global counts."""

    loss_sum: Tensor
    """Summed negative log-likelihood of the targets, in nats, a float32 scalar."""
    num_targets: int
    balance_sum: Tensor
    """Summed over layers with experts: tokens x imbalance; a scalar, 0 unless asked for."""
    loads: dict[int, Tensor]
    """By layer: how many tokens chose each expert."""


def judge(
    model: LlamaModel,
    ids_BT: Tensor,
    mask_BT: Any,
    segments: Segments | None,
    chunk_size: int,
    balance: bool = False,
) -> Judged:
    """Run the model on a batch and sum its loss over the targets.

    Args:
        model: the model; its gradient flows through both sums.
        ids_BT: token ids, on the model's device.
        mask_BT: True on each id that is a target; an array or a tensor, best on the CPU, since
            finding the targets on a CUDA device would make it wait.
        segments: document lengths, or None.
        chunk_size: for how many positions logits exist at one time.
        balance: whether to sum the imbalance too.
    """
    hidden = model.model(ids_BT, segments, balance=balance)
    before_M = _places_before_targets(mask_BT).to(ids_BT.device)
    states_MH = hidden.states.flatten(0, 1).index_select(0, before_M)
    targets_M = ids_BT.flatten().index_select(0, before_M + 1)
    loss_sum = model.lm_head.lend(summed_cross_entropy, states_MH, targets_M, chunk_size)
    routings = hidden.routing.values()
    balances = [routing.balance for routing in routings if routing.balance is not None]
    balance_sum = torch.stack(balances).sum() if balances else loss_sum.new_zeros(())
    loads = {layer: routing.load_E for layer, routing in hidden.routing.items()}
    return Judged(loss_sum, len(targets_M), balance_sum, loads)


def _places_before_targets(mask_BT: Any) -> Tensor:
    """List the places in the flattened batch whose next id is a target, [M] in int64."""
    mask = torch.as_tensor(mask_BT)
    rows_M, columns_M = mask[:, 1:].nonzero(as_tuple=True)
    return rows_M * mask.shape[1] + columns_M


def count_targets(mask_BT: Any) -> int:
    """Count the targets that `judge` will find in a batch; the first id of a row is never one."""
    return int(mask_BT[:, 1:].sum())


def summed_cross_entropy(
    states_MH: Tensor, weight_VH: Weight, targets_M: Tensor, chunk_size: int
) -> Tensor:
    """Sum -log p(target) with float32 logits, a chunk of positions at a time.

    Both gradients are computed along with the loss, so no logits are kept.
    """
    dtype = states_MH.dtype
    if torch.is_autocast_enabled(states_MH.device.type):
        dtype = torch.get_autocast_dtype(states_MH.device.type)
    with torch.autocast(states_MH.device.type, enabled=False):
        total: Tensor = _ChunkedCrossEntropy.apply(
            states_MH, weight_VH, targets_M, chunk_size, dtype, torch.is_grad_enabled()
        )
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_MH: Tensor,
        weight_VH: Weight,
        targets_M: Tensor,
        chunk_size: int,
        dtype: torch.dtype,
        learns: bool,
    ) -> Tensor:
        weight = weight_VH if has_to_be_decoded(weight_VH, dtype) else weight_VH.to(dtype)
        total = states_MH.new_zeros((), dtype=torch.float32)
        grad_states = torch.empty_like(states_MH) if learns else None
        head_learns = learns and ctx.needs_input_grad[1]  # not with adapters
        grad_weight = (
            states_MH.new_zeros(weight_VH.shape, dtype=torch.float32) if head_learns else None
        )
        for start in range(0, len(targets_M), chunk_size):
            part = slice(start, start + chunk_size)
            states, targets = states_MH[part].to(dtype), targets_M[part]
            log_p = times(states, weight).float().log_softmax(-1)
            total += F.nll_loss(log_p, targets, reduction="sum")
            if grad_states is not None:
                grad_logits = log_p.exp_()
                grad_logits[torch.arange(len(targets), device=targets.device), targets] -= 1
                grad_logits = grad_logits.to(dtype)
                grad_states[part] = times_transposed(grad_logits, weight)
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ states
        ctx.save_for_backward(grad_states, grad_weight)
        if head_learns:
            assert isinstance(weight_VH, Tensor)
            ctx.dtype = gradient_dtype(weight_VH)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_states * scale.to(grad_states.dtype),
            None if grad_weight is None else _scaled(grad_weight, scale, ctx.dtype),
            None,
            None,
            None,
            None,
        )


def _scaled(grad: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale a gradient; where it is rounded, no second one of its size is made before."""
    return grad * scale if grad.dtype == dtype else grad.mul_(scale).to(dtype)
