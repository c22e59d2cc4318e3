"""Plans: predictions are settled as in training, and a proposed remedy fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quatrain.config import Config
from quatrain.data.prepare import PreparedData, load_and_prepare_french_data
from quatrain.errors import ResourceError
from quatrain.recipe import build, load_config
from quatrain.train.layer_memory import Work
from quatrain.train.machine import free_disk, free_memory
from quatrain.train.memory import predict
from quatrain.train.plan import (
    Plan,
    attention_of,
    gigabytes,
    learning_of,
    make_plan,
    needs,
    work_of,
)
from quatrain.train.run import run
from quatrain.train.settle import settle
from quatrain.train.shrink import refusal, smallest_change
from quatrain.train.site import Site
from quatrain.train.sizes import parameters
from quatrain.train.start import read_settled
from tiny_run import tiny_run

MUCH = 1 << 50


def prepared(tmp_path: Path, **train: Any) -> tuple[Config, PreparedData]:
    return load_and_prepare_french_data(tiny_run(tmp_path, **train))


def plan_of(tmp_path: Path, free: int | None = MUCH, disk: int = MUCH, **train: Any) -> Plan:
    config, data = prepared(tmp_path, **train)
    return make_plan(settle(config, len(data.train)), data, Site(free=free), disk)


def refused(plan: Plan) -> ResourceError:
    error = refusal(plan)
    assert error is not None
    return error


def test_a_plan_settles_what_training_settles(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, max_steps=2, batch_size=None, eval_interval=None)
    config = tiny_run(tmp_path, max_steps=2, batch_size=None, eval_interval=None)
    run(config, quiet=True)
    settled = read_settled(config.run_dir)
    assert settled is not None
    assert plan.config.train == settled.train


def test_the_tokens_of_a_step_are_those_that_a_run_counts(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, max_steps=3)
    result = run(tiny_run(tmp_path, max_steps=3), quiet=True)
    assert 3 * plan.tokens_a_step == pytest.approx(result.state.tokens, rel=0.1)


def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    assert refusal(plan_of(tmp_path)) is None
    assert refusal(plan_of(tmp_path, free=None)) is None


def test_too_little_memory_is_refused_with_a_change_that_fits(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, batch_size=8, micro_batch_size=8)
    free = plan.memory.total - 1
    error = refused(make_plan(plan.config, prepared(tmp_path)[1], Site(free=free), MUCH))
    assert error.code == "Q603"
    assert "Use train.micro_batch_size=4." in error.remedy
    assert "are free" in error.message


def test_a_model_that_never_fits_is_sent_to_smaller_bases(tmp_path: Path) -> None:
    error = refused(plan_of(tmp_path, free=1 << 20))
    assert error.code == "Q603"
    assert "quatrain plan --bases" in error.remedy


def test_too_little_disk_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, disk=1000)
    assert plan.disk.checkpoint == 12 * plan.parameters.total
    error = refused(plan)
    assert error.code == "Q604"
    assert "train.keep_last=2" in error.remedy


def test_checkpoints_of_bf16_weights_take_half(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, weights="bf16")
    assert plan.disk.checkpoint == 6 * plan.parameters.total


@pytest.mark.parametrize("share", [0.95, 0.7, 0.5, 0.35, 0.2])
def test_the_smallest_change_fits_and_gentler_ones_do_not(share: float) -> None:
    config = build({
        "model": {"d_model": 64, "n_layers": 12, "n_heads": 4, "vocab_size": 4096,
                  "num_local_experts": 2},
        "train": {"batch_size": 8, "micro_batch_size": 8},
    })  # fmt: skip
    work = Work(8, 512, 1000)
    base = predict(config.model, config.train, Work(1, 32, 1)).total
    free = round(base + share * (predict(config.model, config.train, work).total - base))
    change = smallest_change(config, work, Site(free=free))
    assert change is not None
    fields = dict(override.removeprefix("train.").split("=") for override in change.split())
    rows = int(fields.get("micro_batch_size", 8))
    length = int(fields.get("data.block_size", 512))
    changed = load_config(None, [
        "train.batch_size=8", "train.micro_batch_size=8", *change.split(),
    ]).train  # fmt: skip
    smaller = Work(rows, length, max(1, round(1000 * rows * length / (8 * 512))))
    assert predict(config.model, changed, smaller).total <= free
    if rows < 4 or "activation_checkpointing" in fields:
        half = config.train.replace(micro_batch_size=4)
        assert predict(config.model, half, Work(4, 512, 500)).total > free


def test_attention_goes_the_way_that_the_model_will_go() -> None:
    assert attention_of([[64], [64]], 64, 4) == ("blocks", 64)
    assert attention_of([[512], [512]], 512, 4) == ("blocks", 288)
    assert attention_of([[64] * 16], 1024, 4) == ("blocks", 64)
    assert attention_of([[1024]], 1024, 4) == ("blocks", 0)
    assert attention_of([[2048], [2048]], 2048, 4) == ("kernel", 0)
    assert attention_of([[2048], [2000]], 2048, 4) == ("blocks", 0)


def test_a_micro_batch_is_described_from_the_rows(tmp_path: Path) -> None:
    config, data = prepared(tmp_path, batch_size=4, micro_batch_size=2)
    work, tokens = work_of(config, data)
    assert (work.rows, work.length) == (2, config.data.block_size)
    assert 0 < work.targets < work.tokens
    assert tokens <= 4 * config.data.block_size


def test_free_memory_is_the_lesser_of_the_machines_and_the_groups(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    assert free_memory(meminfo, group) == 5000 << 10
    for name, text in (("max", "4096000"), ("current", "2048000"),
                       ("stat", "anon 1\ninactive_file 1000\n")):  # fmt: skip
        (group / f"memory.{name}").write_text(text)
    assert free_memory(meminfo, group) == 4096000 - 2048000 + 1000
    (group / "memory.max").write_text("max\n")
    assert free_memory(meminfo, group) == 5000 << 10


def test_free_disk_is_asked_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0


def test_sizes_are_written_in_powers_of_ten() -> None:
    assert [gigabytes(n) for n in (1.5e12, 21.34e9, 416e6, 2048)] == [
        "1.5 TB", "21.3 GB", "416 MB", "2.05 kB",
    ]  # fmt: skip


def test_a_base_needs_more_than_sixteen_bytes_a_parameter() -> None:
    for name, need in needs().items():
        assert need["memory"] > 12 * need["parameters"], name
        assert need["file"] == 2 * need["parameters"]


def test_adapters_are_proposed_where_training_every_weight_would_not_fit() -> None:
    model = {"init": "somewhere", "d_model": 512, "n_layers": 8, "moe_layers": ()}
    config = settle(build({"model": model, "data": {"block_size": 64},
                           "train": {"batch_size": 1, "max_steps": 2}}), 10)  # fmt: skip
    work = Work(1, 64, 16)
    whole = predict(config.model, config.train, work).total
    adapted = config.train.replace(adapter="lora")
    learning = learning_of(config.replace(train=adapted))
    assert learning is not None
    least = predict(config.model, adapted, work, learning).total
    assert least < 0.6 * whole
    assert smallest_change(config, work, Site(free=round(1.05 * least))) == "train.adapter=lora"


def test_the_checkpoints_of_adapters_hold_adapters_alone() -> None:
    config = build({"model": {"init": "x", "d_model": 64}, "train": {"adapter": "lora"}})
    learning = learning_of(config)
    assert learning is not None
    assert 0 < learning < parameters(config.model).total
    assert learning_of(build({"model": {"init": "x"}})) is None
