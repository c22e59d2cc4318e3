"""Divide a model among processes by FSDP2: each holds a part of every weight, and of its moments.

    forward    the weights of a layer are gathered, used, and dropped
    backward   gathered again; the gradients are added up, and each process keeps its part

Layers are the units; embeddings with the last norm, and the head, are two more. A tied head is
held whole by all. Weights that stay as they are stored (model/frozen.py) are left as they are.
Gradients are sums over processes, not means: the loss is divided by counts of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from quatrain.model.llama import LlamaModel
from quatrain.model.moe import MoE


@dataclass(frozen=True)
class Meshes:
    """How processes are arranged: `replicas` x (`data` x `expert`), the last ones next to another.

    Every process has rows of its own. A dense weight is divided among the processes of a replica;
    the experts of a process among those that hold the same experts.
    """

    dense: DeviceMesh
    experts: DeviceMesh
    expert: DeviceMesh
    """The processes that together hold each expert once."""
    replicas: int

    @classmethod
    def of(cls, kind: str, world: int, expert_parallel: int, replicas: int) -> Meshes:
        """Arrange processes; sizes divide one another."""
        shards = world // replicas
        data = shards // expert_parallel
        both = init_device_mesh(kind, (replicas, shards), mesh_dim_names=("replica", "shard"))
        all_three = init_device_mesh(
            kind, (replicas, data, expert_parallel), mesh_dim_names=("replica", "data", "expert")
        )
        alone = replicas == 1
        return cls(
            both["shard"] if alone else both,
            all_three["data"] if alone else all_three["replica", "data"],
            all_three["expert"],
            replicas,
        )


def shard(model: LlamaModel, meshes: Meshes) -> None:
    """Divide the weights of a model, layer by layer, on the device of the meshes.

    Args:
        model: the same one in each process; experts that are spread hold this process' own.
        meshes: of all processes.
    """
    for weight in model.parameters():
        weight.data = weight.data.contiguous()
    head, table = model.lm_head, model.model.embed_tokens
    whole = {head.weight} if head.weight is table.weight else set[nn.Parameter]()
    for layer in model.model.layers:
        if isinstance(layer.feed_forward, MoE) and meshes.expert.size() > 1:
            _divide(layer.feed_forward.experts, meshes.experts, set())
        _divide(layer, meshes.dense, whole)
    _divide(model.model, meshes.dense, whole)
    if not whole:
        _divide(head, meshes.dense, whole)
        register_fsdp_forward_method(head, "lend")


def _divide(module: nn.Module, mesh: DeviceMesh, whole: set[nn.Parameter]) -> None:
    parts = mesh.size(-1)

    def dimension(weight: nn.Parameter) -> Shard | None:
        """Divide along the first dimension that divides evenly, or unevenly along the first one."""
        even = (dim for dim, size in enumerate(weight.shape) if size % parts == 0)
        return Shard(next(even, 0))

    divided: Any = fully_shard(
        module, mesh=mesh, ignored_params=whole, shard_placement_fn=dimension
    )
    divided.set_gradient_divide_factor(1.0)
    divided.set_force_sum_reduction_for_comms(True)  # gloo has no other


def units(model: LlamaModel) -> list[FSDPModule]:
    """List the modules that begin a forward pass by gathering their own weights."""
    return [one for one in (model.model, model.lm_head) if isinstance(one, FSDPModule)]


def own(tensor: Tensor) -> Tensor:
    """Give the part of a weight or a gradient that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """Take the part of a whole tensor that a process holds of a parameter like it."""
    device = own(parameter).device
    if not isinstance(parameter, DTensor):
        return whole.to(device)
    mesh, placements = parameter.device_mesh, parameter.placements
    local = distribute_tensor(whole.to(device), mesh, placements, src_data_rank=None)
    return DTensor.from_local(
        local.to_local().clone(memory_format=torch.contiguous_format),
        mesh,
        placements,
        shape=local.shape,
        stride=local.stride(),
    )


def together(tensor: Tensor) -> Tensor:
    """Give the whole tensor of which processes hold parts; all of them call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def squares(model: LlamaModel, meshes: Meshes, world: int) -> Tensor:
    """Add up the squares of this process' gradients, so that all processes' sums add up.

    Row by row in float32, as `optim.gradient_norm` does; then in float64.
    """
    found = []
    for weight in model.parameters():
        if weight.grad is None:
            continue
        grad = own(weight.grad)
        copies = meshes.replicas if isinstance(weight, DTensor) else world
        rows = torch.linalg.vector_norm(grad, dim=-1).double()
        found.append(rows.square().sum() / copies)
    return torch.stack(found).sum()
