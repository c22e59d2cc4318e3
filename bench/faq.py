"""A file of questions learnt by a small base, in equal minutes by Quatrain and by TRL.

    python bench/faq.py WORK --base smollm2 [--files examples/faq] [--budget 10] [--seeds 0 1 2]
                        [--rates 1e-4 4e-4 8e-4] [--sides quatrain trl]

FILES holds questions.csv, which is learnt, and exam.csv: other wordings, which are asked. Ours gets
the file, the base and a time box, and nothing else. TRL's SFTTrainer gets the same minutes at each
of a few learning rates, with a step as large as ours, the loss on answers alone, bfloat16, and a
cosine that ends where the time does: a first short training tells how many steps fit. Its model is
converted back, so that one decoder and one scorer judge both. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.evaluate.score import exact_match, f1

BATCH, TRIED, LONGEST = 8, 12, 256
"""Conversations a step, the steps of the trial, and the tokens of a conversation, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="in the form of Llama 4")
    parser.add_argument("--files", type=Path, default=Path("examples/faq"))
    parser.add_argument("--budget", type=float, default=10, help="minutes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rates", nargs="*", default=["1e-4", "4e-4", "8e-4"])
    parser.add_argument("--sides", nargs="*", default=["quatrain", "trl"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_with_trl(options.work, options.files, float(options.child), options.budget * 60)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"best constant answer": best_constant(options.files)}
    if "quatrain" in options.sides:
        for seed in options.seeds:
            found[f"quatrain, seed {seed}"] = ours(options, seed)
    if "trl" in options.sides:
        for rate in options.rates:
            found[f"trl, rate {rate}"] = theirs(options, rate)
    print(json.dumps(found, indent=2))


def best_constant(files: Path) -> dict[str, float]:
    """Score the one answer of the file that answers the exam best."""
    learnt, exam = (records(files / name) for name in ("questions.csv", "exam.csv"))
    answers = Counter(answer for _, answer in learnt)
    return max(
        ({"exact_match": mean(exact_match(one, [gold]) for _, gold in exam),
          "f1": mean(f1(one, [gold]) for _, gold in exam)} for one in answers),
        key=lambda scores: scores["exact_match"],
    )  # fmt: skip


def mean(scores: Any) -> float:
    values = [float(score) for score in scores]
    return round(100 * sum(values) / len(values), 1)


def records(file: Path) -> list[tuple[str, str]]:
    """Read questions and answers as a run reads them."""
    found = load_records([str(file)], DataConfig()).conversations
    return [(one.messages[-2].content, one.messages[-1].content) for one in found]


def ours(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    run = options.work / f"quatrain-{seed}"
    timed(run, "sft", "questions", f"data.train={options.files / 'questions.csv'}",
          f"model.init={options.base}", f"train.budget={options.budget}m", f"run_dir={run}",
          f"train.seed={seed}")  # fmt: skip
    return examined(run, options.files)


def theirs(options: argparse.Namespace, rate: str) -> dict[str, Any]:
    """Train with TRL in a process of its own, then bring its model into our form."""
    dense, made = options.work / "dense", options.work / f"trl-{rate}"
    if not dense.exists():
        quatrain("convert", options.base, dense, "--to", "hf", "--dtype", "f32")
    if not (made / "dense").exists():
        made.mkdir(exist_ok=True)
        child = [sys.executable, __file__, str(made), "--base", str(dense), "--child", rate,
                 "--files", str(options.files), "--budget", str(options.budget)]  # fmt: skip
        began = time.monotonic()
        subprocess.run(child, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        write_seconds(made, time.monotonic() - began)
    if not (made / "checkpoints").exists():
        quatrain("convert", made / "dense", made / "checkpoints", "--to", "llama4")
    return examined(made / "checkpoints", options.files) | seconds_of(made)


def train_with_trl(made: Path, files: Path, rate: float, seconds: float) -> None:
    """Train for so many seconds, loading and a trial of the steps' time included."""
    began = time.monotonic()
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    dense = made.parent / "dense"
    tokenizer = AutoTokenizer.from_pretrained(dense)
    rows = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": question}],
          "completion": [{"role": "assistant", "content": answer}]}
         for question, answer in records(files / "questions.csv")]
    )  # fmt: skip

    def trained(steps: int) -> SFTTrainer:
        model = LlamaForCausalLM.from_pretrained(dense, dtype=torch.float32)
        arguments = SFTConfig(
            output_dir=str(made / "out"), max_steps=steps, per_device_train_batch_size=BATCH,
            learning_rate=rate, lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20),
            max_length=LONGEST, completion_only_loss=True, bf16=True, use_cpu=True, seed=0,
            gradient_checkpointing=False, optim="adamw_torch_fused", report_to="none",
            save_strategy="no", logging_steps=50, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        trainer.train()
        return trainer

    def time_of(steps: int) -> float:
        tried = time.monotonic()
        trained(steps)
        return time.monotonic() - tried

    time_of(1)  # allocates
    beside, more = time_of(2), time_of(2 + TRIED)
    a_step = (more - beside) / TRIED
    left = seconds - (time.monotonic() - began) - (beside - 2 * a_step)
    steps = int(left / a_step)
    print(f"TRL at {rate}: {a_step:.2f} s a step, {steps} steps", flush=True)
    trainer = trained(steps)
    trainer.model.to(torch.float32).save_pretrained(made / "dense")
    tokenizer.save_pretrained(made / "dense")


def examined(model: Path, files: Path) -> dict[str, Any]:
    """Score a model once; the figures are kept beside it."""
    path = model.parent / f"exam-{model.name}.json"
    if not path.exists():
        path.write_text(quatrain("eval", model, files / "exam.csv", "--json"), encoding="utf-8")
    said = json.loads(path.read_text(encoding="utf-8"))
    scores = {name: said[name] for name in ("count", "exact_match", "f1")}
    return scores | (seconds_of(model) if (model / "seconds.txt").exists() else {})


def timed(run: Path, *words: object) -> None:
    """Train where that is not done, and keep the seconds from the command to its end."""
    if not (run / "seconds.txt").exists():
        began = time.monotonic()
        quatrain(*words)
        write_seconds(run, time.monotonic() - began)


def write_seconds(made: Path, seconds: float) -> None:
    (made / "seconds.txt").write_text(f"{seconds:.0f}", encoding="utf-8")


def seconds_of(made: Path) -> dict[str, float]:
    return {"seconds": float((made / "seconds.txt").read_text(encoding="utf-8"))}


def quatrain(*words: object) -> str:
    """Run a verb; what it says goes to the terminal, but for one JSON object."""
    command = [sys.executable, "-m", "quatrain", *map(str, words)]
    out = subprocess.PIPE if "--json" in words else None
    return subprocess.run(command, check=True, stdout=out, text=True).stdout or ""


if __name__ == "__main__":
    main()
