"""The benchmarks run at a tiny size, count the products that run, and have current tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from flops import FlopCounter
from quatrain.config import TrainConfig
from quatrain.model.kinds import KINDS

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"


def smoke(*words: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(BENCH / words[0]), *words[1:]], env=environment, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole: dict[str, Any] = json.loads(done.stdout)
    return whole


@pytest.mark.slow
def test_a_step_computes_what_transformers_computes_and_is_compared() -> None:
    whole = smoke("step.py", "--smoke", "--threads", "1")
    result = whole["result"]
    assert result["largest_difference_of_losses"] < 1e-4  # float32, over three updates
    assert result["losses"][0][0] != result["losses"][-1][0]
    assert result["times_as_fast"]["median"] > 0
    assert {"tokens_per_second", "peak_mb", "share_of_gemm"} <= set(result["ours"])
    assert whole["versions"]["torch"] == torch.__version__
    assert "/" not in whole["command"].replace("bench/", "")


@pytest.mark.slow
def test_a_step_that_is_divided_by_one_computes_the_same() -> None:
    result = smoke("step.py", "--smoke", "--threads", "1", "--against", "wrapped")["result"]
    assert result["largest_difference_of_losses"] < 1e-6  # the norm's squares in another order
    assert result["wrapped"]["seconds"] > 0


@pytest.mark.slow
def test_one_layer_gives_what_transformers_gives() -> None:
    result = smoke("moe_layer.py", "--smoke", "--threads", "1")["result"]
    assert result["largest_relative_difference"]
    assert all(value < 1e-4 for value in result["largest_relative_difference"].values())


@pytest.mark.slow
def test_answer_tokens_are_counted_alike_on_every_side(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    rows = [{"instruction": f"Combien font {n} et {n % 7} ?", "output": f"Cela fait {n + n % 7}."}
            for n in range(120)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ("--smoke", "--threads", "1", "--sides", "packed,padded,original")
    result = smoke("answer_tokens.py", str(file), *words)["result"]
    assert result["padded"]["positions_used"] > result["original"]["positions_used"]
    assert set(result["packed_over"]) == {"padded", "original"}


@pytest.mark.slow
def test_records_are_prepared_and_counted() -> None:
    result = smoke("prepare.py", "--smoke", "--threads", "1", "--sides", "ours")["result"]
    assert result["ours:200"]["tokens"] > 200
    assert 0 < result["ours:200"]["positions_used"] <= 1


@pytest.mark.slow
def test_every_kind_of_stored_weights_is_timed() -> None:
    words = [sys.executable, str(BENCH / "codecs.py"), "--smoke", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * len(KINDS)
    assert all(float(row[4].split()[0]) > 0 for row in rows[1:])


@pytest.mark.slow
@pytest.mark.parametrize("base", ["nf4", "gguf"])
def test_a_planned_run_learns_beside_a_written_base(
    base: str, bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    plan, shape = bench["plan"], {"d_model": 64, "n_kv_heads": 8, "intermediate_size_expert": 64}
    case = {"model": shape, "batch": 1, "micro": 1, "length": 128, "base": base}
    config = plan.config_of(case, tmp_path, 2)
    plan.write_base(config.model, tmp_path / "base", base == "gguf")
    rows = plan.random_rows(config, case, tmp_path / "rows")
    plan.learn(plan.settle(config, len(rows)), rows)
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_drawing_is_made_of_a_result(tmp_path: Path) -> None:
    whole = smoke("scaling.py", "--smoke", "--threads", "1")
    assert whole["result"]["experts"]["2"]["seconds"] > 0
    file, picture = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    file.write_text(json.dumps(whole), encoding="utf-8")
    words = [sys.executable, str(BENCH / "scaling.py"), "--draw", str(file)]
    subprocess.run([*words, "--picture", str(picture)], check=True)
    assert b"<svg" in picture.read_bytes()


def test_a_part_whose_time_is_up_leaves_no_child_at_work(
    bench: dict[str, ModuleType], tmp_path: Path
) -> None:
    script, number = tmp_path / "part.py", tmp_path / "child"
    script.write_text(
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(number)!r}).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    assert bench["parts"].run(str(script), seconds=5) == 124
    child = Path("/proc") / number.read_text() / "stat"
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(") ")[2].startswith("Z"):
            return
        time.sleep(0.05)
    pytest.fail("the child goes on")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["device", "host"])
def test_scouts_layers_learn_beside_a_base_in_either_place(place: str, device: str) -> None:
    words = ("--small", "--device", device, "--layers", "2", "--row", "64", "--rows", "2")
    whole = smoke("gpu_scout.py", "--place", place, *words, "--steps", "2")
    result = whole["result"]
    assert whole["name"] == f"gpu-scout-{place}-small"
    assert len(result["step_seconds"]) == 2
    assert result["tokens_per_second"] > 0
    assert result["planned_gb"] > 0
    assert (result["peak_gb"] is None) == (device == "cpu")
    assert len(result["milliseconds"]) > 1
    assert all(spent > 0 for spent in result["milliseconds"].values())


@pytest.mark.parametrize("script", ["gpu.py", "gpu_scout.py"])
def test_without_a_gpu_the_gpu_bench_says_so(script: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    done = subprocess.run([sys.executable, str(BENCH / script)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "There is no CUDA device here" in done.stderr


def test_a_device_that_is_the_cpu_agrees_with_the_cpu(bench: dict[str, ModuleType]) -> None:
    found = bench["device_parity"].compared("cpu")
    assert found["agree"]
    assert found["largest_difference_of_gradients_over_largest_gradient"] == 0


@pytest.mark.parametrize("moe_layers", [(), (0, 1)])
def test_the_flops_of_a_step_are_those_of_the_products_that_run(
    bench: dict[str, ModuleType], moe_layers: tuple[int, ...]
) -> None:
    import numpy as np

    from quatrain.data.batches import Batch
    from quatrain.train.loop import accumulate

    count = bench["active_flops"]
    config = bench["sides"].shape(
        n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, num_local_experts=4, vocab_size=64,
        intermediate_size_expert=48, moe_layers=moe_layers,
    )  # fmt: skip
    model = bench["sides"].ours(config, torch.float32, "cpu")
    ids = np.random.default_rng(0).integers(0, 64, (2, 24))
    batch = Batch(ids, np.ones((2, 24), dtype=np.bool_), [[24], [24]], np.arange(2), 0.0)
    with FlopCounter() as counter:
        accumulate(model, batch, TrainConfig(learning_rate=1e-3))
    seen = 2 * 3 * count.score_flops(config, [24, 24], None)
    # a block multiplies all its pairs: scores, values, and four products for gradients
    blocks = 2 * 6 * (2 * config.n_heads * config.d_k * 2 * 24**2)
    assert counter.flops == count.step_flops(config, [24, 24], 2 * 23) - seen + blocks


def test_scores_are_counted_by_pairs_that_may_see_each_other(bench: dict[str, ModuleType]) -> None:
    config = bench["sides"].shape(n_heads=1, n_kv_heads=1, d_k=2)
    count = bench["active_flops"].score_flops
    assert count(config, [3], None) == 4 * 2 * 6  # pairs 1 + 2 + 3
    assert count(config, [5], 2) == 4 * 2 * (3 + 3 + 1)


def test_the_dense_twin_has_as_many_active_flops(bench: dict[str, ModuleType]) -> None:
    sparse = bench["sides"].shape(n_layers=1)
    count = bench["active_flops"].step_flops
    router = 3 * 2 * 100 * sparse.d_model * sparse.num_local_experts
    dense = bench["sides"].dense_twin(sparse)
    assert count(dense, [100], 99) == count(sparse, [100], 99) - router


def test_the_slow_twin_of_the_original_is_the_same_function(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from quatrain.model import attention

    monkeypatch.setattr(attention, "attend", attention.attend)  # put back afterwards
    config = bench["sides"].shape(
        n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, num_local_experts=4, vocab_size=64,
        intermediate_size_expert=48, num_experts_per_tok=2,
    )  # fmt: skip
    model = bench["sides"].ours(config, torch.float32, "cpu")
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    expected = model(ids).detach()
    slow = bench["original"].make_original(model)
    # sums of some dozen float32 products in another order
    torch.testing.assert_close(slow(ids).detach(), expected, atol=1e-6, rtol=1e-4)
    assert bench["original"].windows([1, 2, 3, 4], 3) == [[1, 2, 3], [2, 3, 4]]
    assert bench["original"].windows([1, 2], 3) == [[1, 2]]


def test_a_ratio_is_formed_child_by_child(bench: dict[str, ModuleType]) -> None:
    found = bench["paired"].ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])
    assert found == {"median": 3.0, "least": 2.0, "most": 4.0}
    runs = [{"seconds": [1.0, 2.0, 9.0], "peak_mb": 5, "tokens": 8, "flops": 4e9,
             "gemm_gflops": {"fp32": [3.0, 4.0], "best": [8.0, 6.0]}}]  # fmt: skip
    summed = bench["paired"].figures(runs)
    assert summed["tokens_per_second"] == 4.0
    assert summed["share_of_gemm"] == 0.25  # 2 of 8 GFLOP/s, the better calibration
    assert summed["share_of_gemm_of_pytorch"] == 0.5
    runs[0]["limits"] = {"fp32": [2.0, 4.0, 5.0], "best": [5.0, 4.0, 9.0]}
    summed = bench["paired"].figures(runs)
    assert (summed["share_of_gemm"], summed["share_of_gemm_of_pytorch"]) == (0.4, 0.5)


def test_limits_are_measured_before_each_step_and_after_the_last(
    bench: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions, done = bench["paired"].Conditions, list[str]()
    monkeypatch.setattr(
        conditions, "calibrate", lambda _: done.append("limit") or {"fp32": 1.0 * len(done)}
    )
    seconds, limits = bench["paired"].timed_between_limits(
        lambda: done.append("step"), 1, 2, conditions()
    )
    assert done == ["step", "limit", "step", "limit", "step", "limit"]
    assert len(seconds) == 2
    assert limits == {"fp32": [2.0, 4.0, 6.0]}


def test_a_slow_phase_is_discarded(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "side.py"
    script.write_text("print('{}')")
    monkeypatch.setattr(sys, "argv", ["side.py"])
    rates = iter([200.0, 50.0, 150.0, 160.0])
    conditions = bench["paired"].Conditions
    monkeypatch.setattr(conditions, "calibrate", lambda _: {"fp32": next(rates)})
    (run,) = bench["paired"].alternate(str(script), ("ours",), 1, conditions=conditions(floor=140))[
        "ours"
    ]
    assert run["gemm_gflops"] == {"fp32": [150.0, 160.0]}


@pytest.mark.parametrize(
    "page", ["docs/guide.md", "docs/guide.fr.md", "docs/performance.md", "docs/scout.md"]
)
def test_each_table_is_the_one_that_the_results_make(
    bench: dict[str, ModuleType], page: str
) -> None:
    tables = bench["tables"]
    text = (ROOT / page).read_text(encoding="utf-8")
    results = tables.newest(tables.read_results(tables.RESULTS))
    assert tables.MARKED.findall(text)
    assert tables.rewritten(text, results, tables.PAGES[page]) == text


def test_every_table_stands_on_a_page(bench: dict[str, ModuleType]) -> None:
    tables = bench["tables"]
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES)
    assert {name for _, name, _, _ in tables.MARKED.findall(pages)} == set(tables.TABLES)


def test_a_table_has_the_newest_figure_with_its_spread_and_says_what_is_not_measured(
    bench: dict[str, ModuleType],
) -> None:
    tables = bench["tables"]
    results = tables.newest([_result("2026-11-25", 6.5), _result("2026-11-24", 5.0)])
    english, french = (tables.table("speed", results, language) for language in ("en", "fr"))
    assert "| 6.50 | 6.00 to 1234.50 | 2026-11-25, abc |" in english
    assert "| 6,50 | 6,00 à 1234,50 | 2026-11-25, abc |" in french
    assert english.count("not measured yet") == len(tables.SPEED) - 1


def test_each_result_that_is_kept_says_where_and_how_it_was_had(
    bench: dict[str, ModuleType],
) -> None:
    for result in bench["tables"].read_results(bench["tables"].RESULTS):
        assert {"date", "commit", "command", "machine", "versions", "result"} <= set(result)


def _result(date: str, median: float) -> dict[str, Any]:
    spread = {"median": median, "least": 6.0, "most": 1234.5}
    return {"name": "step-8-layers-16-experts-fp32", "date": date, "commit": "abc",
            "result": {"times_as_fast": spread}}  # fmt: skip
