"""Fixtures that several folders share."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quatrain.words import speak

BENCH = Path(__file__).parents[1] / "bench"
BENCH_MODULES = ("active_flops", "device_parity", "first_hour", "first_run", "newcomers",
                 "original", "paired", "parts", "plan", "saving", "sides", "tables",
                 "transcript")  # fmt: skip
torch.set_num_threads(1)  # tiny products gain nothing from threads, and lose when cores are shared
os.environ["LC_ALL"] = "C.UTF-8"  # tests read English, whatever the machine's locale


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    """Set the language to English for each test, whatever the previous test used."""
    speak("en")
    yield
    speak("en")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU, and a CUDA device where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """Import the modules that scripts share, as a script finds them: by their bare names."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        yield {name: importlib.import_module(name) for name in BENCH_MODULES}
    finally:
        sys.path.remove(str(BENCH))
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
                del sys.modules[name]
