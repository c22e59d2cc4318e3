"""Where a base stays while adapters learn: what the recipe wants, or the first place that fits."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from frozen_bases import in_blocks, trained_base
from quatrain.config import Config
from quatrain.errors import ConfigError
from quatrain.hub.convert import Conversion, convert
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


def test_a_gpu_and_main_memory_are_asked_for_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GB, 24 * GB))
    monkeypatch.setattr(placing, "free_memory", lambda: 128 * GB)
    cuda = torch.device("cuda")
    assert placing._where("auto", 60 * GB, cuda, pins=70 * GB) == "host"
    assert placing._where("auto", 60 * GB, cuda, pins=80 * GB) == "disk"
    assert placing._where("auto", 60 * GB, torch.device("cpu"), pins=0) == "disk"


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


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_base(tmp_path_factory.mktemp("wide"))


@pytest.mark.parametrize("form", ["bf16", "nf4", "quantised while it is read", "GGUF"])
def test_the_headers_of_a_base_tell_what_its_weights_take(
    form: str, tmp_path: Path, wide: Path
) -> None:
    place, made = tmp_path / "base", form.startswith("quantised")
    if form == "GGUF":
        place = in_blocks(wide)
    elif form == "nf4":
        convert(wide, place, Conversion("llama4", quantize="nf4", check=False))
    else:
        convert(wide, place, Conversion("llama4", dtype="bf16", check=False))
    more = {"quantize": "nf4"} if made else {}
    config = adapters_on(tmp_path, place, **more)
    start = resolve(config)
    found = placing.site_here(start.config, torch.device("cpu"), start.weights).base
    assert found is not None
    model = build_model(start.config, start, None)
    # of nf4 that is made here, scales are counted by share and not by the group of 256
    assert found.total == pytest.approx(placing.stored_bytes(model), rel=0.01 if made else 0)
    assert found.made == made
    assert (sum(found.layers) > 0) == (form != "bf16")
