"""The peak that `quatrain plan` predicts against that of a run, on shapes of bases that exist.

    python bench/plan_bases.py [NAME...] [--steps 2]

The shapes are those of `plan --bases`, with random weights; rows, child and measure are those of
bench/plan.py.
"""

from __future__ import annotations

from typing import Any

import plan as measured

from quatrain.train.bases import bases

SMALL, MIDDLE, LARGE = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
)


def case(name: str, batch: int, micro: int, length: int = 512, **more: Any) -> dict[str, Any]:
    shape = bases()[name].shape.model_dump(exclude_unset=True)
    return {"model": shape, "batch": batch, "micro": micro, "length": length,
            "document": min(length, 512), **more}  # fmt: skip


CASES = {
    "135M, one row of 1,024 at a time, bf16": case(SMALL, 2, 1, 1024, precision="bf16"),
    "135M, eight rows of 1,024, bf16": case(SMALL, 8, 8, 1024, precision="bf16"),
    "135M, two rows of 640, bf16": case(SMALL, 4, 2, 640, precision="bf16"),
    "135M, four rows of 512": case(SMALL, 4, 4),
    "135M, recomputed": case(SMALL, 8, 8, again=True),
    "135M, two rows, weights in bf16": case(SMALL, 2, 2, precision="bf16", weights="bf16"),
    "135M, LoRA, bf16": case(SMALL, 4, 4, adapter="lora", precision="bf16"),
    "135M, LoRA, accumulated": case(SMALL, 8, 2, adapter="lora"),
    "360M, one row, bf16": case(MIDDLE, 2, 1, precision="bf16"),
    "360M, LoRA, four rows, bf16": case(MIDDLE, 4, 4, adapter="lora", precision="bf16"),
    "1.2B, LoRA, one row, bf16": case(LARGE, 2, 1, adapter="lora", precision="bf16"),
}

if __name__ == "__main__":
    measured.CASES = CASES
    measured.main()
