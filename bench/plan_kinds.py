"""The peak that `quatrain plan` predicts against that of a run, on one base held in several ways.

    python bench/plan_kinds.py [NAME...] --base DIR --gguf FILE [--steps 2]

Both are SmolLM2-135M: DIR a directory in Llama 4's form, FILE in Q4_1. All weights learn, which are
random then, or adapters beside the base; gradients accumulate, or layers are recomputed. Rows have
256 tokens, so that all is done in minutes. The measure is that of bench/plan.py.
"""

from __future__ import annotations

from typing import Any

import plan as measured
from plan_bases import SMALL, case


def short(batch: int, micro: int, **more: Any) -> dict[str, Any]:
    """Describe a run of short rows."""
    if "base" in more:
        more["given"] = "gguf" if more["base"] == "gguf" else "base"
    return case(SMALL, batch, micro, 256, **more)


CASES = {
    "all weights in float32": short(2, 2),
    "all weights in float32, accumulated, recomputed": short(4, 2, again=True),
    "all weights in bf16": short(2, 1, weights="bf16"),
    "beside float32, accumulated": short(4, 1, base="plain"),
    "beside nf4, four rows": short(4, 4, base="nf4"),
    "beside nf4, accumulated": short(4, 2, base="nf4"),
    "beside int8, recomputed": short(4, 4, base="int8", again=True),
    "beside int8, accumulated, recomputed": short(4, 2, base="int8", again=True),
    "beside Q4_1, accumulated": short(4, 2, base="gguf"),
    "beside Q4_1, recomputed, then 32 answers": short(
        2, 2, base="gguf", again=True, asks=(32, 100)
    ),
}

if __name__ == "__main__":
    measured.CASES = CASES
    measured.main()
