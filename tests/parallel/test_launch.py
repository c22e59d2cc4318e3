"""The command line with several processes; one process knows nothing of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quatrain.cli.main import main
from quatrain.parallel.launch import launch
from quatrain.parallel.seat import Seat
from quatrain.parallel.watch import FOLDER
from ranks import forks
from tiny_run import recipe_in, timeless_metrics

pytestmark = forks
SECONDS = 240


def environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in timeless_metrics(run_dir) if "loss" in row]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, in a process of its own, which then lists what it imported."""
    directory = tmp_path_factory.mktemp("one")
    recipe = recipe_in(directory, batch_size=4, max_steps=4, eval_interval=4)
    program = (
        "import sys; from quatrain.cli.main import main; sys.argv[0] = 'quatrain'\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not [one for one in sys.modules if one.startswith('quatrain.parallel')]\n"
        "import torch.distributed\nassert not torch.distributed.is_initialized()\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, "sft", str(recipe)],
        check=True, timeout=SECONDS, env=environment(), capture_output=True,
    )  # fmt: skip
    return directory / "run"


def words_of(one: Path, run_dir: Path) -> list[str]:
    return ["-m", "quatrain", "sft", str(one.parent / "tiny.yaml"), f"run_dir={run_dir}"]


@pytest.mark.slow
def test_two_processes_from_the_command_line_train_as_one(one: Path, tmp_path: Path) -> None:
    words = [*words_of(one, tmp_path / "two"), "--processes", "2", "--json"]
    done = subprocess.run(
        [sys.executable, *words], timeout=SECONDS, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)
    assert not (tmp_path / "two" / FOLDER).exists()
    assert json.loads(done.stdout)["step"] == 4


@pytest.mark.slow
def test_torchrun_starts_all_again_when_one_is_killed(one: Path, tmp_path: Path) -> None:
    run_dir, said = tmp_path / "two", tmp_path / "said"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", "1"]
    words = [*launcher, "--nproc-per-node", "2", *words_of(one, run_dir)]
    first_row = run_dir / "metrics.jsonl"
    with said.open("w") as file:
        started = subprocess.Popen([sys.executable, *words], env=environment(), stderr=file)
    while not (first_row.exists() and first_row.stat().st_size):
        assert started.poll() is None, said.read_text()
        time.sleep(0.01)
    beat = json.loads((run_dir / FOLDER / "beat-1.json").read_text())
    os.kill(beat["pid"], signal.SIGKILL)
    assert started.wait(SECONDS) == 0, said.read_text()
    assert "error[Q703] process 1" in said.read_text()
    assert losses(run_dir) == pytest.approx(losses(one), rel=1e-5)


def test_an_error_of_all_processes_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_in(tmp_path, batch_size=3)
    code = launch(["sft", str(recipe), "train.batch_sise=4"], 2, tmp_path / "told")
    assert code == 2
    assert capfd.readouterr().err.count("error[") == 1


def test_a_plan_says_what_each_process_holds_and_sends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(recipe_in(tmp_path, batch_size=4))

    def planned(*words: str) -> dict[str, dict[str, dict[str, float]]]:
        monkeypatch.setattr(sys, "argv", ["quatrain", *words, "--json"])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        found: dict[str, dict[str, dict[str, float]]] = json.loads(capsys.readouterr().out)
        return found

    alone = planned("plan", recipe, "--no-calibrate")
    four = planned("plan", recipe, "--processes", "4")
    assert four["memory"]["parts"]["moments"] == round(alone["memory"]["parts"]["moments"] / 4)
    assert four["processes"]["mesh"] == {"world": 4, "replicas": 1, "experts": 1, "shards": 4}
    assert four["processes"]["sent"]["gather"] > 0
    dry = planned("sft", recipe, "--processes", "4", "--dry-run")
    assert dry["processes"] == four["processes"]
    assert dry["memory"]["parts"] == four["memory"]["parts"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [("train.batch_size=3", "Q201"), ("parallel.expert_parallel=3", "Q217"),
     ("parallel.replicas=3", "Q217"), ("train.weights=bf16", "Q219")],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_by_the_plan(
    change: str, code: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = str(recipe_in(tmp_path, batch_size=4))
    monkeypatch.setattr(sys, "argv", ["quatrain", "plan", recipe, change, "--processes", "4"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert f"error[{code}]" in capsys.readouterr().err


def test_a_seat_is_read_from_the_variables_of_torchrun() -> None:
    assert Seat.of({}) is None
    assert Seat.of({"RANK": "0", "WORLD_SIZE": "1"}) is None
    seat = Seat.of({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"})
    assert seat is not None
    assert (seat.rank, seat.world, seat.local_rank) == (5, 8, 1)
