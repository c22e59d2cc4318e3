"""A slow twin of our model, after the description of the notebook that this project began as.

It trains as that notebook did: a Python loop over experts, each weight selected under autograd;
attention with all scores in memory; one example a row, padded to 512; a longer one as windows at
stride 1; a loss of every position, padding too; AdamW parameter by parameter. With equal weights it
gives equal logits, as a test holds: what differs is the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quatrain.model import attention
from quatrain.model.layout import Runs
from quatrain.model.llama import LlamaModel
from quatrain.model.moe import MoE, Routing, count

ROW = 512


class LoopOverExperts(MoE):
    """The same layer, an expert and a rank of choice at a time, by masks over all tokens."""

    def forward(
        self, x_BTH: Tensor, real_BT: Tensor | None = None, balance: bool = False
    ) -> tuple[Tensor, Routing]:
        """Map [B, T, H] to [B, T, H]; there is no balance loss."""
        x_NH = x_BTH.flatten(0, 1)
        scores_NK, experts_NK, _ = self.router(x_NH)
        routed_NH = torch.zeros_like(x_NH)
        for expert in range(self.num_experts):
            for rank in range(experts_NK.shape[1]):
                chosen_N = experts_NK[:, rank] == expert
                if not chosen_N.any():
                    continue
                rows = x_NH[chosen_N] * scores_NK[chosen_N, rank, None]
                gate, up = (rows @ self.experts.gate_up_proj[expert]).chunk(2, dim=-1)
                routed_NH[chosen_N] += (F.silu(gate) * up) @ self.experts.down_proj[expert]
        out_NH = self.shared_expert(x_NH) + routed_NH
        loads = count(experts_NK.flatten(), self.num_experts)
        return out_NH.view_as(x_BTH), Routing(loads, None, experts_NK.unflatten(0, x_BTH.shape[:2]))


def attend_with_all_scores(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Attend causally over whole rows, whatever their documents."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v


def make_original(model: LlamaModel) -> LlamaModel:
    """Turn a model into its slow twin, in place; all models of this process then attend slowly."""
    attention.attend = attend_with_all_scores
    for module in model.modules():
        if type(module) is MoE:
            module.__class__ = LoopOverExperts
    return model


def windows(ids: Sequence[int], size: int = ROW) -> list[list[int]]:
    """Cut an example as the notebook did: one window where it fits, else one at each position.

    windows([1, 2, 3, 4], 3)  ->  [1, 2, 3]  [2, 3, 4]
    """
    return [list(ids[start : start + size]) for start in range(max(1, len(ids) - size + 1))]


def step(model: LlamaModel, optimizer: torch.optim.Optimizer, ids_BT: Tensor) -> float:
    """Take a step on padded rows; every position but the first is judged."""
    logits = model(ids_BT)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
