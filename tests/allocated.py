"""What torch allocates on a CPU while something runs, by its profiler."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.profiler import ProfilerActivity, profile


def allocated_by(work: Callable[[], object], trace: Path) -> int:
    """The most that is held above what was held before, in bytes."""
    gc.collect()  # or what is freed meanwhile would be taken off
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]"]
    return int(np.cumsum([size for _, size in sorted(changes)]).max())
