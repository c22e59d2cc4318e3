"""Calibrate: what a step and an evaluation take on this machine, from ten seconds of real ones.

The rate is 0, so that no weight changes, and nothing is written. Not for budgets (budget.py), which
time checkpoints too.
"""

from __future__ import annotations

import statistics
import threading
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

SECONDS = 10.0
_FEWEST, _MOST = 1, 20
_STATUS = Path("/proc/self/status")
_EVERY = 0.002


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was timed."""

    steps: int
    step_seconds: float
    """Of the median step, the first left out where there was time for another."""
    answer_seconds: float | None
    """For one batch of questions; None where there are none, or no time for it."""
    peak_bytes: int | None
    """The most that was held above what there was before; None where the system does not tell."""


def calibrate(config: Config, data: PreparedData, model: LlamaModel) -> Calibration:
    """Take steps for ten seconds, and answer one batch of questions, as a run would.

    Args:
        config: settled.
        data: the run's.
        model: the run's, on its device, in training mode; it is as it was afterwards, without
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
    with Watch() as watch:
        while len(times) < 1 + _FEWEST or (len(times) < _MOST and _left(begun) > times[-1]):
            started = time.perf_counter()
            accumulate(model, batches.batch(len(times)), config.train)
            update(model, optimizer, gradient_norm(model), config.train.max_grad_norm)
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
    """Answer as many questions as go side by side."""
    count = min(config.generate.batch_size, config.evaluate.questions)
    questions = data.questions[:count]
    if not questions:
        return None
    started = time.perf_counter()
    grade(Answerer.of(model, data.tokenizer, data.chat), questions, config.generate)
    return time.perf_counter() - started


class Watch:
    """Follows this process's anonymous memory, or the CUDA device's, while its body runs."""

    peak: int | None = None

    def __enter__(self) -> Watch:
        self._before = anonymous()
        self._highest = self._before or 0
        self._done = threading.Event()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if torch.cuda.is_available():
            self.peak = torch.cuda.max_memory_allocated()
        elif self._before is not None:
            self.peak = self._highest - self._before

    def _follow(self) -> None:
        while not self._done.wait(_EVERY):
            self._highest = max(self._highest, anonymous() or 0)


def anonymous(status: Path = _STATUS) -> int | None:
    """Read this process's anonymous memory, in bytes; None where the system does not tell."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("RssAnon:"))
    return next((int(words[1]) << 10 for words in found), None)
