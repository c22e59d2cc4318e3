"""Keep report.html up to date during a run; a failure in it does not stop the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from quatrain.run_dir import PAGE
from quatrain.words import say

logger = logging.getLogger(__name__)

_SHARE = 0.01
"""The share of a run's time that its page may take."""


class Reporter:
    """Writes the page at evaluations, but not so often that it slows training."""

    def __init__(
        self,
        run_dir: Path,
        language: str,
        clock: Callable[[], float] = time.perf_counter,
        muted: bool = False,
    ) -> None:
        self.run_dir, self.language, self.clock, self.muted = run_dir, language, clock, muted
        self._not_before = clock()
        self._warned = False

    def refresh(self, last: bool = False) -> None:
        """Write the page, unless the last one took so long that it is too early for another.

        Args:
            last: whether the run ends here; the page is then written in any case.
        """
        started = self.clock()
        if self.muted or (started < self._not_before and not last):
            return
        try:
            from quatrain.report.page import write_report

            write_report(self.run_dir, self.language)
        except Exception as error:  # a page is never worth a run
            if not self._warned:
                logger.warning(say("train.unwritten", name=PAGE, error=error))
            self._warned = True
        ended = self.clock()
        self._not_before = ended + (ended - started) / _SHARE
