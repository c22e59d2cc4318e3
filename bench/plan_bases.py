"""The peak that `quatrain plan` predicts against that of a run, on shapes of bases that exist.

    python bench/plan_bases.py [NAME...] [--steps 2]

The shapes are those of `plan --bases`, and one with experts, with random weights. Adapters learn
beside weights in bf16, nf4 or int8, or beside a GGUF file in Q8_0. Rows and measure are those
of bench/plan.py. Two layers of Scout need 14 GB of disk.
"""

from __future__ import annotations

from typing import Any

import plan as measured

from quatrain.train.bases import bases

SMALL, MIDDLE, LARGE, SCOUT = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
)
EXPERTS: dict[str, Any] = dict(
    vocab_size=32_000, d_model=768, n_layers=8, n_heads=12, n_kv_heads=4, d_k=64,
    num_local_experts=16, intermediate_size_expert=1024, intermediate_size_mlp=2048,
)  # fmt: skip


def case(name: str, batch: int, micro: int, length: int = 512, **more: Any) -> dict[str, Any]:
    shape = bases()[name].shape.model_dump(exclude_unset=True) if name in bases() else EXPERTS
    shape |= more.pop("shape", {})
    return {"model": shape, "batch": batch, "micro": micro, "length": length,
            "document": min(length, 512), **more}  # fmt: skip


CASES = {
    "135M, one row of 1,024 at a time, bf16": case(SMALL, 2, 1, 1024, precision="bf16"),
    "135M, eight rows of 1,024, bf16": case(SMALL, 8, 8, 1024, precision="bf16"),
    "135M, two rows of 640, bf16": case(SMALL, 4, 2, 640, precision="bf16"),
    "135M, four rows of 512": case(SMALL, 4, 4),
    "135M, recomputed": case(SMALL, 8, 8, again=True),
    "135M, two rows, weights in bf16": case(SMALL, 2, 2, precision="bf16", weights="bf16"),
    "360M, one row, bf16": case(MIDDLE, 2, 1, precision="bf16"),
    "beside bf16: 135M, four rows, bf16": case(SMALL, 4, 4, base="bf16", precision="bf16"),
    "beside bf16: 135M, accumulated": case(SMALL, 8, 2, base="bf16"),
    "beside bf16: 360M, recomputed": case(MIDDLE, 4, 4, base="bf16", again=True),
    "beside bf16: 1.2B, one row, bf16": case(LARGE, 2, 1, base="bf16", precision="bf16"),
    "beside bf16: experts, accumulated, bf16": case("", 4, 1, base="bf16", precision="bf16"),
    "beside nf4: 135M, four rows": case(SMALL, 4, 4, base="nf4"),
    "beside nf4: 1.2B, one row, recomputed, bf16": case(
        LARGE, 1, 1, base="nf4", precision="bf16", again=True
    ),
    "beside int8: 360M, one row of 1,024, bf16": case(
        MIDDLE, 2, 1, 1024, base="int8", precision="bf16"
    ),
    "beside Q8_0: 135M, eight rows, recomputed, bf16": case(
        SMALL, 8, 8, base="gguf", precision="bf16", again=True
    ),
    "beside Q8_0: experts, two rows": case("", 2, 2, base="gguf"),
    "beside bf16: 135M, one row, bf16, then 32 answers": case(
        SMALL, 1, 1, base="bf16", precision="bf16", asks=(32, 250)
    ),
    "beside nf4: two layers of Scout, two rows, recomputed, bf16": case(
        SCOUT, 2, 2, base="nf4", precision="bf16", again=True, shape={"n_layers": 2}
    ),
}

if __name__ == "__main__":
    measured.CASES = CASES
    measured.main()
