"""oneDNN multiplies float32 as float32, or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quatrain.config import Config, TrainConfig
from quatrain.model.llama import LlamaModel
from quatrain.train import calibrate, loop, products, run
from quatrain.train.checkpoint import State
from quatrain.train.products import onednn_multiplies
from tiny import tiny_config

SETTINGS = torch.backends.mkldnn.matmul


@pytest.mark.parametrize("shape", [(1, 64, 64), (33, 515, 130), (256, 512, 64)])
def test_products_are_as_exact_as_without(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=draw)
    b = torch.randn(inner, columns, generator=draw)
    exact = a.double() @ b.double()
    with onednn_multiplies():
        found = a @ b
    rounded = (a.bfloat16() @ b.bfloat16()).double()
    scale = exact.abs().max()
    assert (found - exact).abs().max() < 2e-6 * scale < (rounded - exact).abs().max()


def test_the_setting_is_put_back_also_after_an_error() -> None:
    before = SETTINGS.fp32_precision
    with pytest.raises(RuntimeError, match="stop"), onednn_multiplies():
        raise RuntimeError("stop")
    assert SETTINGS.fp32_precision == before


def test_where_a_product_shows_rounding_the_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.matmul(a.bfloat16().float(), b.bfloat16().float())

    before = SETTINGS.fp32_precision
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with onednn_multiplies() as given:
        assert not given
        assert SETTINGS.fp32_precision == before


def test_the_trial_tells_the_first_bit_that_bfloat16_and_tf32_drop() -> None:
    value = torch.tensor(products._MORE_THAN_BFLOAT16)
    assert value.bfloat16() == 1
    assert (value.view(torch.int32) & ~0x1FFF).view(torch.float32) == 1  # TF32 keeps 10 bits
    assert products._is_exact()


def test_a_run_and_its_calibration_multiply_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(Exception):
        pass

    def look(*_: object) -> None:
        raise Seen(SETTINGS.fp32_precision)

    before = SETTINGS.fp32_precision
    monkeypatch.setattr(products, "_is_exact", lambda: True)
    monkeypatch.setattr(calibrate, "_calibrate", look)
    monkeypatch.setattr(run, "refuse_another_recipe", look)
    config = Config.model_validate({"run_dir": tmp_path / "run"})
    for start in (lambda: calibrate.calibrate(config, *[None] * 2), lambda: run.run(config)):
        with pytest.raises(Seen, match="bf16"):
            start()
        assert SETTINGS.fp32_precision == before


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_each_kind_of_experts_weights_meets_its_numbers_of_rows_once(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[Any, ...]] = []

    def note(weight: torch.Tensor, most: int, dtype: torch.dtype) -> None:
        met.append((*weight.shape, weight.requires_grad, most, dtype))

    monkeypatch.setattr(products, "meet_numbers_of_rows", note)
    config = tiny_config(n_layers=4, num_local_experts=16)
    model = LlamaModel(config)
    wide, inner = config.d_model, config.intermediate_size_expert
    products.meet_experts(model, 1000, precision)
    assert sorted(met) == sorted(
        [(16, wide, 2 * inner, True, 500, dtype), (16, inner, wide, True, 500, dtype)]
    )
    met.clear()
    model.requires_grad_(False)
    products.meet_experts(model, 10, precision)
    assert [one[3] for one in met] == [False] * 2
    met.clear()
    products.meet_experts(LlamaModel(tiny_config(moe_layers=())), 1000, precision)
    assert met == []


def test_training_meets_experts_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def look(_: object, num_tokens: int, precision: str) -> None:
        raise Seen(f"{num_tokens} {precision}")

    monkeypatch.setattr(loop, "meet_experts", look)
    batches: Any = SimpleNamespace(batch_size=8, rows=SimpleNamespace(block_size=32))
    for micro_batch_size, num_tokens in ((2, 64), (None, 256)):
        config = TrainConfig(micro_batch_size=micro_batch_size, precision="bf16", max_steps=1)
        with pytest.raises(Seen, match=f"^{num_tokens} bf16$"):
            loop.train(*[None] * 2, batches, config, State(), None)
    finished = State(finished=True)
    assert loop.train(*[None] * 2, batches, config, finished, None) is finished


NEEDS_COMPILER = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None, reason="needs Linux and a C++ compiler"
)


FREED = """
import torch
from quatrain.train import products

with products.allocated_by_malloc() as given:
    held = [torch.empty(1 << 14) for _ in range(1024)]  # 64 kB each: every hole is filled
    freed = held.pop(512).data_ptr()
    again = torch.empty(1 << 14)
assert given
assert again.data_ptr() == freed
"""


@NEEDS_COMPILER
def test_a_tensor_takes_the_block_that_another_of_its_size_has_freed() -> None:
    """In a process of its own, since its heap must have no other holes."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@NEEDS_COMPILER
def test_tensors_of_any_size_are_aligned_and_outlive_the_setting() -> None:
    with products.allocated_by_malloc():
        held = [torch.full((size,), 7, dtype=torch.uint8) for size in (0, 1, 63, 64, 65, 4097)]
        grown = torch.arange(5.0)
        grown.untyped_storage().resize_(4 << 20)
    assert all(one.data_ptr() % 64 == 0 for one in held)
    assert all(bool((one == 7).all()) for one in held)
    assert grown.tolist() == [0, 1, 2, 3, 4]
    with products.allocated_by_malloc(), pytest.raises(RuntimeError, match="not enough memory"):
        torch.empty(1 << 60)


@NEEDS_COMPILER
def test_the_allocator_is_put_back_by_the_outermost_only() -> None:
    native = products.library("allocator")
    assert native is not None
    with products.allocated_by_malloc():
        with products.allocated_by_malloc():
            pass
        assert not native.allocate_by_malloc()  # it is in use still
    assert native.allocate_by_malloc()
    native.allocate_by_default()


def test_without_a_compiler_torch_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "library", lambda name: None)
    with products.allocated_by_malloc() as given:
        assert not given
