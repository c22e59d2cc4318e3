"""The training loop: one, for pretraining and for SFT.

A step, always in this order: batch, learning rate, gradients, stop if anything is not finite,
update, log; then, when due, evaluate and save. Each batch is a function of the step, and so is the
dropout of adapters: a run that was killed resumes from a checkpoint as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from quatrain.config import TrainConfig
from quatrain.data.batches import Batch, Batches
from quatrain.errors import NonFiniteError
from quatrain.evaluate.loss import count_targets, judge
from quatrain.model.llama import LlamaModel
from quatrain.model.lora import dropping
from quatrain.model.weights import Draw
from quatrain.progress import working
from quatrain.train.alone import ALONE, Alone
from quatrain.train.checkpoint import Keeper, State
from quatrain.train.log import Display, Journal
from quatrain.train.optim import learning_rate, set_learning_rate
from quatrain.train.products import meet_experts


@dataclass
class Gradients:
    """Sums over the micro-batches of one step."""

    loss: float = 0.0
    """Mean over the step's targets."""
    num_tokens: int = 0
    """Tokens read, padding left out."""
    loads: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation; the score decides which checkpoint is best."""

    row: dict[str, Any] | None
    """None when there was nothing to measure on."""
    score: tuple[float, ...]
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of samples.jsonl."""
    each: tuple[float, ...] = ()
    """What each question scored, in the same order at every evaluation."""


@dataclass(frozen=True)
class Around:
    """What the loop calls."""

    evaluate: Callable[[int], Evaluation]
    """Called with the step when an evaluation is due; leaves the model as it was."""
    keeper: Keeper
    journal: Journal
    display: Display
    stop_requested: Callable[[], bool] = lambda: False
    """Asked before each step; True saves and returns."""
    settle_again: Callable[[int], TrainConfig | None] = lambda step: None
    """Called after a step, before what is due; gives the settings if their steps change."""
    report: Callable[[], None] = lambda: None
    """Called after an evaluation and its checkpoint; writes the report, and never fails."""

    def tell(self, found: Evaluation) -> None:
        """Record an evaluation, and show it."""
        for sample in found.samples:
            self.journal.sample(sample)
        if found.row is not None:
            self.journal.metrics(found.row)
            self.display.evaluated(found.row)


def train(
    model: LlamaModel,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    config: TrainConfig,
    state: State,
    around: Around,
    team: Alone = ALONE,
) -> State:
    """Train from state.step to config.max_steps, both counted from 1.

    Args:
        model: on its device, in training mode.
        optimizer: its moments are those of state.step.
        batches: the data.
        config: settled; no field that this loop reads is None.
        state: of the checkpoint that was loaded, or a new one.
        around: evaluation, checkpoints, metrics, display.
        team: the processes that train together.

    Returns:
        The last state; `finished` unless the run was asked to stop.

    Raises:
        NonFiniteError: Q501, before the update; the weights are those of the previous step.
    """
    num_steps = config.max_steps or 0
    if not state.finished:
        num_rows = config.micro_batch_size or batches.batch_size
        meet_experts(model, num_rows * batches.rows.block_size, config.precision)
    while state.step < num_steps and not state.finished:
        if team.any(around.stop_requested()):
            break
        started = time.perf_counter()
        step = state.step + 1
        team.mark(step)
        rate = learning_rate(step, num_steps, config)
        set_learning_rate(optimizer, rate)
        batch = batches.batch(step - 1, team.rank, team.world)
        gradients = accumulate(model, batch, config, step, team)
        norm = team.norm(model)
        _refuse_non_finite(model, gradients.loss, norm, step, batch, around.journal, team)
        team.update(optimizer, norm, config.max_grad_norm)
        state = state.model_copy(
            update={"step": step, "tokens": state.tokens + gradients.num_tokens}
        )
        row = _row(state, gradients, rate, float(norm), time.perf_counter() - started)
        if step % config.log_interval == 0 or step == num_steps:
            around.journal.metrics(row)
        around.display.trained(row)
        if (again := around.settle_again(step)) is not None:
            config, num_steps = again, again.max_steps or 0
            around.display.settled_again(step, num_steps)
        state = _evaluate_and_save(model, optimizer, config, state, around)
    if state.step and not team.told(around.keeper.path(state.step).exists()):  # asked to stop
        _save(model, optimizer, state, around)
    return state


def _evaluate_and_save(
    model: LlamaModel,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    state: State,
    around: Around,
) -> State:
    """Do what is due after a step; the last one is always evaluated and saved."""
    step, last = state.step, state.step == config.max_steps
    evaluated = last or step % (config.eval_interval or step) == 0
    if evaluated:
        found = around.evaluate(step)
        around.tell(found)
        state = state.after_evaluation(found.score, found.each)
        out_of_patience = state.evaluations_since_best >= (config.early_stop or step + 1)
        state = state.model_copy(update={"finished": last or out_of_patience})
    if evaluated or step % (config.save_interval or step) == 0:
        _save(model, optimizer, state, around)
    if evaluated:
        around.report()
    return state


def _save(
    model: LlamaModel, optimizer: torch.optim.Optimizer, state: State, around: Around
) -> None:
    with working("progress.saving"):
        around.journal.sync()
        around.keeper.save(model, optimizer, state)


def accumulate(
    model: LlamaModel, batch: Batch, config: TrainConfig, step: int = 0, team: Alone = ALONE
) -> Gradients:
    """Add up the gradients of a batch, micro-batch by micro-batch.

    The sums are divided by the counts of the whole batch, known in advance, so the division into
    micro-batches changes nothing but the order of float additions. The dropout of an adapter is a
    function of the step and of the places of rows in the batch. Of a batch that several processes
    share, each counts its rows, and adds up the gradients of its own.
    """
    device, first_row = model.device, team.rank * len(batch.ids)
    targets, num_tokens = team.totals(count_targets(batch.mask), sum(map(sum, batch.segments)))
    num_targets = max(1, targets)
    coefficient = (config.balance_loss_coef or 0.0) / max(1, len(model.config.moe_layers))
    total = Gradients(num_tokens=num_tokens)
    loss_sum = torch.zeros((), device=device)
    parts = _micro_batches(len(batch.ids), config.micro_batch_size)
    _add_in_float32(model, len(parts) > 1)
    with working("progress.step", total=len(parts)) as work:
        for part in parts:
            team.add_up(model, part is parts[-1])
            ids = torch.from_numpy(np.ascontiguousarray(batch.ids[part])).to(device)
            with dropping(model, Draw(config.seed, step, first_row + part.start, len(ids))):
                with torch.autocast(
                    device.type, torch.bfloat16, enabled=config.precision == "bf16"
                ):
                    judged = judge(
                        model, ids, batch.mask[part], batch.segments[part], config.loss_chunk_size,
                        balance=coefficient > 0,
                    )  # fmt: skip
                balance = coefficient * judged.balance_sum / num_tokens
                (judged.loss_sum / num_targets + balance).backward()
            loss_sum += judged.loss_sum.detach()
            for layer, load in judged.loads.items():
                total.loads[layer] = total.loads.get(layer, 0) + load
            work.advance()
    (summed,) = team.totals(float(loss_sum))
    total.loss, total.loads = summed / num_targets, team.summed(total.loads)
    return total


def _add_in_float32(model: LlamaModel, several: bool) -> None:
    """Let gradients of several micro-batches be float32, whatever the weights are.

    In bfloat16, what is added to a sum 256 times as large is lost.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad_dtype = torch.float32 if several else weight.dtype


def _micro_batches(rows: int, size: int | None) -> list[slice]:
    size = size or rows
    return [slice(start, start + size) for start in range(0, rows, size)]


def _refuse_non_finite(
    model: LlamaModel,
    loss: float,
    norm: torch.Tensor,
    step: int,
    batch: Batch,
    journal: Journal,
    team: Alone,
) -> None:
    """Stop before the update when the loss or any gradient is not a number."""
    if np.isfinite(loss) and bool(torch.isfinite(norm)):
        return
    bad = team.first_non_finite(
        (name, p.grad) for name, p in model.named_parameters() if p.grad is not None
    )
    weight = team.first_non_finite(model.named_parameters())
    name = f"nonfinite-step-{step}.json"
    journal.report(
        name,
        {
            "step": step,
            "loss": repr(loss),
            "grad_norm": repr(float(norm)),
            "first_bad_gradient": bad,
            "first_bad_weight": weight,
            "rows": batch.indices.tolist(),
        },
    )
    raise NonFiniteError(
        "Q501.step",
        step=step,
        loss=loss,
        norm=float(norm),
        bad=bad,
        weight=weight,
        file=name,
    )


def _row(
    state: State, gradients: Gradients, rate: float, norm: float, seconds: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": state.step,
        "loss": gradients.loss,
        "lr": rate,
        "grad_norm": norm,
        "tokens": state.tokens,
        "tokens_per_second": gradients.num_tokens / seconds,
        "seconds": seconds,
    }
    if gradients.loads:
        row["expert_load"] = {str(layer): load.tolist() for layer, load in gradients.loads.items()}
    return row
