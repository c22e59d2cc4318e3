"""SmolLM2-135M-Instruct fine-tuned on French questions four ways, in equal minutes.

    python bench/smollm2_sft.py RUN_DIR --questions piaf_train.json [--minutes 20] [--picture FILE]

The same weights as a dense Llama 4 and upcycled to four experts, each trained whole and with
adapters. A tenth of the questions is held out by article; some of these choose the best
checkpoint, others are the exam: the loss of the gold answers, exact match and F1, before and
after. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from smollm2 import gguf_file, save_directory

from quatrain.config import DataConfig
from quatrain.data.prepare import HOLDOUT_SEED
from quatrain.data.records import holdout, load_records
from quatrain.text.conversation import Conversation

BASES = {"dense": [], "4 experts": ["--experts", "4"]}
WAYS = {"whole": ["train.learning_rate=1e-4"],
        "adapters": ["train.adapter=lora", "train.learning_rate=1e-3"]}  # fmt: skip
TRAINING = ["data.block_size=1024", "train.batch_size=2", "generate.max_new_tokens=32"]
LONGEST = 2500
"""Characters of a question with its context; SmolLM2 spells French at some three a token."""
CHOOSING, EXAM = 32, 120


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    home: Path = options.run_dir
    write_questions(home, options.questions)
    source = home / "smollm2"
    if not source.exists():
        save_directory(gguf_file(), source)
    found: dict[str, Any] = {}
    for base, extra in BASES.items():
        start = home / base.replace(" ", "-")
        if not start.exists():
            quatrain("convert", source, start, "--to", "llama4", *extra)
        found[base] = {"before": examined(start, home)}
        for way, words in WAYS.items():
            run = home / f"{start.name}-{way}"
            quatrain("sft", "piaf", f"run_dir={run}", f"model.init={start}", "data.holdout=0",
                     f"data.train={home / 'train.jsonl'}", f"data.eval={home / 'choosing.jsonl'}",
                     f"train.budget={options.minutes}m", *TRAINING, *words)  # fmt: skip
            found[base][way] = examined(run, home) | last_row(run)
    print(json.dumps(found, indent=2))
    if options.picture:
        draw(found, options.picture)


def write_questions(home: Path, questions: str) -> None:
    """Split the questions: to learn from, to choose a checkpoint by, and the exam."""
    records = load_records([questions], DataConfig())
    kept, held = (part.conversations for part in holdout(records, 0.1, HOLDOUT_SEED))
    step = max(1, len(held) // (CHOOSING + EXAM))
    some = held[::step]
    parts = {"train": kept, "choosing": some[:CHOOSING], "exam": some[CHOOSING:][:EXAM]}
    home.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = (json.dumps(as_row(one), ensure_ascii=False) + "\n" for one in part
                 if len(one.messages[0].content) <= LONGEST)  # fmt: skip
        (home / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def as_row(one: Conversation) -> dict[str, Any]:
    turns = [{"role": turn.role, "content": turn.content} for turn in one.messages]
    return {"messages": turns, "answers": list(one.answers)}


def examined(model: Path, home: Path) -> dict[str, Any]:
    """Score a model once; the figure is kept beside it."""
    path = home / f"exam-{model.name}.json"
    if not path.exists():
        said = quatrain(
            "eval", model, home / "exam.jsonl", "--set", "generate.max_new_tokens=32", "--json"
        )
        path.write_text(said, encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in ("count", "loss", "exact_match", "f1")}


def quatrain(*words: object) -> str:
    """Run a verb; what it says goes to the terminal, but for one JSON object."""
    command = [sys.executable, "-m", "quatrain.cli.main", *map(str, words)]
    out = subprocess.PIPE if "--json" in words else None
    return subprocess.run(command, check=True, stdout=out, text=True).stdout or ""


def last_row(run: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "tokens" in row)
    return {"steps": last["step"], "tokens": last["tokens"]}


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the loss and F1 of each way, beside what they were before."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    names = [f"{base}\n{way}" for base in found for way in found[base]]
    rows = [row for ways in found.values() for row in ways.values()]
    colours = ["#9aa5b1" if name.endswith("before") else "#2f6f9f" for name in names]
    for axis, field, label in ((axes[0], "loss", "loss of the gold answers, nats a token"),
                               (axes[1], "f1", "F1, percent")):  # fmt: skip
        bars = axis.bar(names, [row[field] for row in rows], color=colours)
        axis.bar_label(bars, fmt="%.2f" if field == "loss" else "%.1f", padding=2)
        axis.set_title(label, fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
