"""Train tiny models in forked processes of one group, and compare with one process.

    PYTHONPATH=tests python tests/parallel/forked.py DIRECTORY --world 2 dense:1:1 top_2:2:1

A case is a model, the number of processes that share its experts, and that of replicas. Prints one
JSON object: by case, how far losses of some steps and gradients of the first are from those of one
process, relative to the largest number of each weight.

torch is imported once; every process is a fork of this one, which itself computes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch.distributed as dist

from adapted import adapted_model
from quatrain.config import Config, LoraConfig, ParallelConfig, TrainConfig
from quatrain.data.batches import Batch
from quatrain.model.frozen import Frozen, Matrix
from quatrain.model.io import Form, model_of
from quatrain.model.kinds import KINDS, encode
from quatrain.model.llama import LlamaModel
from quatrain.model.moe import Router, count
from quatrain.model.shards import LazyTensor
from quatrain.parallel.seat import Seat
from quatrain.parallel.sharding import together
from quatrain.parallel.team import Team
from quatrain.parallel.volume import volume_of
from quatrain.train.alone import ALONE, Alone
from quatrain.train.loop import accumulate
from tiny import tiny_config, tiny_model

Listen = Callable[[LlamaModel], None]
ROWS, WIDTH = 8, 24
HALF = torch.bfloat16
_NOUGHT = 1e-3
"""A gradient below this share of the largest one counts as of that size: that of a bias of keys
without RoPE is nothing but rounding, since a softmax does not depend on it."""
LENGTHS = [[10, 6], [24], [3, 3, 3], [20], [12, 12], [8], [5, 19], [24]]


def frozen_model(
    quantise: str | None, dtype: torch.dtype = torch.float32, **lora: Any
) -> LlamaModel:
    """Adapters beside a base that is held as it is stored."""
    config = tiny_config("top_2", d_model=64, intermediate_size_expert=64, intermediate_size_mlp=64)
    weights = tiny_model(config).to(dtype).state_dict()
    tensors = {name: LazyTensor.of(one) for name, one in weights.items()}
    model = adapted_model(model_of(config, tensors, form=Form(torch.float32, quantise)), **lora)
    for weight in (one for one in model.parameters() if one.requires_grad):
        weight.data = weight.data.float()  # as in a run
    return model


def stored_tables() -> LlamaModel:
    """The same, where embeddings and head are stored in blocks too, as in a GGUF file."""
    model, kind = frozen_model("int8"), KINDS["int8"]
    for owner in (model.model.embed_tokens, model.lm_head):
        weight = owner.weight.detach()
        matrix = Matrix(kind, tuple(weight.shape), encode(kind, weight))
        del owner.weight
        owner.weight = Frozen([matrix], torch.float32)  # type: ignore[assignment]
    return model


def one_hot_routers(model: LlamaModel) -> LlamaModel:
    """Skew routers by their weights alone: logits of all but one expert are far below."""
    with torch.no_grad():
        for router in (one for one in model.modules() if isinstance(one, Router)):
            router.weight.mul_(1e-3)
            router.weight[0] += 5.0 * torch.sign(router.weight[0])
    return model


MODELS: dict[str, tuple[Callable[[], LlamaModel], dict[str, Any]]] = {
    "dense": (lambda: tiny_model(tiny_config("no_moe")), {}),
    "top_2": (lambda: tiny_model(tiny_config("top_2")), {}),
    "sixteen": (lambda: tiny_model(tiny_config("sixteen_experts")), {"micro_batch_size": 1}),
    "tied": (lambda: tiny_model(tiny_config("tied_embeddings")), {}),
    "biased": (lambda: tiny_model(tiny_config("biased_attention")), {"micro_batch_size": 1}),
    "recomputed": (lambda: tiny_model(tiny_config("top_2")), {"activation_checkpointing": True}),
    "skewed": (lambda: one_hot_routers(tiny_model(tiny_config("sixteen_experts"))), {}),
    "adapters": (lambda: adapted_model("top_2", train_router=True), {"adapter": "lora"}),
    "dropout": (lambda: adapted_model("top_2", dropout=0.3), {"adapter": "lora"}),
    "bf16": (lambda: frozen_model(None, HALF), {"adapter": "lora"}),
    "nf4": (lambda: frozen_model("nf4", HALF), {"adapter": "lora", "micro_batch_size": 2}),
    "stored_tables": (stored_tables, {"adapter": "lora"}),
    "nf4_attention": (
        lambda: frozen_model("nf4", HALF, targets=("attention",)), {"adapter": "lora"}
    ),
}  # fmt: skip


def batch_of(step: int, rank: int, world: int) -> Batch:
    """Rows of random documents; two ids in three are targets."""
    draw = np.random.default_rng(step)
    ids = draw.integers(96, size=(ROWS, WIDTH))
    mask = draw.random(ids.shape) < 0.67
    for row, documents in enumerate(LENGTHS):
        mask[row, np.cumsum([0, *documents[:-1]])] = False
        mask[row, sum(documents) :] = False
    part = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    return Batch(ids[part], mask[part], LENGTHS[part], np.arange(ROWS)[part], 0.0)


def trained(
    name: str, steps: int, team: Alone, config: Config, listen: Listen = lambda _: None
) -> dict[str, Any]:
    """Train some steps; give the losses, and the gradients of the first step."""
    make, given = MODELS[name]
    model = make()
    train = TrainConfig(**{"balance_loss_coef": 0.1, "learning_rate": 1e-2, **given})
    model.model.activation_checkpointing = train.activation_checkpointing
    if team.world > 1:
        model = team.placed(model, config, torch.device("cpu"))
    model.train()
    listen(model)
    optimizer = team.optimizer(model, train)
    losses, norms, grads, loads = [], [], {}, []
    for step in range(steps):
        found = accumulate(model, batch_of(step, team.rank, team.world), train, step, team)
        norm = team.norm(model)
        if not step:
            grads = whole_gradients(model, team)
            loads = [load.tolist() for load in found.loads.values()]
        team.update(optimizer, norm, 1.0)
        losses.append(found.loss)
        norms.append(float(norm))
    return {"losses": losses, "norms": norms, "grads": grads, "loads": loads}


def whole_gradients(model: LlamaModel, team: Alone) -> dict[str, torch.Tensor]:
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            grad = weight.grad.clone()
            found[name] = team._joined(name, grad) if isinstance(team, Team) else together(grad)
    return found


def case(text: str) -> tuple[str, Config]:
    name, experts, replicas = text.split(":")
    parallel = ParallelConfig(expert_parallel=int(experts), replicas=int(replicas))
    return name, Config(parallel=parallel)


class Counted:
    """Counts the bytes that this process sends, by what is sent."""

    def __init__(self) -> None:
        self.sent = dict.fromkeys(("gather", "reduce", "repeat", "tokens"), 0)
        for name in ("all_gather_single", "all_gather_into_tensor"):
            self._wrap(name, "gather", lambda _, part, *rest, n, **more: part.nbytes * (n - 1))
        for name in ("reduce_scatter_single", "reduce_scatter_tensor"):
            self._wrap(name, "reduce", lambda part, *rest, n, **more: part.nbytes * (n - 1))
        self._wrap("all_reduce", "repeat", lambda one, *rest, n, **more:
                   2 * one.nbytes * (n - 1) // n if _is_gradient(one) else 0)  # fmt: skip
        self._wrap("all_to_all_single", "tokens", _rows_sent)
        self.loads: list[torch.Tensor] = []

    def listen(self, model: LlamaModel) -> None:
        """Note the experts that this process' routers choose, [E], once for each forward pass."""

        def note(_: Any, __: Any, found: tuple[torch.Tensor, ...]) -> None:
            if torch._C._current_graph_task_id() < 0:  # and not as a backward pass repeats it
                self.loads.append(count(found[1].flatten(), found[2].shape[1]))

        for router in (one for one in model.modules() if isinstance(one, Router)):
            router.register_forward_hook(note)

    def moved(self, team: Team) -> float:
        """Count rows that go to experts of others, or come from others to experts here."""
        mesh = team.meshes.expert
        if mesh.size() == 1:
            return 0.0
        load_E = torch.stack(self.loads).sum(0)
        loads_PE = load_E.new_empty(mesh.size(), len(load_E))
        dist.all_gather(list(loads_PE.unbind()), load_E, group=mesh.get_group())
        rows_PP = loads_PE.unflatten(1, (mesh.size(), -1)).sum(2)
        me = mesh.get_local_rank()
        return float(rows_PP[me].sum() + rows_PP[:, me].sum() - 2 * rows_PP[me, me])

    def _wrap(self, name: str, kind: str, size: Any) -> None:
        original = getattr(dist, name, None)
        if original is None:
            return

        def wrapped(*args: Any, **named: Any) -> Any:
            values = [*args, *(v for k, v in named.items() if k in _TENSORS)]
            group = named.get("group") or next((one for one in args if _is_group(one)), None)
            n = dist.get_world_size(group)
            self.sent[kind] += size(*values, n=n, me=dist.get_rank(group))
            return original(*args, **named)

        setattr(dist, name, wrapped)


_TENSORS = ("output_tensor", "input_tensor", "output", "input", "tensor")


def _is_group(one: Any) -> bool:
    return isinstance(one, dist.ProcessGroup)


def _is_gradient(one: torch.Tensor) -> bool:
    """Whether a sum is one of gradients, and not of counts."""
    return one.is_floating_point() and one.numel() > 16


def _rows_sent(*given: Any, n: int, me: int) -> int:
    _, rows, *splits = given
    if len(splits) < 2:  # the numbers of rows
        return 0
    sent: list[int] = splits[1]
    return (sum(sent) - sent[me]) * rows.shape[1] * rows.element_size()


def process(rank: int, world: int, folder: Path, cases: list[str], steps: int) -> None:
    """Train every case in a group; the first process writes what it found."""
    counted = Counted()
    store = dist.FileStore(str(folder / "meet"), world)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = {}
    for text in cases:
        team = Team(Seat(rank, world, rank, "here"), 60.0)
        name, config = case(text)
        counted.sent = dict.fromkeys(counted.sent, 0)
        counted.loads.clear()
        one = trained(name, steps, team, config, counted.listen)
        found[text] = {**one, "sent": dict(counted.sent), "moved": counted.moved(team)}
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.destroy_process_group()


def difference(alone: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    def far(one: float, other: float) -> float:
        return abs(one - other) / abs(one)

    assert alone["grads"].keys() == found["grads"].keys(), "gradients of other weights"
    largest = {name: float(grad.abs().max()) for name, grad in alone["grads"].items()}
    least = _NOUGHT * max(largest.values())
    apart = {
        name: float((grad - found["grads"][name]).abs().max()) / max(largest[name], least)
        for name, grad in alone["grads"].items()
    }
    worst = max(apart, key=lambda name: apart[name])
    return {
        "losses": max(map(far, alone["losses"], found["losses"])),
        "norms": max(map(far, alone["norms"], found["norms"])),
        "gradients": apart[worst], "worst": worst, "loads": alone["loads"] == found["loads"],
        "unused": sum(load.count(0) for load in alone["loads"]),
    }  # fmt: skip


def computed(
    name: str, config: Config, world: int, steps: int, moved: float | None = None
) -> dict[str, float]:
    """Compute what a process sends in all steps; `moved` rows in all of them."""
    make, given = MODELS[name]
    lora = LoraConfig(rank=3)
    if name == "nf4_attention":
        lora = lora.replace(targets=("attention",))
    whole = Config.model_construct(
        model=make().config, train=TrainConfig(**given), parallel=config.parallel, lora=lora
    )
    rows = ROWS // world
    parts = rows // given.get("micro_batch_size", rows)
    stored = name.startswith("nf4")
    moved = None if moved is None else moved / steps
    volume = volume_of(whole, world, rows * WIDTH, parts, stored, moved)
    return {kind: steps * size for kind, size in asdict(volume).items()}


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return child


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    (options.directory / "meet").unlink(missing_ok=True)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    children = [
        fork(lambda rank=rank: process(  # type: ignore[misc]
            rank, options.world, options.directory, options.cases, options.steps))
        for rank in range(options.world)
    ]  # fmt: skip
    codes = [os.waitpid(child, 0)[1] for child in children]
    assert not any(codes), codes
    found = torch.load(options.directory / "found.pt", weights_only=False)
    report = {}
    for text in options.cases:
        name, config = case(text)
        report[text] = difference(trained(name, options.steps, ALONE, config), found[text])
        report[text]["sent"] = found[text]["sent"]
        sizes = config, options.world, options.steps
        report[text]["computed"] = computed(name, *sizes, found[text]["moved"])
        report[text]["expected"] = computed(name, *sizes)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
