"""Real French text and questions, thirty minutes on two cores: does fine-tuning teach answers?

    python bench/real_french.py RUN_DIR --text FILE,FILE --questions FILE,FILE [--minutes 30]

A tenth of the questions is held out first, and a few more of the rest to choose the best checkpoint
by. Then two runs, the second starting from the first: pretraining on the text, and fine-tuning on
the questions. At the end, on all of the held-out tenth, which nothing was chosen by:
the loss of the gold answers before and after fine-tuning, and F1 with that of the best constant
answer; of the likeliest answer, and of the one that agrees best with others drawn. The whole,
preparation and evaluations included, is planned to fit the minutes; those it took are printed.

A model this small sees too little text to learn by itself that it can copy, which is what answering
from a context takes. So the text is dealt into passages, each followed by its own sentences in
another order; and a quiz question is also asked with its choices, and with its note where that
holds the answer. Held-out questions are asked as they are, and nothing of theirs is learnt from.
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
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from quatrain.config import DataConfig, GenerateConfig
from quatrain.data.prepare import HOLDOUT_SEED
from quatrain.data.records import holdout, load_records
from quatrain.evaluate.run import examine, grade, total_score
from quatrain.evaluate.score import best_constant_answer
from quatrain.generate.answer import Answerer
from quatrain.text.chat import CONTEXT_SEPARATOR, user_content
from quatrain.text.conversation import Conversation

MODEL = ["model.preset=demo", "model.vocab_size=4096", "model.n_heads=4", "model.d_k=64",
         "model.rope_theta=10000.0"]  # fmt: skip
SHARE_OF_TEXT, SHARE_OF_EXAMS = 0.47, 0.2
"""Of the whole time; fine-tuning has the rest."""
SHORTEST, LONGEST, MOST_PASSAGES = 80, 480, 40_000
"""Characters of a passage, and how many of them there are."""
CONSENSUS = {"candidates": 96, "temperature": 1.0, "batch_size": 4}
"""Drawn as the model gives them: what they agree on is the best expectation under the model."""
CHOSEN_BY, SEED_OF_CHOICE = 0.03, HOLDOUT_SEED + 1
"""The part of the training questions by whose loss the best checkpoint is chosen: answers are
agreed on by how likely they are, and the likeliest one's F1 says little of that."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    started, whole = time.monotonic(), 60 * options.minutes
    home = options.run_dir
    files = write_files(home, options.text.split(","), options.questions.split(","))
    train("pretrain", "french-text", home / "text", files["text"],
          [*MODEL, "train.learning_rate=2e-3"], SHARE_OF_TEXT * whole)  # fmt: skip
    left = (1 - SHARE_OF_EXAMS) * whole - (time.monotonic() - started)
    train("sft", "openquizz", home / "sft", files["train"],
          [f"data.eval={files['choice']}", f"model.init={home / 'text'}",
           "train.learning_rate=5e-4", "train.weight_decay=0.1", "evaluate.questions=0"],
          left)  # fmt: skip
    exam = load_records([str(files["exam"])], DataConfig()).conversations
    runs = [home / stage for stage in ("text", "sft")]
    losses = {one.name: answer_loss(one, exam) for one in runs}
    print(json.dumps({
        "losses": losses,
        "loss_falls_percent": {name: 100 * (1 - losses["sft"] / loss)
                               for name, loss in losses.items()},
        "greedy": scores(home / "sft", exam, {}),
        "consensus": scores(home / "sft", exam, CONSENSUS),
        "minutes": (time.monotonic() - started) / 60,
        "steps": {one: last_row(home / one) for one in ("text", "sft")},
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "threads": torch.get_num_threads(), "platform": platform.platform()},
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False,
                                 capture_output=True, text=True).stdout.strip(),
    }, ensure_ascii=False, indent=2))  # fmt: skip


def train(verb: str, recipe: str, run: Path, data: Path, more: list[str], seconds: float) -> None:
    words = [verb, recipe, f"run_dir={run}", f"data.train={data}", "data.block_size=512",
             "train.batch_size=4", f"train.budget={seconds:.0f}s", "data.holdout=0",
             *more]  # fmt: skip
    subprocess.run([sys.executable, "-m", "quatrain.cli.main", *words], check=True)


# The files: each row is made once, from its own text alone, so that they are always the same.


def write_files(home: Path, text: list[str], questions: list[str]) -> dict[str, Path]:
    """Hold questions out, then write the text, the questions made of it, and the real ones."""
    records = load_records(questions, DataConfig())
    rest, held = holdout(records, 0.1, HOLDOUT_SEED)
    kept, choice = holdout(rest, CHOSEN_BY, SEED_OF_CHOICE)
    lines = [line for file in text for line in Path(file).read_text(encoding="utf-8").splitlines()]
    rows: dict[str, Iterable[Row]] = {
        "text": map(said_again, deal(lines)),
        "train": real_questions(kept.conversations),
        "choice": map(as_row, choice.conversations),
        "exam": map(as_row, held.conversations),
    }
    home.mkdir(parents=True, exist_ok=True)
    paths = {name: home / f"{name}.jsonl" for name in rows}
    for name, some in rows.items():
        said = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        paths[name].write_text(said, encoding="utf-8")
    return paths


def deal(lines: list[str]) -> list[str]:
    """Deal lines into passages of all lengths, in mixed order."""
    draw, found, passage, enough = random.Random(0), [], "", SHORTEST
    for line in lines:
        passage = f"{passage}\n{line.strip()}".strip()
        if len(passage) >= enough:
            found.append(passage[:LONGEST].strip())
            passage, enough = "", int(SHORTEST * (LONGEST / SHORTEST) ** draw.random())
    draw.shuffle(found)
    return found[:MOST_PASSAGES]


def said_again(passage: str) -> Row:
    """Give a passage followed by its own sentences in another order, as a document."""
    again = [one for one in re.split(r"(?<=[.!?])\s+", passage) if len(one) > 8]
    random.Random(passage).shuffle(again)
    return {"text": "\n\n".join([passage, *again])}


def asked(question: str, *answers: str) -> Row:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answers[0]}]
    return {"messages": turns, "answers": list(answers)}


def as_row(one: Conversation) -> Row:
    return asked(one.messages[0].content, *one.answers)


def real_questions(kept: list[Conversation]) -> Iterator[Row]:
    """Give the training questions as they are, and with what else the file says of them."""
    for one in kept:
        yield as_row(one)
        question, answer = one.messages[0].content, one.answers[0]
        choices, note = one.fields.get("choices") or [], str(one.fields.get("note") or "")
        if answer in choices:
            yield asked(user_content(question, ", ".join(choices)), answer)
        if answer.lower() in note.lower():
            yield asked(user_content(question, note), answer)


def answer_loss(run: Path, exam: list[Conversation]) -> float:
    loss: float = examine(Answerer(run), exam, GenerateConfig(max_new_tokens=1))["loss"]
    return loss


def scores(run: Path, exam: list[Conversation], drawn: dict[str, Any]) -> dict[str, Any]:
    """Score all questions, those on a context and those without, beside the best constants."""
    graded = grade(Answerer(run), exam, GenerateConfig(max_new_tokens=32, **drawn))
    kinds = {"all": graded, "context": [], "quiz": []}
    for one in graded:
        kinds["context" if CONTEXT_SEPARATOR in one.question else "quiz"].append(one)
    found = {}
    for kind, some in kinds.items():
        constant, score = best_constant_answer([one.conversation.answers for one in some])
        copied = sum(one.answer in one.question for one in some) if kind == "context" else None
        found[kind] = asdict(total_score(some)) | {
            "constant": constant, "constant_f1": score.f1, "copied": copied}  # fmt: skip
    return found


def last_row(run: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "loss" in row)
    return {name: last[name] for name in ("step", "tokens", "loss")}


if __name__ == "__main__":
    main()
