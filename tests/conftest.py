"""Fixtures that several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from quatrain.words import speak

torch.set_num_threads(1)  # tiny products gain nothing from threads, and lose when cores are shared
os.environ["LC_ALL"] = "C.UTF-8"  # tests read English, whatever the machine's locale


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    """Speak English at the beginning of each test, whatever the one before it spoke."""
    speak("en")
    yield
    speak("en")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a CUDA device where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)
