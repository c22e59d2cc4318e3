"""Where a base stays while adapters learn: what the recipe wants, or the first place that fits."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.model.frozen import Frozen
from quatrain.recipe import build
from quatrain.train import placing
from quatrain.train.run import build_model, run
from quatrain.train.start import resolve
from tiny_run import tiny_run

GB = 10**9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = tiny_run(tmp_path_factory.mktemp("base"), "text", max_steps=2).model_dump(
        exclude_unset=True
    )
    values["model"] |= {"d_model": 64, "n_heads": 4}
    return run(build(values), quiet=True).run_dir


def adapters_on(directory: Path, base: Path, **model: str) -> Config:
    values = tiny_run(directory).model_dump(exclude_unset=True)
    values["train"]["adapter"] = "lora"
    return build({**values, "model": {"init": str(base), **model}})


@pytest.mark.parametrize(
    ("wanted", "size", "gpu", "host", "expected"),
    [("auto", 10, 80, 64, "none"), ("auto", 60, 80, 128, "host"), ("auto", 60, 80, 64, "disk"),
     ("auto", 60, 24, None, "disk"), ("disk", 1, 80, 64, "disk"), ("none", 99, 80, 64, "none")],
)  # fmt: skip
def test_a_gpu_takes_a_base_that_fits(
    wanted: str, size: int, gpu: int, host: int | None, expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu * GB, gpu * GB))
    monkeypatch.setattr(placing, "free_memory", lambda: host and host * GB)
    assert placing._where(wanted, size * GB, torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("wanted", "where"),
    [("auto", "disk"), ("disk", "disk"), ("none", "none"), ("host", "none")],
)
def test_a_cpu_leaves_a_base_in_its_file_or_reads_it(wanted: str, where: str) -> None:
    assert placing._where(wanted, GB, torch.device("cpu")) == where


@pytest.mark.parametrize("quantize", [None, "nf4"])
@pytest.mark.parametrize("wanted", ["disk", "none"])
def test_where_the_base_is_is_said_and_changes_no_number(
    wanted: str,
    quantize: str | None,
    tmp_path: Path,
    base: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = {"quantize": quantize} if quantize else {}
    config = adapters_on(tmp_path, base, offload=wanted, **more)
    start = resolve(config)
    with caplog.at_level(logging.INFO):
        model = build_model(start.config, start, None)
    said = {"disk": "stays in its file", "none": "is in memory"}[wanted]
    assert f"the base {said}" in caplog.text
    reference = build_model(resolve(adapters_on(tmp_path, base, **more)).config, start, None)
    ids = torch.randint(0, 96, (1, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(ids), reference(ids))
    assert any(isinstance(one, Frozen) for one in model.modules()) == (quantize is not None)


def test_the_field_belongs_to_adapters(tmp_path: Path, base: Path) -> None:
    values = tiny_run(tmp_path).model_dump(exclude_unset=True)
    with pytest.raises(ConfigError, match=r"model\.offload=disk .* train\.adapter"):
        build({**values, "model": {"init": str(base), "offload": "disk"}})
