"""Ctrl-C and SIGTERM: finish the step, save, leave; a second Ctrl-C leaves at once."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any, Self

from quatrain.words import say

logger = logging.getLogger(__name__)


class StopSignal:
    """Records the first signal while its body runs; restores the handlers afterwards."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread; no other gets signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.signal = number
        logger.warning(say("train.stopping"))
