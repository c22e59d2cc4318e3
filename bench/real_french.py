"""Real French text and questions, thirty minutes on two cores: does fine-tuning teach answers?

    python bench/real_french.py RUN_DIR --text FILE,FILE --questions FILE,FILE [--minutes 30]

Three runs, each starting from the one before: pretraining on the text; filling gaps in the same
text; fine-tuning on the questions with a tenth held out. Then, on all held-out questions: the loss
of the gold answers before and after fine-tuning, and F1 with that of the best constant answer. The
whole, preparation and evaluations included, fits the minutes.

A model this small sees too little text to learn by itself that it can copy, which is what answering
from a context takes. So the text is dealt into passages, each followed by its own sentences in
another order; and the gaps are questions made of the text alone (recurring span selection: Ram et
al. 2021, arXiv:2101.00438): a few words of a passage without the span between them, and that span,
several times over in one conversation. Nothing of the files of questions is in either.
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
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quatrain.config import DataConfig, GenerateConfig
from quatrain.data.records import load_records
from quatrain.evaluate.run import examine, grade, total_score
from quatrain.evaluate.score import best_constant_answer
from quatrain.generate.answer import Answerer
from quatrain.text.chat import user_content
from quatrain.text.conversation import Conversation

MODEL = ["model.preset=demo", "model.vocab_size=4096", "data.block_size=512",
         "model.n_heads=4", "model.d_k=64", "model.rope_theta=10000.0"]  # fmt: skip
TRAINING = ["data.block_size=512", "train.batch_size=4", "data.holdout=0.0"]
SHARE_OF_TEXT, SHARE_OF_GAPS, SHARE_OF_EXAMS = 0.37, 0.27, 0.045
"""Of the whole time; fine-tuning has the rest."""
SHORTEST, LONGEST, LONGEST_WITH_GAPS, MOST_PASSAGES = 80, 480, 640, 40_000
"""Characters of a passage, and how many of them there are."""
MOST_GAPS, KEPT_WORDS = 8, 0.7
"""Questions on a passage; the share of the words around a gap that every other question keeps."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    started, whole = time.monotonic(), 60 * options.minutes
    text_run, gap_run, run = (options.run_dir / name for name in ("pretrain", "gaps", "sft"))
    short, long = (deal(options.text.split(","), most) for most in (LONGEST, LONGEST_WITH_GAPS))
    text = write_rows(options.run_dir / "passages.jsonl", map(said_again, short))
    gaps = write_rows(options.run_dir / "gaps.jsonl", map(with_gaps, long))
    quatrain(
        "pretrain",
        "french-text",
        f"run_dir={text_run}",
        f"data.train={text}",
        *MODEL,
        *TRAINING,
        "train.learning_rate=2e-3",
        f"train.budget={SHARE_OF_TEXT * whole:.0f}s",
    )
    quatrain(
        "sft",
        "openquizz",
        f"run_dir={gap_run}",
        f"data.train={gaps}",
        *TRAINING,
        f"model.init={text_run}",
        "train.learning_rate=1e-3",
        f"train.budget={SHARE_OF_GAPS * whole:.0f}s",
    )
    left = (1 - SHARE_OF_EXAMS) * whole - (time.monotonic() - started)
    quatrain(
        "sft",
        "openquizz",
        f"run_dir={run}",
        f"data.train={options.questions}",
        *TRAINING,
        f"model.init={gap_run}",
        "data.holdout=0.1",
        "train.learning_rate=1e-3",
        "train.weight_decay=0.1",
        "evaluate.questions=400",
        "train.eval_interval=400",
        f"train.budget={left:.0f}s",
    )
    held_out = load_records([str(run / "data/eval/questions.jsonl")], DataConfig()).conversations
    losses = {one.name: answer_loss(one, held_out) for one in (text_run, gap_run, run)}
    print(json.dumps({
        "losses": losses,
        "loss_falls_percent": {one.name: 100 * (1 - losses[run.name] / losses[one.name])
                               for one in (text_run, gap_run)},
        "scores": scores(run, held_out),
        "minutes": (time.monotonic() - started) / 60,
        "tokens": {one.name: last_row(one)["tokens"] for one in (text_run, gap_run, run)},
        "steps": {one.name: last_row(one)["step"] for one in (text_run, gap_run, run)},
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "threads": torch.get_num_threads(), "platform": platform.platform()},
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False,
                                 capture_output=True, text=True).stdout.strip(),
    }, ensure_ascii=False, indent=2))  # fmt: skip


def deal(files: list[str], longest: int) -> list[str]:
    """Deal the files' lines into passages of all lengths, in mixed order."""
    draw, found = random.Random(0), []
    for file in files:
        passage, enough = "", SHORTEST
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            passage = f"{passage}\n{line.strip()}".strip()
            if len(passage) >= enough:
                found.append(passage[:longest].strip())
                passage, enough = "", int(SHORTEST * (longest / SHORTEST) ** draw.random())
    draw.shuffle(found)
    return found[:MOST_PASSAGES]


def said_again(passage: str) -> dict[str, str]:
    """Give a passage followed by its own sentences in another order, as a document."""
    again = [one for one in re.split(r"(?<=[.!?])\s+", passage) if len(one) > 8]
    random.Random(passage).shuffle(again)
    return {"text": "\n\n".join([passage, *again])}


def with_gaps(passage: str) -> dict[str, Any]:
    """Ask for words left out of a passage, several times over: a conversation about it."""
    draw = random.Random(passage)
    words = passage.split()
    messages: list[dict[str, str]] = []
    for number in range(min(MOST_GAPS, 1 + len(words) // 8)):
        question, answer = _gap(words, draw)
        asked = user_content(question, None if number else passage)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def _gap(words: list[str], draw: random.Random) -> tuple[str, str]:
    """Leave one to eight words out of a line, names and numbers first, and keep some around."""
    named = [at for at, word in enumerate(words) if at and (word[0].isupper() or word[0].isdigit())]
    start = draw.choice(named if named and draw.random() < 0.5 else range(len(words)))
    end = min(len(words), start + draw.choice([1, 2, 2, 3, 4, 6, 8]))
    kept = draw.choice([1.0, KEPT_WORDS])
    around = [(at, word) for at, word in enumerate(words) if start - 6 <= at < end + 6]
    said = ["…" if at == start else word for at, word in around
            if at == start or (not start < at < end and draw.random() < kept)]  # fmt: skip
    answer = " ".join(words[start:end]).strip(",;:.!?«»—-()\"' ")
    return " ".join(said), answer or words[start]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def answer_loss(run: Path, held_out: list[Conversation]) -> float:
    loss: float = examine(Answerer(run), held_out, GenerateConfig(max_new_tokens=1))["loss"]
    return loss


def scores(run: Path, held_out: list[Conversation]) -> dict[str, Any]:
    """Score all questions, those on a context and those without, beside the best constants."""
    graded = grade(Answerer(run), held_out, GenerateConfig(max_new_tokens=32))
    kinds = {"all": graded, "context": [], "quiz": []}
    for one in graded:
        kinds["context" if "\n\n" in one.question else "quiz"].append(one)
    found = {}
    for kind, some in kinds.items():
        constant, score = best_constant_answer([one.conversation.answers for one in some])
        copied = sum(one.answer in one.question for one in some) if kind == "context" else None
        found[kind] = asdict(total_score(some)) | {
            "constant": constant, "constant_f1": score.f1, "copied": copied}  # fmt: skip
    return found


def quatrain(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "quatrain.cli.main", *words], check=True)


def last_row(run: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in reversed(rows) if "loss" in row)


if __name__ == "__main__":
    main()
