"""What every comparison shares: a child process a side, in turn, and a calibration around each.

A script runs itself with `--child NAME` for each side, one child alive at a time and the order
turned round at every repeat, so that a slow phase of the machine falls on both. A child prints one
JSON object as its last line; what each child found goes to stderr as it comes, and stdout is left
to the script's own JSON. Between children this process multiplies matrices with their threads,
dtype and device: the limit that a child is held against, unless it measured one between its steps.
With a floor, a run that a slow phase touched is run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from quatrain.train import calibrate
from quatrain.train.products import onednn_multiplies

Found = dict[str, list[dict[str, Any]]]
TRIES = 4
WARM_UP = 2
"""Steps that are not timed: in the first two a process gathers the memory that later ones reuse."""
DTYPES = ("fp32", "bf16", "autocast")
_LONG = 0.1
"""Seconds of a product after which no larger one is tried: a CPU may have no bf16 products."""
SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Of the square matrices of a calibration; the best one is the limit."""


@dataclass(frozen=True)
class Conditions:
    """What both sides of a comparison have in common."""

    threads: int = 2
    dtype: str = "fp32"
    """fp32; bf16: weights, gradients and moments too; autocast: bf16 products, fp32 weights."""
    device: str = "cpu"
    floor: float = 0.0
    """A CPU run with a float32 calibration under this, in GFLOP/s, is run again; 0 keeps all."""
    smoke: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> Conditions:
        """Read what `add_arguments` added."""
        return cls(options.threads, options.dtype, options.device, options.floor, options.smoke)

    @property
    def weights(self) -> torch.dtype:
        """The dtype of weights, gradients and moments."""
        return torch.bfloat16 if self.dtype == "bf16" else torch.float32

    def calibrate(self) -> dict[str, float]:
        """Measure the rates of matrix products in GFLOP/s.

        Returns:
            fp32: float32 as PyTorch multiplies it by itself; bf16, where products are bfloat16;
            best: the products' dtype, by whichever library is quicker.
        """
        torch.set_num_threads(self.threads)
        sizes = (128,) if self.smoke else SIZES[self.device]
        with _as_pytorch_multiplies():
            rates = {"fp32": gemm_rate(torch.float32, self.device, sizes)}
        if self.dtype != "fp32":
            rates["bf16"] = rates["best"] = gemm_rate(torch.bfloat16, self.device, sizes)
        elif self.device == "cpu":
            with onednn_multiplies():
                rates["best"] = max(rates["fp32"], gemm_rate(torch.float32, "cpu", sizes))
        else:
            rates["best"] = rates["fp32"]
        return rates


@contextmanager
def _as_pytorch_multiplies() -> Iterator[None]:
    """Undo meanwhile what a run of ours sets for float32 products on a CPU."""
    settings: Any = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "none"
    try:
        yield
    finally:
        settings.fp32_precision = before


def add_arguments(parser: argparse.ArgumentParser, repeats: int = 3) -> None:
    """Add what every comparison takes."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=repeats, help="children of each side")
    parser.add_argument("--floor", type=float, default=0.0, help="GFLOP/s, see Conditions")
    parser.add_argument(
        "--smoke", action="store_true", help="a size that shows nothing, in seconds"
    )
    parser.add_argument("--save", action="store_true", help="keep the result in bench/results")
    parser.add_argument("--child", help=argparse.SUPPRESS)


def alternate(
    script: str,
    names: Sequence[str],
    repeats: int,
    *more: str,
    conditions: Conditions | None = None,
) -> Found:
    """Run every side `repeats` times, in turn; `more` are arguments after the script's own."""
    found: Found = {name: [] for name in names}
    rates = _calibrated(conditions)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            result, rates = measured(script, name, more, conditions, rates)
            found[name].append(result)
    return found


def measured(
    script: str,
    name: str,
    more: Sequence[str],
    conditions: Conditions | None,
    before: dict[str, float],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run one child until the machine was fast around it.

    Returns:
        what it prints; the rates after it, which are those before the next one.
    """
    command = [sys.executable, script, *sys.argv[1:], "--child", name, *more]
    floor = conditions.floor if conditions is not None and conditions.device == "cpu" else 0.0
    for _ in range(TRIES):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        after = _calibrated(conditions)
        result["gemm_gflops"] = {kind: [before[kind], after[kind]] for kind in before}
        kept = min(result["gemm_gflops"].get("fp32", [0.0])) >= floor
        print(json.dumps({"who": name, "kept": kept, **result}), file=sys.stderr, flush=True)
        if kept:
            return result, after
        before = after
    sys.exit(f"{script}: {name} was slow {TRIES} times, under {floor} GFLOP/s; try another hour")


def _calibrated(conditions: Conditions | None) -> dict[str, float]:
    """Calibrate where there are conditions to do so, and leave the device to the next child."""
    if conditions is None:
        return {}
    rates = conditions.calibrate()
    if conditions.device == "cuda":
        torch.cuda.empty_cache()
    return rates


def gemm_rate(dtype: torch.dtype, device: str, sizes: Sequence[int], repeats: int = 7) -> float:
    """Time square matrix products; return the best size's median rate in GFLOP/s."""
    rates = []
    for size in sizes:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = statistics.median(timed(lambda: left @ right, 2, repeats, device))  # noqa: B023
        rates.append(2 * size**3 / seconds / 1e9)
        if seconds > _LONG:
            break
    return max(rates)


def timed(
    action: Callable[[], object], warm_up: int, repeats: int, device: str = "cpu"
) -> list[float]:
    """Run an action `repeats` times after a warm-up; return the seconds of each time."""
    seconds = []
    for _ in range(warm_up + repeats):
        begun = time.perf_counter()
        action()
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return seconds[warm_up:]


def timed_between_limits(
    action: Callable[[], object], warm_up: int, repeats: int, conditions: Conditions
) -> tuple[list[float], dict[str, list[float]]]:
    """Time as `timed` does, and calibrate before each time and after the last.

    Returns:
        the seconds of each time; the rates of each kind, one more than those.
    """
    seconds = timed(action, warm_up, 0, conditions.device)
    rates = [conditions.calibrate()]
    for _ in range(repeats):
        seconds += timed(action, 0, 1, conditions.device)
        rates.append(conditions.calibrate())
    return seconds, {kind: [rate[kind] for rate in rates] for kind in rates[0]}


def wait_for(device: str) -> None:
    """Wait until a CUDA device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up one side's children.

    Args:
        runs: each with the `seconds` of its steps, `peak_mb` and, where they are known, `tokens`
            and `flops` of a step; `limits`, where the child measured them between its steps.

    Returns:
        The median of the children's medians, their least and most, tokens a second, the peak, and
        the share of the limit: flops / seconds over the median calibration between a child's steps
        or, without these, the better one around it, of the best products; and in float32 of those
        that PyTorch makes by itself, too.
    """
    medians = [statistics.median(run["seconds"]) for run in runs]
    middle = statistics.median(medians)
    found = {
        "seconds": middle, "seconds_least": min(medians), "seconds_most": max(medians),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
    }  # fmt: skip
    if "tokens" in runs[0]:
        found["tokens_per_second"] = runs[0]["tokens"] / middle
    if "flops" in runs[0]:
        rates = [run["flops"] / time / 1e9 for run, time in zip(runs, medians, strict=True)]
        found["gflops"] = statistics.median(rates)
        in_fp32 = "bf16" not in runs[0]["gemm_gflops"]
        for kind, suffix in (("best", ""), ("fp32", "_of_pytorch"))[: 1 + in_fp32]:
            limits = [_limit(run, kind) for run in runs]
            shares = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
            found[f"gemm_gflops{suffix}"] = statistics.median(limits)
            found[f"share_of_gemm{suffix}"] = statistics.median(shares)
    return found


def _limit(run: dict[str, Any], kind: str) -> float:
    if "limits" in run:
        return statistics.median(run["limits"][kind])
    return float(max(run["gemm_gflops"][kind]))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Divide child by child, in the order in which they ran; return median, least and most."""
    found = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def medians(runs: Sequence[dict[str, Any]]) -> list[float]:
    """Give each child's median seconds."""
    return [statistics.median(run["seconds"]) for run in runs]


class Watch(calibrate.Watch):
    """Keeps the peak of this process's anonymous memory, or of what it holds on a CUDA device."""

    @property
    def peak_mb(self) -> int:
        """How far the memory rose, in MB."""
        assert self.peak is not None, "the system does not tell; on Linux it does"
        return round(self.peak / 10**6)
