"""quatrain plan: what it prints, and how it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from frozen_bases import trained_base
from quatrain.cli.planning import billions, machine_for
from quatrain.hub.convert import Conversion, convert
from quatrain.train import placing
from tiny_run import recipe_in


def test_a_plan_tells_memory_steps_time_and_disk(quatrain: Any, tmp_path: Path) -> None:
    code, out, err = quatrain("plan", recipe_in(tmp_path), "--json")
    planned = json.loads(out)
    assert code == 0, err
    assert planned["fits"]
    assert planned["steps"] == 12
    assert planned["tokens"] == 12 * planned["tokens_a_step"]
    assert planned["seconds"] > 12 * planned["step_seconds"] > 0
    assert planned["memory"]["total"] == sum(planned["memory"]["parts"].values())
    assert planned["memory"]["total"] == max(planned["memory"]["moments"].values())
    assert planned["disk"]["most"] > planned["disk"]["checkpoint"]


def test_a_plan_leaves_the_run_to_be_run(quatrain: Any, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, max_steps=1)
    quatrain("plan", recipe, "--no-calibrate")
    assert not (tmp_path / "run" / "config.yaml").exists()
    code, out, err = quatrain("sft", recipe, "--json")
    assert code == 0, err
    assert json.loads(out)["finished"]


def test_without_calibration_no_time_is_told(quatrain: Any, tmp_path: Path) -> None:
    code, out, err = quatrain("plan", recipe_in(tmp_path), "--no-calibrate")
    assert code == 0, err
    words = " ".join(out.split())
    assert "time not measured" in words
    assert "weights" in words
    assert "peak (" in words


def test_a_budget_gives_the_steps_once_one_is_timed(quatrain: Any, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, max_steps=None, epochs=None, budget="10m")
    _, out, err = quatrain("plan", recipe, "--json")
    planned = json.loads(out)
    assert planned["budget"] == 600, err
    assert 0 < planned["steps"] * planned["step_seconds"] <= 600
    _, out, _ = quatrain("plan", recipe, "--no-calibrate", "--json")
    assert json.loads(out)["steps"] is None


def test_what_cannot_fit_is_shown_then_refused(
    quatrain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "free_memory", lambda: 1 << 20)
    code, out, err = quatrain("plan", recipe_in(tmp_path))
    assert code == 6
    assert "weights" in out
    assert "error[Q603]" in err
    assert "quatrain plan --bases" in err


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base in four bits."""
    directory = tmp_path_factory.mktemp("base")
    trained = trained_base(directory)
    convert(trained, directory / "nf4", Conversion("llama4", quantize="nf4", check=False))
    return directory / "nf4"


@pytest.mark.parametrize(
    ("wanted", "where"), [("auto", "none"), ("host", "host"), ("disk", "disk")]
)
def test_a_plan_for_a_card_that_is_not_here_says_where_the_base_stays(
    quatrain: Any, tmp_path: Path, base: Path, wanted: str, where: str
) -> None:
    beside = (f"model.init={base}", f"model.offload={wanted}", "train.adapter=lora")
    words = ("plan", recipe_in(tmp_path), *beside, "--device-memory", "24GB")
    code, out, err = quatrain(*words, "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert (planned["device"], planned["card"]) == ("cuda", 24 * 10**9)
    assert planned["memory"]["free"] < 24 * 10**9
    assert planned["step_seconds"] is None
    assert planned["base"]["where"] == where
    assert (planned["base"]["main_memory"] > 0) == (where == "host")
    _, out, _ = quatrain(*words)
    said = {"none": "on the GPU", "host": "from main memory", "disk": "from the disk"}
    assert "sft on a GPU of 24 GB" in out
    assert said[where] in " ".join(out.split())


def test_a_card_that_is_too_small_is_refused(quatrain: Any, tmp_path: Path, base: Path) -> None:
    words = ("plan", recipe_in(tmp_path), f"model.init={base}", "train.adapter=lora")
    code, _, err = quatrain(*words, "--device-memory", "650MB")
    assert code == 6
    assert "error[Q603]" in err
    code, _, err = quatrain(*words, "--device-memory", "many")
    assert code == 2
    assert "--device-memory many is not a size" in err


def test_bases_are_listed_with_what_they_need(quatrain: Any) -> None:
    code, out, _ = quatrain("plan", "--bases", "--json")
    assert code == 0
    bases = {base["id"]: base for base in json.loads(out)["bases"]}
    small = bases["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert small["memory"] < 5e9
    assert small["parameters"] == 134_515_008
    assert small["lora_memory"] < small["memory"]
    assert (small["licence"], small["french"]) == ("Apache 2.0", "little")
    _, out, _ = quatrain("plan", "--bases")
    rows = [line for line in out.splitlines() if "/" in line and "Instruct" in line]
    assert any("Llama-4-Maverick-17B-128E-Instruct" in row for row in rows)
    assert re.search(r"Qwen2.5-7B-Instruct +7.62B +Apache 2.0 +well +15.2 GB", out)
    assert "They were not verified here" in " ".join(out.split())
    _, out, _ = quatrain("plan", "--bases", "--lang", "fr")
    assert re.search(r"Qwen2.5-0.5B-Instruct +494 M +Apache 2.0 +assez", out)


def test_a_wrong_recipe_is_refused_and_bases_listed_before_torch_is_imported() -> None:
    program = (
        "import sys\n"
        "from quatrain.cli.main import app\n"
        "from quatrain.errors import ConfigError\n"
        "app(['plan', '--bases'], standalone_mode=False)\n"
        "try:\n"
        "    app(['plan', 'demo', 'train.speed=3'], standalone_mode=False)\n"
        "except ConfigError as error:\n"
        "    assert error.code == 'Q202'\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_counts_and_machines_are_named() -> None:
    assert [billions(n) for n in (134_515_008, 1_235_814_400)] == ["135M", "1.24B"]
    assert [machine_for(int(n)) for n in (3e9, 30e9, 9e12)] == [
        "8 GB", "32 GB", "over 2 TB",
    ]  # fmt: skip
