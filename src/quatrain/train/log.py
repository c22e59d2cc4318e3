"""metrics.jsonl, samples.jsonl, and what a user sees during a run.

metrics.jsonl is authoritative: one object a line, training rows with `step, loss, lr, grad_norm,
tokens`, evaluation rows with `step, eval_loss, exact_match, f1`. Whatever depends on the clock is
under `seconds` and `tokens_per_second`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from quatrain.files import fsync_path, write_json, write_text
from quatrain.progress import watcher, working
from quatrain.run_dir import METRICS, SAMPLES, read_rows
from quatrain.train.sinks import Sinks
from quatrain.words import say

logger = logging.getLogger(__name__)


class Journal:
    """The files of a run that grow by lines; a resumed run drops the lines that it will repeat."""

    def __init__(self, run_dir: Path, resumed_step: int, sinks: Sequence[str] = ()) -> None:
        self.run_dir = run_dir
        self.sinks = Sinks(sinks, run_dir, resumed_step)
        self._warned = False
        self._cut: set[str] = set()
        for name in (METRICS, SAMPLES):
            kept = [row for row in read_rows(run_dir / name) if row["step"] <= resumed_step]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            write_text(run_dir / name, text)

    def metrics(self, row: dict[str, Any]) -> None:
        """Append a row of metrics."""
        self._append(METRICS, row)
        self.sinks.write(row)

    def sample(self, row: dict[str, Any]) -> None:
        """Append an answer given at an evaluation."""
        self._append(SAMPLES, row)

    def report(self, name: str, values: dict[str, Any]) -> None:
        """Write a file of its own."""
        write_json(self.run_dir / name, values)

    def sync(self) -> None:
        """Push the lines to the disk, so that no checkpoint outlives its metrics."""
        for name in (METRICS, SAMPLES):
            with contextlib.suppress(OSError):
                fsync_path(self.run_dir / name)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with (self.run_dir / name).open("a", encoding="utf-8", newline="\n") as file:
                file.write("\n" + line if name in self._cut else line)
            self._cut.discard(name)
        except OSError as error:
            if not self._warned:
                logger.warning(say("train.unwritten", name=name, error=error))
            self._warned = True
            self._cut.add(name)


class NoJournal(Journal):
    """That of a process which does not lead: nothing is written."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.sinks = run_dir, Sinks((), run_dir, -1)

    def metrics(self, row: dict[str, Any]) -> None:
        """See Journal."""

    def sample(self, row: dict[str, Any]) -> None:
        """See Journal."""

    def report(self, name: str, values: dict[str, Any]) -> None:
        """See Journal."""

    def sync(self) -> None:
        """See Journal."""


class Display:
    """What a run prints on stderr, beside the progress bar (progress.py)."""

    def __init__(self, num_steps: int, first_step: int, quiet: bool = False) -> None:
        self.num_steps, self.quiet = num_steps, quiet
        live = False if Console().is_jupyter else None  # a notebook's stderr passes for a terminal
        self.console = Console(
            file=sys.stderr, highlight=False, force_jupyter=False, force_terminal=live
        )
        self._every = max(1, num_steps // 20)
        self._has_bar = watcher() is not None and self.console.is_terminal
        self._stack = ExitStack()
        self._bar = self._stack.enter_context(working("train.bar", total=num_steps))
        self._bar.reach(first_step)

    def settled_again(self, step: int, num_steps: int) -> None:
        """Show that after so many steps there will be another number of them."""
        self.num_steps = self._bar.total = num_steps
        self.say(say("train.again", step=step, steps=num_steps))

    def trained(self, row: dict[str, Any]) -> None:
        """Show a training row."""
        now = say("train.now", loss=row["loss"], rate=row["lr"], speed=row["tokens_per_second"])
        self._bar.reach(row["step"], now)
        if not self._has_bar and (row["step"] % self._every == 0 or row["step"] == 1):
            self.say(say("train.step", step=row["step"], steps=self.num_steps, now=now))

    def evaluated(self, row: dict[str, Any]) -> None:
        """Show an evaluation row."""
        parts = [say("train.held_out", step=row["step"], steps=self.num_steps)]
        if row["eval_loss"] is not None:
            parts.append(say("train.held_out.loss", loss=row["eval_loss"]))
        if row["exact_match"] is not None:
            parts.append(say("train.held_out.scores", exact=row["exact_match"], f1=row["f1"]))
        if abstained := row.get("abstention"):
            f1 = {kind: abstained[kind]["f1"] for kind in ("has_answer", "no_answer")}
            parts.append(say("train.held_out.kinds", **f1))
        self.say("  ".join(parts))

    def say(self, line: str) -> None:
        """Show a line."""
        if self.quiet:
            return
        if (one := watcher()) is not None:
            one.line(line)
        else:
            self.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """End the bar."""
        self._stack.close()
