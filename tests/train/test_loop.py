"""What must not matter to training, and what stops it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapted import adapted_model
from quatrain.config import TrainConfig
from quatrain.data.batches import Batch
from quatrain.data.read import read_rows
from quatrain.errors import NonFiniteError
from quatrain.files import sha256
from quatrain.model.llama import LlamaModel
from quatrain.model.moe import Router
from quatrain.train.checkpoint import State, within_one_error
from quatrain.train.loop import accumulate
from quatrain.train.run import run
from tiny import tiny_config, tiny_model
from tiny_run import timeless_metrics, tiny_run


def batch_of(lengths: list[list[int]], width: int = 24, seed: int = 0) -> Batch:
    """Rows of random documents; two ids in three are targets, padding and firsts are not."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(96, size=(len(lengths), width))
    mask = draw.random(ids.shape) < 0.67
    for row, documents in enumerate(lengths):
        mask[row, np.cumsum([0, *documents[:-1]])] = False
        mask[row, sum(documents) :] = False
    return Batch(ids, mask, lengths, np.arange(len(lengths)), 0.0)


LENGTHS = [[10, 6], [24], [3, 3, 3], [20], [12, 12], [8], [5, 19], [24]]


def gradients_of(model: LlamaModel, batch: Batch, **train: Any) -> tuple[float, dict[str, Any]]:
    model.zero_grad(set_to_none=True)
    loss = accumulate(model, batch, TrainConfig(balance_loss_coef=0.1, **train)).loss
    return loss, {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(one: tuple[float, Any], other: tuple[float, Any]) -> None:
    """Equal but for the order of float32 additions: 1e-5 of the largest gradient."""
    assert math.isclose(one[0], other[0], rel_tol=1e-5)
    for name, gradient in one[1].items():
        limit = 1e-5 * max(1.0, float(gradient.abs().max()))
        assert (gradient - other[1][name]).abs().max() <= limit, name


@pytest.mark.parametrize("size", [1, 2, 4])
def test_how_a_batch_is_cut_into_micro_batches_changes_nothing(size: int) -> None:
    model, batch = tiny_model(), batch_of(LENGTHS)
    whole = gradients_of(model, batch, micro_batch_size=8)
    assert_same(whole, gradients_of(model, batch, micro_batch_size=size))


def test_activation_checkpointing_changes_no_gradient() -> None:
    model, batch = tiny_model(), batch_of(LENGTHS)
    plain = gradients_of(model, batch)
    model.model.activation_checkpointing = True
    assert_same(plain, gradients_of(model, batch))


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_is_the_same_however_a_batch_is_cut_or_recomputed(
    size: int, checkpointing: bool
) -> None:
    batch = batch_of(LENGTHS)
    whole, cut = (adapted_model("top_2", dropout=0.3, train_router=True) for _ in range(2))
    cut.model.activation_checkpointing = checkpointing
    assert_same(
        gradients_of(whole, batch, micro_batch_size=8),
        gradients_of(cut, batch, micro_batch_size=size),
    )


def test_padding_changes_neither_loss_nor_gradient() -> None:
    model, tight = tiny_model(), batch_of([[24], [24]])
    wide = Batch(
        np.pad(tight.ids, ((0, 0), (0, 9))), np.pad(tight.mask, ((0, 0), (0, 9))),
        tight.segments, tight.indices, 0.0,
    )  # fmt: skip
    assert_same(gradients_of(model, tight), gradients_of(model, wide))


def test_two_parts_of_a_batch_add_up_to_the_batch() -> None:
    """As two ranks would: each part's sums, divided by the whole batch's counts."""
    model, batch = tiny_model(), batch_of(LENGTHS)
    whole = gradients_of(model, batch)
    parts = [gradients_of(model, part_of(batch, rows)) for rows in (slice(0, 3), slice(3, 8))]
    weights = [
        part_of(batch, rows).mask.sum() / batch.mask.sum() for rows in (slice(0, 3), slice(3, 8))
    ]
    assert math.isclose(
        whole[0], sum(w * p[0] for w, p in zip(weights, parts, strict=True)), rel_tol=1e-5
    )


def part_of(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.ids[rows], batch.mask[rows], batch.segments[rows], batch.indices[rows], 0.0)


def test_a_batch_without_targets_contributes_nothing() -> None:
    model, batch = tiny_model(), batch_of([[24], [24]])
    empty = Batch(batch.ids, np.zeros_like(batch.mask), batch.segments, batch.indices, 0.0)
    model.zero_grad(set_to_none=True)
    assert accumulate(model, empty, TrainConfig()).loss == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def fix_choices(model: LlamaModel) -> None:
    """Let each token keep the experts that it chooses in the first pass."""
    chosen: dict[Router, torch.Tensor] = {}

    def keep(router: Router, _: Any, found: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        experts = chosen.setdefault(router, found[1])
        return found[2].gather(1, experts).sigmoid(), experts, found[2]

    for module in model.modules():
        if isinstance(module, Router):
            module.register_forward_hook(keep)


@pytest.mark.parametrize("name", ["base", "every_layer_moe", "top_2", "sixteen_experts"])
def test_bfloat16_rounds_every_gradient_a_little_and_keeps_it_float32(name: str) -> None:
    model, batch = tiny_model(tiny_config(name, initializer_range=0.05)), batch_of(LENGTHS)
    fix_choices(model)  # else a rounded state may choose another expert
    loss, exact = gradients_of(model, batch)
    rounded_loss, rounded = gradients_of(model, batch, precision="bf16")
    assert 0 < abs(loss - rounded_loss) < 3e-4 * loss
    for parameter_name, parameter in model.named_parameters():
        gradient, expected = rounded[parameter_name], exact[parameter_name]
        assert parameter.dtype == gradient.dtype == torch.float32
        error = float((gradient - expected).norm() / expected.norm())
        # 8 bits round by 0.4 % at most, in each of some ten products in a row
        assert 0 < error < 0.04, parameter_name


def test_one_batch_is_learnt_by_heart() -> None:
    model, batch = tiny_model(tiny_config(initializer_range=0.05)), batch_of([[24], [24]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = accumulate(model, batch, TrainConfig()).loss
        optimizer.step()
    assert loss < 0.05


def test_a_run_learns_evaluates_and_keeps_its_best(tmp_path: Path) -> None:
    result = run(tiny_run(tmp_path, max_steps=60, eval_interval=20), quiet=True)
    metrics = timeless_metrics(result.run_dir)
    losses = [row["loss"] for row in metrics if "loss" in row]
    evaluations = [row for row in metrics if "eval_loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert [row["step"] for row in evaluations] == [0, 20, 40, 60]
    assert set(evaluations[0]) == {"step", "eval_loss", "exact_match", "f1"}
    best = max(evaluations[1:], key=lambda row: (row["f1"], row["exact_match"], -row["eval_loss"]))
    assert result.state.best_step == best["step"]
    assert (result.run_dir / "checkpoints" / "best").resolve().name == f"step-{best['step']:06d}"


def test_the_latest_of_equally_good_checkpoints_is_kept() -> None:
    first = State(step=10).after_evaluation((50.0,), (1.0, 1.0, 0.0, 0.0))
    second = first.model_copy(update={"step": 20}).after_evaluation((25.0,), (0.0, 1.0, 0.0, 0.0))
    assert (second.best_step, second.best_score, second.evaluations_since_best) == (20, (50.0,), 1)


def test_many_questions_decide_where_few_do_not() -> None:
    good, worse = (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
    assert within_one_error(worse, good)
    assert not within_one_error(100 * worse, 100 * good)
    assert within_one_error((0.0, 1.0, 1.0, 0.0), (1.0, 1.0, 0.0, 1.0))


def test_a_checkpoint_is_compared_with_the_highest_score_and_not_with_the_last_kept() -> None:
    state = State(step=1).after_evaluation((50.0,), (1.0,) * 20 + (0.0,) * 20)
    for step, lost in ((2, 1), (3, 2), (4, 4)):  # and one more is answered that was not
        each = (0.0,) * lost + (1.0,) * (21 - lost) + (0.0,) * 19
        score = (100 * sum(each) / 40,)
        state = state.model_copy(update={"step": step}).after_evaluation(score, each)
    assert (state.best_step, state.best_score) == (3, (50.0,))


def test_a_checkpoint_that_kept_no_score_of_each_question_is_gone_on_from() -> None:
    old = State.model_validate({"step": 5, "best_step": 5, "best_score": [50.0]})
    later = old.model_copy(update={"step": 9}).after_evaluation((25.0,), (0.0, 50.0))
    assert (later.best_step, later.evaluations_since_best) == (5, 1)


@pytest.mark.parametrize("each", [(), (0.0, 0.0), (1.0, 1.0)])
def test_answers_that_say_nothing_leave_it_to_the_loss(each: tuple[float, ...]) -> None:
    first = State(step=1).after_evaluation((0.0, -1.0), each)
    worse = first.model_copy(update={"step": 2}).after_evaluation((0.0, -2.0), each)
    better = first.model_copy(update={"step": 2}).after_evaluation((0.0, -0.5), each)
    assert (worse.best_step, better.best_step) == (1, 2)


def test_how_often_a_run_evaluates_changes_no_weight(tmp_path: Path) -> None:
    often = run(tiny_run(tmp_path, "often", eval_interval=1), quiet=True)
    once = run(tiny_run(tmp_path, "once", eval_interval=12), quiet=True)
    assert final_weights(often.run_dir) == final_weights(once.run_dir)


def final_weights(run_dir: Path, step: int = 12) -> str:
    return sha256(run_dir / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    result = run(tiny_run(tmp_path, save_interval=1), quiet=True)
    kept = {path.name for path in (result.run_dir / "checkpoints").glob("step-*")}
    assert kept == {"step-000011", "step-000012", f"step-{result.state.best_step:06d}"}


def test_early_stop_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, early_stop=2, eval_interval=1, max_steps=40, learning_rate=1e-9)
    result = run(config, quiet=True)
    assert result.state.finished
    assert result.state.step < 40


def test_a_time_box_becomes_a_number_of_steps_that_is_kept(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, max_steps=None, eval_interval=None, budget="6s")
    result = run(config, quiet=True)
    settled = (result.run_dir / "config.yaml").read_text()
    assert result.state.finished
    assert f"max_steps: {result.state.step}\n" in settled
    assert result.last_evaluation is not None
    assert run(config, quiet=True).state.step == result.state.step


@pytest.mark.parametrize(
    "where",
    [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.feed_forward.router.weight",
    ],
)
def test_a_nan_stops_the_run_before_the_update(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quatrain.train.run as module

    made: list[LlamaModel] = []
    build = module.build_model

    def poisoned(*args: Any) -> LlamaModel:
        made.append(build(*args))
        parameter = made[0].get_parameter(where)
        parameter.register_hook(lambda grad: grad * float("nan"))
        made[0].before = {n: p.clone() for n, p in made[0].named_parameters()}
        return made[0]

    monkeypatch.setattr(module, "build_model", poisoned)
    with pytest.raises(NonFiniteError, match=f"step 1: .*{where}"):
        run(tiny_run(tmp_path), quiet=True)
    for name, parameter in made[0].named_parameters():
        assert torch.equal(parameter, made[0].before[name]), name
    report = json.loads((tmp_path / "run" / "nonfinite-step-1.json").read_text())
    assert report["first_bad_gradient"] == where
    assert len(report["rows"]) == 2


def test_the_tiny_questions_are_read_back(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    assert len(list(read_rows(config.data.train[0], config.data))) == 24
