"""The memory watch sees what was allocated and released, and only that."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch

from quatrain.train import calibrate
from quatrain.train.calibrate import Watch, anonymous

LARGE = 64 << 20


def hold(size: int) -> None:
    """Take pages and give them back; what is freed may stay with the process, these do not."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        for _ in range(size // mmap.PAGESIZE):
            pages.write(bytes(mmap.PAGESIZE))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process holds")
def test_the_peak_is_what_was_held_within_and_let_go() -> None:
    hold(2 * LARGE)
    with Watch() as watch:
        hold(LARGE)
    assert watch.peak == pytest.approx(LARGE, rel=0.1)
    with Watch() as watch:
        pass
    assert watch.peak is not None
    assert watch.peak < LARGE / 10


def test_where_the_system_does_not_tell_there_is_no_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "_CLEAR", tmp_path / "missing" / "clear_refs")
    with Watch() as watch:
        pass
    assert watch.peak is None
    assert anonymous(tmp_path / "missing") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is counted on CUDA")
def test_on_cuda_the_peak_is_what_the_device_held() -> None:
    with Watch("cuda") as watch:
        held = torch.ones(LARGE, dtype=torch.uint8, device="cuda")
        del held
    assert watch.peak is not None
    assert watch.peak >= LARGE
