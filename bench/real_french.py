"""Real French text and questions, thirty minutes on two cores: does fine-tuning teach answers?

    python bench/real_french.py RUN_DIR --text FILE,FILE --questions FILE,FILE [--minutes 30]

Pretrains on the text, fine-tunes on the questions with a tenth held out, and compares on all
held-out questions: the loss of the gold answers before and after fine-tuning, and F1 with that
of the best constant answer. The whole, preparation and evaluations included, fits the minutes.

The text is dealt into passages, each followed by some of its own sentences in another order: a
model this small sees too little text to learn by itself that it can copy, which is what answering
from a context takes.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from quatrain.config import DataConfig, GenerateConfig
from quatrain.data.records import load_records
from quatrain.evaluate.run import examine
from quatrain.evaluate.score import best_constant_answer
from quatrain.generate.answer import Answerer

MODEL = ["model.preset=demo", "model.vocab_size=4096", "data.block_size=512", "train.batch_size=6",
         "model.n_heads=4", "model.d_k=64", "model.rope_theta=10000.0"]  # fmt: skip
SHARE_OF_PRETRAINING = 0.6
LEFT_FOR_EXAMS = 1.5
SHORTEST, LONGEST, SAID_AGAIN, MOST_PASSAGES = 120, 800, 4, 40_000
"""Characters of a passage; how many of its sentences follow it; how many passages there are."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    started = time.monotonic()
    text_run, run = options.run_dir / "pretrain", options.run_dir / "sft"
    passages = write_passages(options.text.split(","), options.run_dir / "passages.jsonl")
    quatrain("pretrain", "french-text", f"run_dir={text_run}", f"data.train={passages}",
             "data.holdout=0.0", *MODEL, "train.learning_rate=2e-3",
             f"train.budget={60 * SHARE_OF_PRETRAINING * options.minutes:.0f}s")  # fmt: skip
    left = 60 * (options.minutes - LEFT_FOR_EXAMS) - (time.monotonic() - started)
    quatrain("sft", "openquizz", f"run_dir={run}", f"data.train={options.questions}",
             "data.holdout=0.1", "data.block_size=512", f"model.init={text_run}",
             "train.batch_size=6", "train.learning_rate=1e-3", "train.weight_decay=0.1",
             "evaluate.questions=150", f"train.budget={left:.0f}s")  # fmt: skip
    asked = load_records([str(run / "data/eval/questions.jsonl")], DataConfig()).conversations
    greedy = GenerateConfig(max_new_tokens=32)
    before = examine(Answerer(text_run), asked, greedy.model_copy(update={"max_new_tokens": 1}))
    after = examine(Answerer(run), asked, greedy)
    constant, score = best_constant_answer([one.answers for one in asked])
    minutes = (time.monotonic() - started) / 60
    print(json.dumps({
        "minutes": minutes,
        "questions": after["count"],
        "loss_before": before["loss"],
        "loss_after": after["loss"],
        "loss_falls_percent": 100 * (1 - after["loss"] / before["loss"]),
        "f1": after["f1"],
        "exact_match": after["exact_match"],
        "constant_answer": constant,
        "constant_f1": score.f1,
        "tokens": {"text": last_row(text_run)["tokens"], "questions": last_row(run)["tokens"]},
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "threads": torch.get_num_threads(), "platform": platform.platform()},
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False,
                                 capture_output=True, text=True).stdout.strip(),
    }, ensure_ascii=False, indent=2))  # fmt: skip


def write_passages(files: list[str], path: Path) -> Path:
    """Deal the files' lines into passages, in mixed order, and write them as documents."""
    draw, found = random.Random(0), []
    for file in files:
        passage, enough = "", SHORTEST
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            passage = f"{passage}\n{line.strip()}".strip()
            if len(passage) >= enough:
                found.append(passage[:LONGEST])
                passage, enough = "", int(SHORTEST * (LONGEST / SHORTEST) ** draw.random())
    draw.shuffle(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for passage in found[:MOST_PASSAGES]:
            sentences = [s for s in re.split(r"(?<=[.!?])\s+", passage) if len(s) > 20]
            again = draw.sample(sentences, min(SAID_AGAIN, len(sentences)))
            text = "\n\n".join([passage, *again])
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return path


def quatrain(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "quatrain.cli.main", *words], check=True)


def last_row(run: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in reversed(rows) if "loss" in row)


if __name__ == "__main__":
    main()
