"""Fixtures that several folders share."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from quatrain.words import speak

BENCH = Path(__file__).parents[1] / "bench"
BENCH_MODULES = ("active_flops", "device_parity", "first_hour", "first_run", "newcomers",
                 "original", "paired", "parts", "plan", "saving", "sides", "tables",
                 "transcript")  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium for the tests of a module, which need the mark enable_socket.

    Where there is none they are skipped; with NEED_BROWSER=1 they fail.
    """
    lacks = "there is no Chromium here" if CHROMIUM is None else ""
    if importlib.util.find_spec("playwright") is None:
        lacks = "playwright is not installed"
    if lacks:
        assert os.environ.get("NEED_BROWSER") != "1", lacks
        pytest.skip(lacks)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
