"""The rows of metrics.jsonl, sent to TensorBoard or Trackio as well, where they are installed.

metrics.jsonl stays the truth. A sink that is missing or fails is warned of once and left alone;
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
        """Push what was taken to where it belongs."""


class Sinks:
    """All sinks of a run, none of which can stop it."""

    def __init__(self, names: Sequence[str], run_dir: Path, resumed_step: int) -> None:
        """Open those that can be opened.

        Args:
            names: tensorboard, trackio.
            run_dir: the run.
            resumed_step: what later steps had written before is void; -1 at the beginning.
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
    """Name the numbers of a row; an expert load becomes the busiest's against an equal share."""
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
    """Lets no failure of a sink through: it is said once, and the sink is dropped."""

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
        with redirect_stdout(sys.stderr):  # it greets, and stdout may be one JSON object
            self.run = trackio.init(project="quatrain", name=name, resume="allow", embed=False)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        self.run.log(dict(scalars), step=step)

    def close(self) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()  # of the module: the run's own leaves it to be finished at exit again


_OPENERS: dict[str, Callable[[Path, int], Sink]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}
