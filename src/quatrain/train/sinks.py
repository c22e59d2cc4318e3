"""The rows of metrics.jsonl, also sent to TensorBoard or Trackio, where installed.

metrics.jsonl stays authoritative. A sink that is missing or fails gives one warning and is dropped;
training goes on.

    {"step": 3, "loss": 1.5, "expert_load": {"0": [6, 2]}}  ->  train/loss 1.5
                                                                 train/expert_load/0 1.5
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from quatrain.words import say

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where scalars go."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Take the scalars of a step."""

    def close(self) -> None:
        """Flush what was taken."""


class Sinks:
    """All sinks of a run, none of which can stop it."""

    def __init__(self, names: Sequence[str], run_dir: Path, resumed_step: int) -> None:
        """Open the sinks that can be opened.

        Args:
            names: tensorboard, trackio.
            run_dir: the run.
            resumed_step: rows of later steps, from before, are void; -1 at the beginning.
        """
        self._open: dict[str, Sink] = {}
        for name in names:
            with _Guard(name, self._open):
                self._open[name] = _OPENERS[name](run_dir, resumed_step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics to every sink that still works."""
        scalars = dict(scalars_of(row))
        for name, sink in list(self._open.items()):
            with _Guard(name, self._open):
                sink.write(scalars, row["step"])

    def close(self) -> None:
        """Close every sink."""
        for name, sink in list(self._open.items()):
            with _Guard(name, self._open):
                sink.close()
        self._open.clear()


def scalars_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Name the numbers of a row; expert loads become the largest one over an equal share."""
    group = "eval" if "eval_loss" in row else "train"
    for name, value in row.items():
        if name == "expert_load":
            for layer, load in value.items():
                yield f"{group}/{name}/{layer}", max(load) * len(load) / max(1, sum(load))
        elif name == "abstention":
            for kind in ("has_answer", "no_answer"):
                for score in ("exact_match", "f1"):
                    yield f"{group}/{kind}/{score}", float(value[kind][score])
        elif name != "step" and value is not None:
            yield f"{group}/{name}", float(value)


class _Guard:
    """Catches failures of a sink: one warning, and the sink is dropped."""

    def __init__(self, name: str, sinks: dict[str, Sink]) -> None:
        self.name, self.sinks = name, sinks

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self.sinks.pop(self.name, None)
        remedy = " (pip install 'quatrain[log]')" if isinstance(error, ImportError) else ""
        logger.warning(say("train.sink", name=self.name, error=error, remedy=remedy))
        return True


class _TensorBoard:
    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = resumed_step + 1 if resumed_step >= 0 else None
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Trackio:
    def __init__(self, run_dir: Path, _: int) -> None:
        import trackio

        name = run_dir.resolve().name
        with redirect_stdout(sys.stderr):  # it prints a greeting, and stdout may be one JSON object
            self.run = trackio.init(project="quatrain", name=name, resume="allow", embed=False)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        self.run.log(dict(scalars), step=step)

    def close(self) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()  # the module's: after the run's own, exit would finish it again


_OPENERS: dict[str, Callable[[Path, int], Sink]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}
