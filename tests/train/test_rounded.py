"""Weights and moments in bfloat16: rounded by chance, exact on average, and the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import quatrain.train.rounded as rounded
from quatrain.config import TrainConfig
from quatrain.errors import CheckpointError, ConfigError
from quatrain.files import sha256
from quatrain.model.llama import LlamaModel
from quatrain.recipe import build
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update
from quatrain.train.rounded import draw, draws, keep_in_bfloat16, round_by_chance
from quatrain.train.run import build_model, run
from quatrain.train.start import resolve
from tiny import tiny_config, tiny_model
from tiny_run import stop_after, timeless_metrics, tiny_run
from train.test_memory import batch_of

HALVES = 1 << 16


# --- rounding ------------------------------------------------------------------------------------


def neighbours(exact: Tensor) -> tuple[Tensor, Tensor]:
    """The bfloat16 numbers around float32 ones: towards zero, and away from it; as float64."""
    inner = (exact.view(torch.int32) & -HALVES).view(torch.float32)
    outer = ((exact.view(torch.int32) & -HALVES) + HALVES).view(torch.float32)
    return inner.double(), outer.double()


def slowly(exact: Tensor, bits: Tensor) -> Tensor:
    """Round away from zero with the probability of what is cut off, in float64."""
    inner, outer = neighbours(exact)
    remainder = (exact.double() - inner) / (outer - inner)
    drawn = (bits.double() + HALVES // 2) / HALVES  # in [0, 1)
    return torch.where(drawn >= 1 - remainder, outer, inner).bfloat16()


def fast(exact: Tensor, bits: Tensor) -> Tensor:
    result = torch.empty_like(exact, dtype=torch.bfloat16)
    round_by_chance(exact.clone(), bits, result)
    return result


def numbers(count: int) -> Tensor:
    """Numbers of either sign and of every size, subnormal ones too."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(-140, 120, (count,), generator=generator)
    return torch.randn(count, generator=generator) * torch.exp2(sizes.double()).float()


def test_rounding_is_that_of_the_slow_twin() -> None:
    exact = numbers(100_000)
    bits = draw(torch.Generator().manual_seed(1), len(exact), 1)[0]
    assert torch.equal(fast(exact, bits), slowly(exact, bits))


def test_over_all_draws_the_mean_is_exact() -> None:
    every = torch.arange(-HALVES // 2, HALVES // 2, dtype=torch.int32).to(torch.int16)
    for number in (*numbers(40).tolist(), 1.00001, -3e-5, 1e-42, 0.0):
        exact = torch.full((HALVES,), number)
        found = fast(exact, every).double()
        assert found.mean() == exact[0].double()  # a sum of 2**16 numbers of 8 bits is exact


def test_over_many_draws_the_mean_is_within_five_standard_errors() -> None:
    exact, times = numbers(2000), 1024
    bits = draw(torch.Generator().manual_seed(2), 2000 * times, 1)[0]
    total = fast(exact.repeat(times), bits).double().view(times, -1).sum(0)
    inner, outer = neighbours(exact)
    share = (exact.double() - inner) / (outer - inner)
    error = (outer - inner).abs() * (share * (1 - share) / times).sqrt()
    assert bool(((total / times - exact.double()).abs() <= 5 * error).all())


def test_what_bfloat16_holds_is_never_changed() -> None:
    exact = torch.cat([numbers(10_000).bfloat16(), torch.tensor([0.0, -0.0, torch.inf])]).float()
    for bits in draw(torch.Generator().manual_seed(3), len(exact), 20):
        assert torch.equal(fast(exact, bits).float(), exact)


# --- AdamW ---------------------------------------------------------------------------------------


class Exact:
    """The slow twin: PyTorch's float32 AdamW on whole weights, then rounding, all in the open."""

    def __init__(self, weights: dict[str, Tensor], train: TrainConfig) -> None:
        self.train, self.step = train, 0
        zeros = {name: torch.zeros_like(one) for name, one in weights.items()}
        self.kept = {name: [one, zeros[name], zeros[name]] for name, one in weights.items()}

    def update(self, grads: dict[str, Tensor], scale: float) -> None:
        for name, grad in grads.items():
            weight, first, second = (one.float() for one in self.kept[name])
            learnt = nn.Parameter(weight)
            train = self.train
            twin = torch.optim.AdamW(
                [learnt], lr=train.learning_rate or 0, betas=(train.beta1, train.beta2),
                eps=train.adam_eps, weight_decay=train.weight_decay * (weight.ndim > 1), fused=True,
            )  # fmt: skip
            twin.state[learnt] = {"step": torch.tensor(float(self.step)), "exp_avg": first,
                                  "exp_avg_sq": second}  # fmt: skip
            learnt.grad = grad.float() / scale
            twin.step()
            exact = [learnt.detach().flatten(), first.flatten(), second.flatten()]
            source = draws(weight, train.seed, self.step, name)
            parts = [draw(source, len(weights), 3) for weights in exact[0].split(rounded.AT_ONCE)]
            bits = torch.cat(parts, dim=1)
            self.kept[name] = [
                slowly(one, some).view(weight.shape) for one, some in zip(exact, bits, strict=True)
            ]
        self.step += 1


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_an_update_is_that_of_the_slow_twin(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounded, "AT_ONCE", 1000)  # several parts, the last one shorter
    train = TrainConfig(weights="bf16", learning_rate=3e-3, weight_decay=0.1, seed=5)
    model = tiny_model(tiny_config("tied_embeddings"))
    keep_in_bfloat16(model)
    named = dict(model.named_parameters())
    twin = Exact({name: one.detach().clone() for name, one in named.items()}, train)
    optimizer = make_optimizer(model, train)
    set_learning_rate(optimizer, train.learning_rate or 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        grads = {name: torch.randn(one.shape, generator=generator).bfloat16()
                 for name, one in named.items()}  # fmt: skip
        for name, one in named.items():
            one.grad = grads[name].clone()
        update(optimizer, torch.tensor(2.0), 2.0 / scale)
        twin.update(grads, scale)
        for name, one in named.items():
            state = optimizer.state[one]
            for now, then in zip((one, state["exp_avg"], state["exp_avg_sq"]), twin.kept[name],
                                 strict=True):  # fmt: skip
                assert now.dtype == torch.bfloat16
                assert torch.equal(now, then)


def moved(seed: int, steps: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Many equal weights with equal gradients, first large, then small: the mean tells the rest."""
    layer = nn.Linear(256, 64, bias=False, dtype=torch.bfloat16)
    nn.init.constant_(layer.weight, 1.0)
    train = TrainConfig(weights="bf16", beta2=0.999, weight_decay=0.0, seed=seed)
    optimizer = make_optimizer(layer, train)
    set_learning_rate(optimizer, 1e-4)
    for step in range(steps):
        layer.weight.grad = torch.full_like(layer.weight, 1.0 if step == 0 else 2.0**-10)
        optimizer.step()
    state = optimizer.state[layer.weight]
    return layer.weight.detach().float(), state["exp_avg"].float(), state["exp_avg_sq"].float()


def test_small_updates_and_a_slow_second_moment_are_kept_on_average() -> None:
    weight, first, second = moved(0)
    exact = nn.Parameter(torch.ones(1))
    twin = torch.optim.AdamW([exact], lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for step in range(300):
        exact.grad = torch.full_like(exact, 1.0 if step == 0 else 2.0**-10)
        twin.step()
    # of 16,384 numbers; the nearest bfloat16 would leave 1.0, and a second moment of 0.001
    assert 1 - float(weight.mean()) == pytest.approx(1 - exact.item(), rel=0.05)
    assert float(second.mean()) == pytest.approx(twin.state[exact]["exp_avg_sq"].item(), rel=0.01)
    assert second.mean() < 0.00075
    assert float(first.mean()) == pytest.approx(twin.state[exact]["exp_avg"].item(), rel=0.01)


def test_draws_differ_by_seed_step_and_name_and_are_the_same_again() -> None:
    weight = torch.zeros(1)
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    found = [draw(draws(weight, *key), 64, 3) for key in keys]
    assert torch.equal(found[0], draw(draws(weight, *keys[0]), 64, 3))
    assert all(not torch.equal(found[0], one) for one in found[1:])
    assert not torch.equal(found[0][0], found[0][1])


def test_a_rate_of_zero_changes_no_weight() -> None:
    model = tiny_model()
    keep_in_bfloat16(model)
    before = [one.detach().clone() for one in model.parameters()]
    optimizer = make_optimizer(model, TrainConfig(weights="bf16"))
    set_learning_rate(optimizer, 0.0)
    for one in model.parameters():
        one.grad = torch.randn_like(one)
    update(optimizer, gradient_norm(model), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["every_layer_moe", "tied_embeddings", "biased_attention"])
def test_gradients_are_those_of_the_same_numbers_in_float32(name: str, precision: Any) -> None:
    config = tiny_config(name)
    wide, narrow = tiny_model(config), tiny_model(config)
    keep_in_bfloat16(narrow)
    wide.load_state_dict(narrow.state_dict())
    batch = batch_of(4, config.vocab_size, 32)
    for micro, dtype in ((4, torch.bfloat16), (1, torch.float32)):
        train = TrainConfig(batch_size=4, micro_batch_size=micro, precision=precision)
        losses = [accumulate(model, batch, train).loss for model in (wide, narrow)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for (path, one), other in zip(narrow.named_parameters(), wide.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            assert one.grad.dtype == dtype, path
            # the largest of a tensor, rounded to 8 bits a few times
            largest = float(other.grad.abs().max())
            torch.testing.assert_close(
                one.grad.float(), other.grad, rtol=2**-8, atol=2**-7 * largest + 1e-9, msg=path
            )
            one.grad = other.grad = None


def test_no_gradient_of_a_frequent_token_is_lost() -> None:
    model = tiny_model()
    keep_in_bfloat16(model)
    table = model.model.embed_tokens
    table(torch.zeros(1, 5000, dtype=torch.int64)).float().sum().backward()
    assert table.weight.grad is not None
    assert float(table.weight.grad[0, 0]) == pytest.approx(5000, rel=2**-8)


# --- runs ----------------------------------------------------------------------------------------


def bf16_run(directory: Path, name: str = "run", **train: Any) -> Any:
    return tiny_run(directory, name, weights="bf16", **train)


@pytest.mark.parametrize("micro", [2, 1])
def test_a_run_stopped_twice_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int
) -> None:
    calm = run(bf16_run(tmp_path, "calm", micro_batch_size=micro), quiet=True)
    for step in (5, 7):
        with monkeypatch.context() as patch:
            stop_after(step, patch)
            stopped = run(bf16_run(tmp_path, "stopped", micro_batch_size=micro), quiet=True)
            assert stopped.state.step == step
    stopped = run(bf16_run(tmp_path, "stopped", micro_batch_size=micro), quiet=True)
    for file in ("model.safetensors", "optimizer.safetensors"):
        first, second = (
            sha256(one.run_dir / "checkpoints" / "step-000012" / file) for one in (calm, stopped)
        )
        assert first == second
    assert timeless_metrics(stopped.run_dir) == timeless_metrics(calm.run_dir)


def test_a_checkpoint_is_a_bf16_directory_with_bf16_moments(tmp_path: Path) -> None:
    finished = run(bf16_run(tmp_path), quiet=True)
    checkpoint = finished.run_dir / "checkpoints" / "step-000012"
    for file in ("model.safetensors", "optimizer.safetensors"):
        dtypes = {one.dtype for one in load_file(checkpoint / file).values()}
        assert dtypes == {torch.bfloat16}
    fields = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert fields["dtype"] == "bfloat16"
    ids = torch.arange(20)[None]
    LlamaModel.from_pretrained(checkpoint)(ids)
    losses = [row["loss"] for row in timeless_metrics(finished.run_dir) if "loss" in row]
    assert losses[-1] < losses[0]


def test_a_float32_directory_is_narrowed_and_that_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = run(tiny_run(tmp_path, "base", max_steps=2), quiet=True).run_dir
    model = {"init": str(base)}
    config = build({**bf16_run(tmp_path, max_steps=2).model_dump(exclude_unset=True),
                    "model": model})  # fmt: skip
    found = build_model(resolve(config).config, resolve(config), None)
    assert {one.dtype for one in found.parameters()} == {torch.bfloat16}
    assert found.model.states_dtype == torch.float32
    run(config)
    assert "numbers of" in capfd.readouterr().err.replace("\n", " ")


def test_a_number_that_bf16_cannot_hold_is_refused(tmp_path: Path) -> None:
    base = run(tiny_run(tmp_path, "base", max_steps=2), quiet=True).run_dir
    directory = base / "checkpoints" / "step-000002"
    model = LlamaModel.from_pretrained(directory)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 3.4e38
    model.save_pretrained(tmp_path / "large")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_format.json"):
        (tmp_path / "large" / name).write_bytes((directory / name).read_bytes())
    fields = bf16_run(tmp_path).model_dump(exclude_unset=True)
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*bf16") as raised:
        run(build({**fields, "model": {"init": str(tmp_path / "large")}}), quiet=True)
    assert raised.value.code == "Q411"


def test_adapters_are_float32_and_so_refused_beside_bf16_weights() -> None:
    with pytest.raises(ConfigError, match=r"train\.weights=bf16 .*Remove train\.weights"):
        build({"model": {"init": "x"}, "train": {"weights": "bf16", "adapter": "lora"}})
