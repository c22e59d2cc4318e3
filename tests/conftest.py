"""Fixtures that several folders share."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)  # tiny products gain nothing from threads, and lose when cores are shared


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a CUDA device where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)
