"""Several processes that train one model: their answers to what a run asks (train/alone.py).

Each has its share of a step's rows and its part of every weight. Rank 0 leads: it alone writes
files and speaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from quatrain.config import Config, GenerateConfig, TrainConfig
from quatrain.data.batches import Batch
from quatrain.errors import QuatrainError, RankError
from quatrain.evaluate.abstention import Said
from quatrain.evaluate.graded import Graded
from quatrain.evaluate.run import grade, held_out_loss
from quatrain.generate.answer import Answerer
from quatrain.model.adapter import Whole
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import LazyTensor
from quatrain.parallel.experts import all_experts, own_experts, spread
from quatrain.parallel.in_step import in_step
from quatrain.parallel.seat import Seat
from quatrain.parallel.sharding import Meshes, own, part_like, shard, squares, together, units
from quatrain.parallel.watch import Watch
from quatrain.parallel.wire import Wire
from quatrain.text.conversation import Conversation
from quatrain.train.alone import Alone
from quatrain.train.start import locked

_OF_ANSWERS = ("answer", "finish_reason", "exact_match", "f1", "abstained", "exact_answering")
AFTER_US = 5.0
"""Seconds that the library's own timeouts come after ours, which know more."""
_PATIENCE = 6 * 3600.0
"""Seconds that the others wait while the leader prepares data, or writes a checkpoint."""


class Team(Alone):
    """The processes of one run."""

    def __init__(self, seat: Seat, timeout: float) -> None:
        """Join the others, whose process group exists.

        Args:
            seat: of this process.
            timeout: seconds that an exchange may take.
        """
        self.seat, self.rank, self.world = seat, seat.rank, seat.world
        self.timeout = timeout
        self.wire = Wire(timeout + AFTER_US, _PATIENCE + timeout)
        self.watch: Watch | None = None
        self.meshes: Meshes
        self._spread = set[str]()

    @contextmanager
    def locked(self, run_dir: Path) -> Iterator[None]:
        """Hold the run directory in the leader; watch the others, in the body."""
        if not self.leads:
            if code := self.wire.number():
                raise SystemExit(code)  # the leader tells why
            with self._watched(run_dir):
                yield
            self.wire.least(0)
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(run_dir))
                Watch.clear(run_dir)
            except QuatrainError as error:
                self.wire.number(error.exit_code)
                raise
            self.wire.number()
            with self._watched(run_dir):
                yield
            self.wire.least(0)  # nobody watches any more
            Watch.clear(run_dir)

    @contextmanager
    def _watched(self, run_dir: Path) -> Iterator[None]:
        self.watch = self.wire.watch = Watch(run_dir, self.seat, self.timeout)
        with self.watch:
            self._refuse_another_folder(run_dir)
            yield

    def _refuse_another_folder(self, run_dir: Path) -> None:
        """Refuse a run directory that is not the leader's, on a machine that does not share it."""
        assert self.watch is not None
        name = self.wire.told(self.watch.left_mark() if self.leads else None)
        there = self.wire.gathered(self.watch.sees(name))
        if False in there:
            raise RankError("Q702.folder", rank=there.index(False), run_dir=run_dir)

    @contextmanager
    def after_leader(self) -> Iterator[None]:
        """See Alone."""
        if self.leads:
            yield
            self.wire.number()
        else:
            self.wire.number()
            yield

    def agree(self, **facts: str) -> None:
        """See Alone.

        Raises:
            RankError: Q701 naming the first process whose fact is another one than the leader's.
        """
        for rank, others in enumerate(self.wire.gathered(facts)):
            for name, fact in self.wire.told(facts).items():
                if others[name] != fact:
                    raise RankError("Q701.differs", rank=rank, what=name)

    def told(self, value: Any) -> Any:
        """See Alone."""
        return self.wire.told(value)

    def any(self, flag: bool) -> bool:
        """See Alone."""
        return self.wire.least(-int(flag)) < 0

    def totals(self, *counts: Any) -> tuple[Any, ...]:
        """See Alone."""
        sums = self.wire.added(*counts)
        return tuple(type(one)(total) for one, total in zip(counts, sums, strict=True))

    def summed(self, loads: dict[int, Tensor]) -> dict[int, Tensor]:
        """See Alone."""
        if not loads:
            return loads
        stacked = torch.stack(list(loads.values())).cpu()
        dist.all_reduce(stacked, group=self.wire.group)
        return dict(zip(loads, stacked, strict=True))

    def mark(self, step: int) -> None:
        """See Alone."""
        assert self.watch is not None
        self.watch.step = step

    def placed(self, model: LlamaModel, config: Config, device: torch.device) -> LlamaModel:
        """See Alone."""
        sizes = config.parallel.expert_parallel, config.parallel.replicas
        self._num_weights = model.num_weights
        self.meshes = Meshes.of(device.type, self.world, *sizes)
        if sizes[0] > 1:
            self._spread = spread(model, self.meshes.expert)
        shard(model, self.meshes)
        model.to(device)
        _compute_layer_by_layer(model)
        return model

    def num_weights(self, model: LlamaModel) -> int:
        """See Alone."""
        return self._num_weights

    def optimizer(self, model: LlamaModel, config: TrainConfig) -> torch.optim.Optimizer:
        """See Alone; weights that are divided and others are not updated in one call."""
        optimizer = super().optimizer(model, config)
        groups = optimizer.param_groups
        optimizer.param_groups = [
            {**group, "params": kept}
            for group in groups
            for divided in (True, False)
            if (kept := [one for one in group["params"] if (own(one) is not one) == divided])
        ]
        return optimizer

    def add_up(self, model: LlamaModel, last: bool) -> None:
        """Let gradients of all but the last micro-batch wait, so that they are sent once a step."""
        for unit in units(model):
            unit.set_requires_gradient_sync(last)

    def norm(self, model: LlamaModel) -> Tensor:
        """See Alone; gradients of weights that all hold whole are added up before."""
        for weight in model.parameters():
            if weight.grad is not None and own(weight) is weight:
                dist.all_reduce(weight.grad)
        total = squares(model, self.meshes, self.world)
        dist.all_reduce(total)
        return total.sqrt().float()

    def first_non_finite(self, tensors: Iterable[tuple[str, Tensor]]) -> str | None:
        """See Alone."""
        named = list(tensors)
        bad = (i for i, (_, t) in enumerate(named) if not bool(torch.isfinite(own(t)).all()))
        first = self.wire.least(next(bad, len(named)))
        return named[first][0] if first < len(named) else None

    def update(self, optimizer: torch.optim.Optimizer, norm: Tensor, max_norm: float) -> None:
        """See Alone."""
        if norm > max_norm:
            weights = (p for group in optimizer.param_groups for p in group["params"])
            grads = [own(p.grad) for p in weights if p.grad is not None]
            torch._foreach_mul_(grads, float(max_norm / norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def whole(self, tensors: dict[str, Tensor]) -> Iterator[Whole | None]:
        """Gather tensors one at a time, as the leader asks for them."""
        names = list(tensors)
        if not self.leads:
            while (asked := self.wire.number()) >= 0:
                self._joined(names[asked], tensors[names[asked]])
            yield None
            return

        def load(name: str) -> Tensor:
            self.wire.number(names.index(name))
            return self._joined(name, tensors[name])

        def whole(name: str, tensor: Tensor) -> LazyTensor:
            experts = self.meshes.expert.size() if self._is_spread(name) else 1
            first, *rest = tensor.shape or (1,)
            shape = (first * experts, *rest) if tensor.shape else ()
            return LazyTensor(shape, tensor.dtype, lambda: load(name))

        try:
            yield whole
        finally:
            self.wire.number(-1)

    def _joined(self, name: str, tensor: Tensor) -> Tensor:
        """Gather a tensor of which processes hold parts."""
        found = together(tensor)
        return all_experts(found, self.meshes.expert) if self._is_spread(name) else found

    def _is_spread(self, name: str) -> bool:
        """Whether this process holds some of the experts of a weight, or of a moment of it."""
        return name.removeprefix("exp_avg_sq.").removeprefix("exp_avg.") in self._spread

    def part(self, name: str, whole: Tensor, parameter: Tensor) -> Tensor:
        """See Alone."""
        if name in self._spread:
            whole = own_experts(whole, self.meshes.expert)
        return part_like(whole, parameter)

    def loss(
        self, model: LlamaModel, batches: Iterable[Batch], total: int, chunk_size: int
    ) -> float:
        """See Alone; each process has its share of the batches."""
        share = islice(batches, self.rank, None, self.world)
        with in_step(model, self.wire):
            mean, count = held_out_loss(model, share, -(-total // self.world), chunk_size)
        loss, number = self.wire.added(mean * count, count)
        return loss / max(1.0, number)

    def graded(
        self, answerer: Answerer, questions: Sequence[Conversation], options: GenerateConfig
    ) -> list[Graded]:
        """See Alone; each process answers its share of the questions."""
        with in_step(answerer.model, self.wire):
            share = grade(answerer, questions[self.rank :: self.world], options, questions)
        shares = self.wire.gathered([_plain(one) for one in share])
        return [
            _graded(question, shares[number % self.world][number // self.world])
            for number, question in enumerate(questions)
        ]


def _plain(graded: Graded) -> dict[str, Any]:
    """Describe an answer without its question, which all have."""
    said = None if graded.said is None else asdict(graded.said)
    return {**{name: getattr(graded, name) for name in _OF_ANSWERS}, "said": said}


def _graded(question: Conversation, plain: dict[str, Any]) -> Graded:
    said = None if plain["said"] is None else Said(**plain["said"])
    return Graded(conversation=question, **{**plain, "said": said})


def _compute_layer_by_layer(model: LlamaModel) -> None:
    """Leave out what would read the weights of all layers at once (model/few_tokens.py)."""
    assert callable(model.model._takes_few)
    model.model._takes_few = lambda *_: False  # type: ignore[method-assign]
