"""The peak that `quatrain plan` predicts against the peak that a run has, on the CPU.

    python bench/plan.py [NAME...] [--steps 2]

Rows of random ids are written, and random weights of a base beside which adapters learn. A child
builds the model as a run does, and trains with the loop, AdamW and the checkpoints of a run, while
its anonymous memory is read from /proc every two milliseconds. What the child has after its imports
is taken off. Children are forked, so that torch is imported once; one writes the base. After the
last step it answers prompts of random ids, where a case has any.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sides import as_in_a_run

from quatrain.config import Config, GenerateConfig, ModelConfig
from quatrain.data.batches import Batches
from quatrain.data.rows import Block, Rows, write_rows
from quatrain.evaluate.run import evaluating
from quatrain.generate.engine import complete
from quatrain.hub.convert import Conversion, convert
from quatrain.model.io import write_model
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import LazyTensor
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import train_bpe
from quatrain.train.calibrate import anonymous
from quatrain.train.checkpoint import Keeper, State
from quatrain.train.exam import Exam
from quatrain.train.log import Display, Journal
from quatrain.train.loop import Around, Evaluation, train
from quatrain.train.optim import make_optimizer
from quatrain.train.placing import size_of_base
from quatrain.train.plan import Plan, make_plan, memory_for
from quatrain.train.run import build_model
from quatrain.train.settle import settle, settle_intervals
from quatrain.train.site import Site
from quatrain.train.start import Start

SMALL: dict[str, Any] = dict(
    vocab_size=8192, d_model=256, n_layers=4, n_heads=8, n_kv_heads=4, d_k=32,
    num_local_experts=8, intermediate_size_expert=512, intermediate_size_mlp=1024,
)  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "dense, 2 micro-batches of 4": {"model": {"moe_layers": ()}, "batch": 8, "micro": 4},
    "experts, 8 micro-batches of 1": {"batch": 8, "micro": 1},
    "experts, recomputed, 12 layers": {
        "model": {"n_layers": 12}, "batch": 4, "micro": 4, "again": True,
    },
    "a vocabulary of 65,536": {"model": {"vocab_size": 65_536}, "batch": 4, "micro": 2},
    "rows of 4,096 tokens": {"batch": 1, "micro": 1, "length": 4096, "document": 4096},
    "12 dense layers": {"model": {"n_layers": 12, "moe_layers": ()}, "batch": 2, "micro": 2},
    # Two constants of train/memory.py were fitted to the six above, and to none of these.
    "wider, top 2 of 4 experts": {
        "model": {"d_model": 384, "n_layers": 6, "num_local_experts": 4, "num_experts_per_tok": 2,
                  "intermediate_size_expert": 768}, "batch": 4, "micro": 2,
    },
    "8 dense layers, a vocabulary of 32,768": {
        "model": {"moe_layers": (), "n_layers": 8, "vocab_size": 32_768}, "batch": 8, "micro": 8,
    },
    "16 experts, recomputed": {
        "model": {"num_local_experts": 16}, "batch": 8, "micro": 8, "again": True,
    },
    "rows of 1,024 tokens, 8 layers": {
        "model": {"n_layers": 8}, "batch": 4, "micro": 4, "length": 1024, "document": 256,
    },
    "weights in bf16, a vocabulary of 65,536": {
        "model": {"vocab_size": 65_536}, "batch": 2, "micro": 2, "weights": "bf16",
    },
    "weights and products in bf16, 16 experts": {
        "model": {"num_local_experts": 16, "n_layers": 8}, "batch": 2, "micro": 2,
        "weights": "bf16", "precision": "bf16",
    },
    "weights in bf16, 4 micro-batches": {
        "model": {"num_local_experts": 16, "n_layers": 8}, "batch": 4, "micro": 1,
        "weights": "bf16", "precision": "bf16",
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--base", type=Path, help="a directory, for cases that need one")
    parser.add_argument("--gguf", type=Path, help="a file, for cases that need one")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a child that is forked has none of its parent's threads
    print(
        "| run | parameters | predicted MB | at | measured MB | error |\n|---|---|---|---|---|---|"
    )
    for name, case in CASES.items():
        if options.names and not any(part in name for part in options.names):
            continue
        if given := case.get("given"):
            if getattr(options, given) is None:
                parser.error(f"{name}: --{given} is needed")
            case = {**case, "file": getattr(options, given)}
        with tempfile.TemporaryDirectory() as directory:
            print(row_of(name, case, Path(directory), options.steps), flush=True)


def row_of(name: str, case: dict[str, Any], directory: Path, steps: int) -> str:
    plan, measured = planned_and_measured(case, directory, steps)
    peak = plan.memory.peak
    error = peak.total / measured - 1
    cells = (
        name, f"{plan.parameters.total / 1e6:.1f}M", f"{peak.total / 1e6:,.0f}", peak.name,
        f"{measured / 1e6:,.0f}", f"{100 * error:+.1f} %",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def planned_and_measured(case: dict[str, Any], directory: Path, steps: int) -> tuple[Plan, int]:
    """Plan a run, and do it in a child; give its peak in bytes.

    Args:
        case: what differs from the smallest run; `base` (bf16, nf4, int8 or gguf) makes it learn
            adapters beside such a base, or beside the `file` of one; `asks` are prompts and their
            tokens.
        directory: for rows, base and run.
        steps: of the run.
    """
    config = config_of(case, directory, steps)
    if config.model.init and "file" not in case:
        apart(lambda: write_base(config.model, directory / "base", case["base"] == "gguf"))
    rows = random_rows(config, case, directory / "rows")
    base = Path(config.model.init) if config.model.init else None
    site = Site(base=base and size_of_base(config.model, base))
    data: Any = SimpleNamespace(train=rows, questions=[])
    plan = make_plan(settle(config, len(rows)), data, site, 1 << 50)
    if exam := asked_of(*case["asks"]) if "asks" in case else None:
        plan = replace(plan, memory=memory_for(plan.config, plan.work, site, exam))
    return plan, peak_of(lambda: learn(plan.config, rows, exam))


def config_of(case: dict[str, Any], directory: Path, steps: int) -> Config:
    model, base = {**SMALL, **case.get("model", {})}, case.get("base")
    if base:
        file = "gguf/model-q8_0.gguf" if base == "gguf" else ""
        model["init"] = str(case.get("file", directory / "base" / file))
        model["quantize"] = base if base in ("nf4", "int8") else None
    return Config.model_validate(
        {
            "run_dir": directory / "run",
            "model": model,
            "data": {"block_size": case.get("length", 512)},
            "train": {
                "batch_size": case["batch"], "micro_batch_size": case["micro"],
                "max_steps": steps, "activation_checkpointing": case.get("again", False),
                "learning_rate": 1e-3, "threads": 2, "adapter": "lora" if base else None,
                "precision": case.get("precision", "fp32"),
                "weights": case.get("weights", "float32"),
            },
        }
    )  # fmt: skip


def write_base(config: ModelConfig, directory: Path, as_gguf: bool = False) -> None:
    """Write random bf16 weights, and a GGUF file of them where it is wanted, tensor by tensor."""
    with torch.device("meta"):
        shapes = {name: one.shape for name, one in LlamaModel(config).state_dict().items()}
    write_model(config, {name: drawn(tuple(shape)) for name, shape in shapes.items()}, directory)
    train_bpe(["Quelle heure est-il ?"], vocab_size=300).save(directory)
    LLAMA4.save(directory)
    if as_gguf:
        asked = Conversion(to="gguf", dtype="q8_0", check=False)
        convert(directory, directory / "gguf", asked)


def drawn(shape: tuple[int, ...]) -> LazyTensor:
    """Draw a weight in bf16 when it is written; a vector is a norm's."""
    if len(shape) == 1:
        return LazyTensor(shape, torch.bfloat16, lambda: torch.ones(shape).bfloat16())
    return LazyTensor(
        shape, torch.bfloat16, lambda: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
    )


def random_rows(config: Config, case: dict[str, Any], directory: Path) -> Rows:
    """Write rows full of documents, a quarter of each a target."""
    draw = np.random.default_rng(0)
    size = case.get("document", 64)

    def records() -> Any:
        for _ in range(16 * config.data.block_size // size):
            mask = np.zeros(size, dtype=bool)
            mask[-size // 4 :] = True
            yield Block.of(draw.integers(0, config.model.vocab_size, size, dtype=np.int32), mask)

    return write_rows(directory, records(), block_size=config.data.block_size,
                      packing="best_fit", pad_id=0)  # fmt: skip


def peak_of(work: Callable[[], None]) -> int:
    """Work in a child; return how far its anonymous memory rises above that of its imports."""
    ready, go = os.pipe(), os.pipe()

    def announced() -> None:
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        with as_in_a_run():
            work()

    child = forked(announced)
    status_file = Path(f"/proc/{child}/status")
    os.read(ready[0], 1)
    before = highest = anonymous(status_file) or 0
    os.write(go[1], b"1")
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        highest = max(highest, anonymous(status_file) or 0)
        time.sleep(0.002)
    refuse_failure(ended[1])
    return highest - before


def apart(work: Callable[[], None]) -> None:
    """Work in a child, so that this process stays as small as it was."""
    refuse_failure(os.waitpid(forked(work), 0)[1])


def forked(work: Callable[[], None]) -> int:
    """Fork a child that works and ends; give its number."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def refuse_failure(status: int) -> None:
    if status:
        raise SystemExit(f"what was to be measured failed: {status}")


def learn(config: Config, rows: Rows, exam: Exam | None = None) -> None:
    """Do what a run does once its data is prepared; evaluate by answers alone."""
    torch.set_num_threads(config.train.threads or 1)
    base = config.model.init
    start = Start(config, Path(base) if base else None, base, None, LLAMA4)
    model = build_model(config, start, None)
    optimizer = make_optimizer(model, config.train)
    keeper = Keeper(config.run_dir, 2, lambda *_: None, {})

    def evaluate(step: int) -> Evaluation:
        if exam is not None:
            with evaluating(model):
                answer(model, exam)
        return Evaluation(None, (float(step),))

    display = Display(config.train.max_steps or 0, 0, quiet=True)
    around = Around(evaluate, keeper, Journal(config.run_dir, -1), display)
    batches = Batches(rows, config.train.batch_size or 1, config.train.seed)
    train(model, optimizer, batches, settle_intervals(config).train, State(), around)


def asked_of(prompts: int, tokens: int) -> Exam:
    """Describe so many prompts of so many tokens each."""
    return Exam((tokens,) * prompts, GenerateConfig(max_new_tokens=8))


def answer(model: LlamaModel, exam: Exam) -> None:
    """Answer prompts of random ids."""
    draw, most = np.random.default_rng(0), model.config.vocab_size
    prompts = [draw.integers(0, most, size).tolist() for size in exam.sizes]
    complete(model, prompts, exam.options, stop_ids=())


if __name__ == "__main__":
    main()
