"""What a run asks of the processes that train together, and the answers of one that is alone.

A team of several processes gives other answers (parallel/team.py). Nothing else in training knows
how many there are: a step is the same, and its rows are divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from quatrain.config import Config, GenerateConfig, TrainConfig
from quatrain.data.batches import Batch
from quatrain.evaluate.graded import Graded
from quatrain.evaluate.run import grade, held_out_loss
from quatrain.generate.answer import Answerer
from quatrain.model.adapter import Whole, held
from quatrain.model.llama import LlamaModel
from quatrain.text.conversation import Conversation
from quatrain.train.optim import gradient_norm, make_optimizer, update
from quatrain.train.placing import place
from quatrain.train.start import locked

Plain = TypeVar("Plain")


class Alone:
    """One process."""

    rank, world = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files of the run, and speaks."""
        return self.rank == 0

    def locked(self, run_dir: Path) -> AbstractContextManager[None]:
        """Hold the run directory in the body."""
        return locked(run_dir)

    def after_leader(self) -> AbstractContextManager[None]:
        """Run the body in the leader first, then in the others, which find its files."""
        return nullcontext()

    def agree(self, **facts: str) -> None:
        """Refuse to go on where a fact is another one in another process."""

    def told(self, value: Plain) -> Plain:
        """Give the leader's value, of the types that JSON has, to all."""
        return value

    def any(self, flag: bool) -> bool:
        """Say whether it is true in any process."""
        return flag

    def totals(self, *counts: Any) -> tuple[Any, ...]:
        """Add up each number over all processes."""
        return counts

    def summed(self, loads: dict[int, Tensor]) -> dict[int, Tensor]:
        """Add up each tensor of integers over all processes."""
        return loads

    def mark(self, step: int) -> None:
        """Note that a step begins."""

    def placed(self, model: LlamaModel, config: Config, device: torch.device) -> LlamaModel:
        """Put a model that was read on the CPU where it trains."""
        return place(model, config, device) if config.train.adapter else model.to(device)

    def num_weights(self, model: LlamaModel) -> int:
        """Count the numbers of all weights of the whole model."""
        return model.num_weights

    def optimizer(self, model: LlamaModel, config: TrainConfig) -> torch.optim.Optimizer:
        """See `make_optimizer`."""
        return make_optimizer(model, config)

    def add_up(self, model: LlamaModel, last: bool) -> None:
        """Note that a micro-batch begins, and whether it is the last one of its step."""

    def norm(self, model: LlamaModel) -> Tensor:
        """Compute the L2 norm of all gradients together, a scalar."""
        return gradient_norm(model)

    def first_non_finite(self, tensors: Iterable[tuple[str, Tensor]]) -> str | None:
        """Name the first tensor that has a number which is not finite."""
        return next((name for name, t in tensors if not bool(torch.isfinite(t).all())), None)

    def update(self, optimizer: torch.optim.Optimizer, norm: Tensor, max_norm: float) -> None:
        """See `optim.update`."""
        update(optimizer, norm, max_norm)

    def whole(self, tensors: dict[str, Tensor]) -> AbstractContextManager[Whole | None]:
        """Give whole tensors in the body; None in a process that does not write.

        Args:
            tensors: every one that may be asked for, by name, as this process holds it.
        """
        return nullcontext(held)

    def part(self, name: str, whole: Tensor, parameter: Tensor) -> Tensor:
        """Take this process' part of a whole moment of a parameter, on the parameter's device."""
        return whole.to(parameter.device)

    def loss(
        self, model: LlamaModel, batches: Iterable[Batch], total: int, chunk_size: int
    ) -> float:
        """Average the held-out loss over all target tokens of so many batches."""
        return held_out_loss(model, batches, total, chunk_size)[0]

    def graded(
        self, answerer: Answerer, questions: Sequence[Conversation], options: GenerateConfig
    ) -> list[Graded]:
        """Answer and score questions."""
        return grade(answerer, questions, options)


ALONE = Alone()
