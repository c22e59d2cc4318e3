"""Calibrate: time real steps and an evaluation on this machine for ten seconds.

The learning rate is 0, so no weight changes, and nothing is written. Not for budgets (budget.py),
which time checkpoints too.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from quatrain.config import Config
from quatrain.data.batches import Batches
from quatrain.data.prepare import PreparedData
from quatrain.evaluate.run import grade
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update
from quatrain.train.products import set_for_training
from quatrain.train.settle import MOST_QUESTIONS

SECONDS = 10.0
_FEWEST, _MOST = 1, 20
_ANSWERED = 32
"""Questions, at most: an evaluation answers more side by side, at about the same rate."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was timed."""

    steps: int
    step_seconds: float
    """Of the median step; the first one is left out where there was time for another."""
    answer_seconds: float | None
    """For a question among others; None without questions or without time for them."""
    peak_bytes: int | None
    """The peak above what was held before; None where the system does not report it."""


def calibrate(config: Config, data: PreparedData, model: LlamaModel) -> Calibration:
    """Take steps for ten seconds, and answer some questions, as a run would.

    Args:
        config: settled.
        data: the run's.
        model: the run's, on its device, in training mode; afterwards it is unchanged and has no
            gradients.
    """
    with set_for_training():
        return _calibrate(config, data, model)


def _calibrate(config: Config, data: PreparedData, model: LlamaModel) -> Calibration:
    optimizer = make_optimizer(model, config.train)
    set_learning_rate(optimizer, 0.0)
    batches = Batches(data.train, config.train.batch_size or 1, config.train.seed)
    times: list[float] = []
    begun = time.perf_counter()
    with Watch(model.device) as watch:
        while len(times) < 1 + _FEWEST or (len(times) < _MOST and _left(begun) > times[-1]):
            started = time.perf_counter()
            accumulate(model, batches.batch(len(times)), config.train)
            update(optimizer, gradient_norm(model), config.train.max_grad_norm)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
            if _left(begun) < 0:
                break
    return Calibration(
        steps=len(times),
        step_seconds=statistics.median(times[1:] or times),
        answer_seconds=_answers(config, data, model) if _left(begun) > -SECONDS else None,
        peak_bytes=watch.peak,
    )


def _left(begun: float) -> float:
    return SECONDS - (time.perf_counter() - begun)


def _answers(config: Config, data: PreparedData, model: LlamaModel) -> float | None:
    """Answer some questions; give the seconds of one."""
    asked = config.evaluate.questions
    count = min(config.generate.batch_size, MOST_QUESTIONS if asked is None else asked, _ANSWERED)
    questions = data.questions[:count]
    if not questions:
        return None
    started = time.perf_counter()
    grade(Answerer.of(model, data.tokenizer, data.chat), questions, config.generate)
    return (time.perf_counter() - started) / len(questions)


class Watch:
    """Measures the peak of this process's anonymous memory, or of what a CUDA device holds.

    Linux records the peak by itself, so nothing runs beside the measured code (proc(5): VmHWM).
    Pages of files that are mapped and released in between count too.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak: int | None = None
        """In bytes, after the body; None where the system does not report it."""

    def __enter__(self) -> Watch:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._before = anonymous() if _forget_the_mark() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
        elif self._before is not None:
            now = _kilobytes(_STATUS)
            mapped = now["RssFile"] + now["RssShmem"]
            self.peak = max(0, (now["VmHWM"] - mapped << 10) - self._before)


def _forget_the_mark() -> bool:
    """Reset VmHWM to what is held now; say whether the system supports that."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return "VmHWM" in _kilobytes(_STATUS)


def anonymous(status: Path = _STATUS) -> int | None:
    """Read this process's anonymous memory, in bytes; None where the system does not report it."""
    held = _kilobytes(status).get("RssAnon")
    return None if held is None else held << 10


def _kilobytes(status: Path) -> dict[str, int]:
    """Read the values in kB that /proc reports of a process; empty where there is no such file."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    found = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) for name, size, _ in found}
