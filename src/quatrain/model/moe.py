"""Mixture of experts: a router chooses, a dispatch sorts, the experts multiply.

    1. router      logits in float32; the k best experts of each token; score = sigmoid(logit)
    2. dispatch    copy each token k times, scale the copy by its score, sort by expert
    3. experts     SwiGLU on each expert's own rows; an expert without rows does nothing
    4. combine     unsort, then sum the k results of each token, and add the shared expert

The score multiplies the expert's *input* and the k scores are not normalised: SwiGLU is not
homogeneous, so scaling the output would be another model (docs/llama4.md section 1.2).

Shapes: B rows, T tokens, N = B x T, K experts a token, R = N x K, E experts, H model width,
I inner width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quatrain.config import ModelConfig
from quatrain.model.order import Order
from quatrain.model.weights import Linear, LowRank, grouped_linear, plus


class Routing(NamedTuple):
    """What the router of one layer did, for statistics and the balance loss."""

    load_E: Tensor
    """Tokens that chose each expert, padding left out, int64."""
    balance: Tensor | None
    """Sum over rows of tokens x imbalance (see `imbalance`), a scalar; 1 a token when even.
    None unless asked for."""
    experts_BTK: Tensor
    """The experts of each token, the likeliest first, int64."""


class SharedMLP(nn.Module):
    """SwiGLU for every token: the shared expert, and the feed-forward of layers without experts."""

    def __init__(self, d_model: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, intermediate_size)
        self.up_proj = Linear(d_model, intermediate_size)
        self.down_proj = Linear(intermediate_size, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., H] to [..., H]."""
        out: Tensor = self.down_proj(_SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
        return out


class ExpertMLP(nn.Module):
    """The stack of all routed experts, each a SwiGLU on its own rows."""

    def __init__(self, num_experts: int, d_model: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, d_model, 2 * intermediate_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, intermediate_size, d_model))
        self.gate_up_proj_lora: LowRank | None = None
        self.down_proj_lora: LowRank | None = None

    def forward(self, x_RH: Tensor, counts_E: Tensor, order_R: Tensor | None = None) -> Tensor:
        """Map rows sorted by expert [R, H] to [R, H].

        Args:
            x_RH: the rows.
            counts_E: how many each expert has.
            order_R: where each row stood before; read by an adapter's dropout alone.
        """
        both_RI = grouped_linear(x_RH, self.gate_up_proj, counts_E, self.gate_up_proj_lora, order_R)
        inner_RI: Tensor = _SwiGLU.apply(both_RI)
        return grouped_linear(inner_RI, self.down_proj, counts_E, self.down_proj_lora, order_R)


class _SwiGLU(torch.autograd.Function):
    """silu(gate) x up, of two matrices or of one that holds both side by side (Shazeer, 2020).

    Gradients are written in place, where autograd would join two matrices, and silu(gate) is
    recomputed rather than kept.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        gate, up = _gate_and_up(inputs)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        inputs = ctx.saved_tensors
        gate, up = _gate_and_up(inputs)
        grad_inputs = tuple(torch.empty_like(x) for x in inputs)
        grad_gate, grad_up = _gate_and_up(grad_inputs)
        torch.mul(grads[0], up, out=grad_gate)
        torch.ops.aten.silu_backward(grad_gate, gate, grad_input=grad_gate)
        torch.ops.aten.silu.out(gate, out=grad_up).mul_(grads[0])
        return grad_inputs


def _gate_and_up(matrices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return matrices if len(matrices) == 2 else matrices[0].chunk(2, dim=-1)


class Router(nn.Module):
    """Choose k experts for each token, in float32 whatever the model's dtype.

    Differs from transformers, which chooses in the model's dtype: bfloat16 logits tie.
    """

    def __init__(self, d_model: int, num_experts: int, num_experts_per_tok: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))
        self.lora: LowRank | None = None
        self.num_experts_per_tok = num_experts_per_tok

    def forward(self, x_NH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores [N, K] in (0, 1), the experts' indices [N, K], all logits [N, E]."""
        with torch.autocast(x_NH.device.type, enabled=False):
            wide_NH = x_NH.float()
            logits_NE = plus(F.linear(wide_NH, self.weight.float()), self.lora, wide_NH)
            chosen_NK, experts_NK = logits_NE.topk(self.num_experts_per_tok, dim=-1)
            return chosen_NK.sigmoid(), experts_NK, logits_NE


@dataclass(frozen=True)
class Dispatch:
    """The order that brings each token's copies to their experts, on this process."""

    order: Order
    counts_E: Tensor

    @classmethod
    def sort(cls, experts_NK: Tensor, num_experts: int) -> Dispatch:
        """Sort copies by expert, tokens in order within an expert."""
        flat_R = experts_NK.flatten()
        return cls(Order.of(flat_R.argsort(stable=True)), count(flat_R, num_experts))

    def bring(self, x_NH: Tensor, scores_NK: Tensor) -> Tensor:
        """Scale each copy by its score and sort: [N, H] to [R, H]."""
        copies_RH = (x_NH[:, None] * scores_NK[..., None].to(x_NH.dtype)).flatten(0, 1)
        return self.order.bring(copies_RH)

    def combine(self, y_RH: Tensor, num_per_token: int) -> Tensor:
        """Unsort, then sum each token's copies: [R, H] to [N, H]; the order of sums is fixed."""
        unsorted_RH = self.order.undo(y_RH)
        if num_per_token == 1:
            return unsorted_RH
        return unsorted_RH.view(-1, num_per_token, unsorted_RH.shape[1]).sum(1)


def count(experts_R: Tensor, num_experts: int, weights_R: Tensor | None = None) -> Tensor:
    """Count how often each expert was chosen, [E] in int64; weights_R is False where not to count.

    `bincount` would make a CUDA device wait for the CPU. Sums of integers are exact in any order.
    """
    ones_R = torch.ones_like(experts_R) if weights_R is None else weights_R.long()
    return experts_R.new_zeros(num_experts).scatter_add_(0, experts_R, ones_R)


def imbalance(logits_BTE: Tensor, experts_BTK: Tensor, real_BT: Tensor | None) -> Tensor:
    """Measure how unevenly each row uses the experts: 1 when even, E when all choose one.

    For a row, E x sum over experts of (share of choices) x (mean softmax probability), padding
    left out (Fedus et al., 2021, equation 4; there over a batch, here over a row, so that how
    rows are batched changes nothing).

    Returns:
        [B]; the gradient flows through the probabilities.
    """
    num_experts = logits_BTE.shape[-1]
    chosen_BTE = F.one_hot(experts_BTK, num_experts).sum(2).float()
    probability_BTE = logits_BTE.softmax(-1)
    if real_BT is not None:
        chosen_BTE = chosen_BTE * real_BT[..., None]
        probability_BTE = probability_BTE * real_BT[..., None]
        tokens_B1 = real_BT.sum(1, keepdim=True).clamp(min=1).float()
    else:
        tokens_B1 = logits_BTE.new_full((len(logits_BTE), 1), logits_BTE.shape[1])
    share_BE = chosen_BTE.sum(1) / (tokens_B1 * experts_BTK.shape[-1])
    return num_experts * (share_BE * probability_BTE.sum(1) / tokens_B1).sum(-1)


class MoE(nn.Module):
    """The feed-forward of a layer with experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_experts = config.num_local_experts
        width = config.intermediate_size_expert
        self.router = Router(config.d_model, self.num_experts, config.num_experts_per_tok)
        self.experts = ExpertMLP(self.num_experts, config.d_model, width)
        self.shared_expert = SharedMLP(config.d_model, config.intermediate_size_shared)

    def forward(
        self, x_BTH: Tensor, real_BT: Tensor | None = None, balance: bool = False
    ) -> tuple[Tensor, Routing]:
        """Map [B, T, H] to [B, T, H], and say what the router did.

        Args:
            x_BTH: normalised hidden states.
            real_BT: False on padding; None where there is none.
            balance: whether to measure the imbalance too.
        """
        x_NH = x_BTH.flatten(0, 1)
        scores_NK, experts_NK, logits_NE = self.router(x_NH)
        dispatch = Dispatch.sort(experts_NK, self.num_experts)
        sorted_RH = dispatch.bring(x_NH, scores_NK)
        routed_RH = self.experts(sorted_RH, dispatch.counts_E, dispatch.order.places_R)
        out_NH = self.shared_expert(x_NH) + dispatch.combine(routed_RH, experts_NK.shape[1])
        load_E = dispatch.counts_E
        if real_BT is not None:
            counted_NK = real_BT.flatten()[:, None].expand_as(experts_NK)
            load_E = count(experts_NK.flatten(), self.num_experts, counted_NK.flatten())
        by_row, cost = x_BTH.shape[:2], None
        experts_BTK = experts_NK.unflatten(0, by_row)
        if balance:
            cost = _summed_imbalance(logits_NE.unflatten(0, by_row), experts_BTK, real_BT)
        return out_NH.view_as(x_BTH), Routing(load_E, cost, experts_BTK)


def _summed_imbalance(logits_BTE: Tensor, experts_BTK: Tensor, real_BT: Tensor | None) -> Tensor:
    """Weigh each row's imbalance by its tokens, so that batches add up; a scalar."""
    batch, length = logits_BTE.shape[:2]
    tokens_B = logits_BTE.new_full((batch,), length) if real_BT is None else real_BT.sum(1)
    return (tokens_B * imbalance(logits_BTE, experts_BTK, real_BT)).sum()
