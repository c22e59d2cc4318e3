"""Experts divided among processes: each holds some of every layer, and tokens go to them.

    rows of this process, sorted by expert      |0 0 1|2 3 3|     experts 0 and 1 are here
    sent, and taken from the others             |0 0 1|0 1 1|
    sorted by expert, multiplied, sorted back   |0 0 0 1 1 1|
    sent back, to where they were               |0 0 1|2 3 3|

Exactly the chosen rows travel: there is no capacity, nothing is dropped or filled up. The model's
own dispatch has sorted the rows (model/moe.py) and brings them back to their tokens. Hooks around
the experts do this; the model knows nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from quatrain.errors import ConfigError
from quatrain.model import kinds_nf4
from quatrain.model.frozen import Frozen, Matrix, product_dtype
from quatrain.model.llama import LlamaModel
from quatrain.model.moe import ExpertMLP, MoE
from quatrain.model.order import Order


def spread(model: LlamaModel, mesh: DeviceMesh) -> set[str]:
    """Leave each process its own experts, adapters included.

    Args:
        model: the same one in each process; it is changed.
        mesh: the processes that together hold each expert once.

    Returns:
        The names of the weights of which this process holds some experts now.

    Raises:
        ConfigError: Q218 for adapters of experts with dropout, whose masks belong to rows of
            another process.
    """
    found = set()
    for index, layer in enumerate(model.model.layers):
        if isinstance(layer.feed_forward, MoE):
            experts = layer.feed_forward.experts
            for lora in (experts.gate_up_proj_lora, experts.down_proj_lora):
                if lora is not None and lora.dropout:
                    raise ConfigError("Q218.dropout", dropout=lora.dropout)
            names = _keep_own(experts, mesh.get_local_rank(), mesh.size())
            found |= {f"model.layers.{index}.feed_forward.experts.{name}" for name in names}
            exchange = _Exchange(mesh.get_group())
            experts.register_forward_pre_hook(exchange.bring)
            experts.register_forward_hook(exchange.give_back)
    return found


def own_experts(whole: Tensor, mesh: DeviceMesh) -> Tensor:
    """Take the experts of this process from all of them, [E, ...]."""
    return whole.chunk(mesh.size())[mesh.get_local_rank()]


def all_experts(own: Tensor, mesh: DeviceMesh) -> Tensor:
    """Join the experts of all processes; all of them call this."""
    parts = [torch.empty_like(own) for _ in range(mesh.size())]
    dist.all_gather(parts, own.contiguous(), group=mesh.get_group())
    return torch.cat(parts)


def _keep_own(experts: ExpertMLP, part: int, parts: int) -> list[str]:
    for name in ("gate_up_proj", "down_proj"):
        weight = getattr(experts, name)
        if isinstance(weight, Frozen):
            setattr(experts, name, _own_matrices(weight, part, parts))
    parameters = dict(experts.named_parameters())
    for name, weight in parameters.items():
        kept = weight.detach().chunk(parts)[part].clone()
        owner, _, leaf = name.rpartition(".")
        setattr(experts.get_submodule(owner), leaf, nn.Parameter(kept, weight.requires_grad))
    return list(parameters)


def _own_matrices(weight: Frozen, part: int, parts: int) -> Frozen:
    """Take a part of the stored stacks; nothing is decoded."""
    matrices = []
    for matrix in weight.matrices:
        assert isinstance(matrix, Matrix)
        assert matrix.order is None
        experts, outputs, width = matrix.shape
        rows = experts // parts * outputs
        stored = _rows_of(matrix, slice(part * rows, (part + 1) * rows))
        matrices.append(Matrix(matrix.kind, (experts // parts, outputs, width), stored))
    return Frozen(matrices, weight.dtype, inputs_first=True)


def _rows_of(matrix: Matrix, rows: slice) -> dict[str, Tensor]:
    """Take rows of what is stored.

    Scales of nf4 that share a nested one with another process become plain numbers, the same ones.
    """
    parts = matrix.stored
    if "nested" not in parts:
        return {name: part[rows] for name, part in parts.items()}
    across = parts["scales"].shape[1]
    start, stop = rows.start * across, rows.stop * across
    if start % kinds_nf4.GROUP == 0:
        nested = parts["nested"][start // kinds_nf4.GROUP : -(-stop // kinds_nf4.GROUP)]
        return {**{name: parts[name][rows] for name in ("codes", "scales")},
                "nested": nested, "offset": parts["offset"]}  # fmt: skip
    taken = kinds_nf4.taken(parts, rows)
    scales = kinds_nf4.scale_map(taken["codes"].device)[taken["scales"].int()]
    return {"codes": taken["codes"], "scales": scales.mul_(taken["nested"]).add_(parts["offset"])}


class _Exchange:
    """Around the experts of one layer."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self._way: tuple[Order, list[int], list[int]] | None = None

    def bring(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Send the rows of each expert to its process, and take those of the experts here."""
        x_RH, counts_E = given[:2]
        parts = self.group.size()
        sent_PE = counts_E.view(parts, -1)
        came_PE = torch.empty_like(sent_PE)
        dist.all_to_all_single(came_PE, sent_PE.contiguous(), group=self.group)
        sent, came = sent_PE.sum(1).tolist(), came_PE.sum(1).tolist()
        x_RH = x_RH.to(product_dtype(x_RH))  # as the experts would
        came_SH: Tensor = _AllToAll.apply(x_RH, came, sent, self.group)
        here = torch.arange(came_PE.shape[1], device=counts_E.device)
        expert_S = here.repeat(parts).repeat_interleave(came_PE.flatten())
        order = Order.of(expert_S.argsort(stable=True))
        self._way = order, sent, came
        return order.bring(came_SH), came_PE.sum(0), None

    def give_back(self, _: nn.Module, __: tuple[Any, ...], y_SH: Tensor) -> Tensor:
        """Send the results back; undo `bring`."""
        assert self._way is not None
        order, sent, came = self._way
        y_RH: Tensor = _AllToAll.apply(order.undo(y_SH), sent, came, self.group)
        return y_RH


class _AllToAll(torch.autograd.Function):
    """Rows from and to each process of a group; gradients go the other way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, taken: list[int], sent: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.way = taken, sent, group
        out = x.new_empty(sum(taken), x.shape[1])
        dist.all_to_all_single(out, x.contiguous(), taken, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        taken, sent, group = ctx.way
        grad = grads[0].contiguous()
        grad_x = grad.new_empty(sum(sent), grad.shape[1])
        dist.all_to_all_single(grad_x, grad, sent, taken, group=group)
        return grad_x, None, None, None
