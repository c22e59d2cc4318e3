"""Real French text and questions, thirty minutes on two cores: does fine-tuning teach answers?

    python bench/real_french.py RUN_DIR --text FILE,FILE --questions FILE,FILE [--minutes 30]

A tenth of the questions is held out first. Then four runs, each starting from the one before:
pretraining on the text; questions made of short passages of it; questions made of longer ones; and
fine-tuning on the real questions. At the end, on all held-out questions: the loss of the gold
answers before and after fine-tuning, and F1 with that of the best constant answer. The whole,
preparation and evaluations included, fits the minutes.

Answering from a context takes copying and finding, which a model this small does not learn from
text by itself in that time (docs/LOG.md). What teaches them here:
    tied embeddings            a token that is seen can be said at once, whichever it is
    echoes                     say these words again
    gaps                       a few words of a passage without some between them; say those
                               (recurring span selection: Ram et al. 2021, arXiv:2101.00438)
    the questions' own texts   notes and choices of quiz questions, contexts: of the training part
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

MODEL = ["model.preset=demo", "model.vocab_size=6144", "model.n_heads=4", "model.d_k=64",
         "model.rope_theta=10000.0", "model.tie_word_embeddings=true"]  # fmt: skip
SHARES = {"text": 0.13, "short": 0.19, "long": 0.19}
"""Of the whole time; fine-tuning has the rest, but for the exams."""
SHARE_OF_EXAMS = 0.06
TEXT_PASSAGES, SHORT_PASSAGES, LONG_PASSAGES = 16_000, 14_000, 9_000
QUIZ_TIMES, TURNS = 3, 4
CONSENSUS = {"candidates": 16, "temperature": 0.8}
LITTLE = frozenset(
    "le la les l un une des de du d à au aux et en que qui qu ne pas se s ce c il elle on ils "
    "elles y a est par pour sur dans avec son sa ses ou où n ont sont était".split()
)
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
    train("pretrain", "french-text", home / "text", files["text"], 512, 4,
          [*MODEL, "train.learning_rate=3e-3"], SHARES["text"] * whole)  # fmt: skip
    for stage, before, block, rate in (("short", "text", 256, 3e-3), ("long", "short", 512, 2e-3)):
        train("sft", "openquizz", home / stage, files[stage], block, 4,
              [f"model.init={home / before}", f"train.learning_rate={rate}", "data.holdout=0.01",
               "evaluate.questions=100", "train.balance_loss_coef=0.01"],
              SHARES[stage] * whole)  # fmt: skip
    left = (1 - SHARE_OF_EXAMS) * whole - (time.monotonic() - started)
    train("sft", "openquizz", home / "sft", files["train"], 512, 4,
          [f"data.eval={files['exam']}", f"model.init={home / 'long'}",
           "train.learning_rate=1.5e-3", "train.weight_decay=0.1",
           "evaluate.questions=300"], left)  # fmt: skip
    exam = load_records([str(files["exam"])], DataConfig()).conversations
    runs = [home / stage for stage in ("text", "long", "sft")]
    losses = {one.name: answer_loss(one, exam) for one in runs}
    print(json.dumps({
        "losses": losses,
        "loss_falls_percent": {name: 100 * (1 - losses["sft"] / loss)
                               for name, loss in losses.items()},
        "greedy": scores(home / "sft", exam, {}),
        "consensus": scores(home / "sft", exam, CONSENSUS),
        "minutes": (time.monotonic() - started) / 60,
        "steps": {one: last_row(home / one) for one in ("text", "short", "long", "sft")},
        "machine": {"python": platform.python_version(), "torch": torch.__version__,
                    "threads": torch.get_num_threads(), "platform": platform.platform()},
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=False,
                                 capture_output=True, text=True).stdout.strip(),
    }, ensure_ascii=False, indent=2))  # fmt: skip


def train(
    verb: str, recipe: str, run: Path, data: Path, block: int, batch: int, more: list[str],
    seconds: float,
) -> None:  # fmt: skip
    words = [verb, recipe, f"run_dir={run}", f"data.train={data}", f"data.block_size={block}",
             f"train.batch_size={batch}", f"train.budget={seconds:.0f}s", "data.holdout=0",
             *more]  # fmt: skip
    subprocess.run([sys.executable, "-m", "quatrain.cli.main", *words], check=True)


# The files: each row is made once, from its own text alone, so that they are always the same.


def write_files(home: Path, text: list[str], questions: list[str]) -> dict[str, Path]:
    """Hold questions out, then write the text, the questions made of it, and the real ones."""
    records = load_records(questions, DataConfig())
    kept, held = (part.conversations for part in holdout(records, 0.1, HOLDOUT_SEED))
    lines = [line for file in text for line in Path(file).read_text(encoding="utf-8").splitlines()]
    own = sorted({own_text(one) for one in kept} - {""})
    rows: dict[str, Iterable[Row]] = {
        "text": map(said_again, [*deal(lines, 80, 480, TEXT_PASSAGES), *own]),
        "short": map(short_task, deal(lines, 40, 160, SHORT_PASSAGES)),
        "long": map(gap_task, [*deal(lines, 120, 700, LONG_PASSAGES), *own]),
        "train": real_questions(kept),
        "exam": (as_row(one) for one in held),
    }
    home.mkdir(parents=True, exist_ok=True)
    paths = {name: home / f"{name}.jsonl" for name in rows}
    for name, some in rows.items():
        said = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        paths[name].write_text(said, encoding="utf-8")
    return paths


def deal(lines: list[str], shortest: int, longest: int, most: int) -> list[str]:
    """Deal lines into passages of all lengths, in mixed order."""
    draw, found, passage, enough = random.Random(shortest), [], "", shortest
    for line in lines:
        passage = f"{passage}\n{line.strip()}".strip()
        if len(passage) >= enough:
            found.append(passage[:longest].strip())
            passage, enough = "", int(shortest * (longest / shortest) ** draw.random())
    draw.shuffle(found)
    return found[:most]


def own_text(one: Conversation) -> str:
    """Give what a training question says beyond question and answer: its context or its note."""
    _, _, context = one.messages[0].content.partition(CONTEXT_SEPARATOR)
    return context or str(one.fields.get("note") or "")


def said_again(passage: str) -> Row:
    """Give a passage followed by its own sentences in another order, as a document."""
    again = [one for one in re.split(r"(?<=[.!?])\s+", passage) if len(one) > 8]
    random.Random(passage).shuffle(again)
    return {"text": "\n\n".join([passage, *again])}


def short_task(passage: str) -> Row:
    """Ask for some words again, or for a gap."""
    draw = random.Random(passage)
    if draw.random() < 0.25:
        words = passage.split()[:20]
        draw.shuffle(words)
        return talk([(" ".join(words), " ".join(words))])
    return gap_task(passage)


def gap_task(passage: str) -> Row:
    """Ask several times about a passage; it stands behind the first question, as in an exam."""
    draw, words = random.Random(passage + "?"), passage.split()
    (first, answer), *others = (gap(words, draw) for _ in range(TURNS))
    return talk([(user_content(first, passage), answer), *others])


def gap(words: list[str], draw: random.Random) -> tuple[str, str]:
    """Leave one to five words out, names and numbers first; ask by those around.

    Half of the questions keep everything and show the gap; the others are made more like a real
    question: an interrogative, then most of the longer words around.
    """
    named = [at for at, word in enumerate(words) if at and (word[0].isupper() or word[0].isdigit())]
    start = draw.choice(named if named and draw.random() < 0.5 else range(len(words)))
    end = min(len(words), start + draw.choice([1, 1, 2, 2, 3, 4, 5]))
    answer = " ".join(words[start:end]).strip(",;:.!?«»—-()\"' ") or words[start]
    near = [*range(max(0, start - 7), start), *range(end, min(len(words), end + 7))]
    if draw.random() < 0.5:
        left, right = ([words[at] for at in near if (at < start) == before] for before in (1, 0))
        return " ".join([*left, "…", *right]), answer
    bare = [words[at].strip(",;:.!?«»—–-()\"'") for at in near]
    kept = [word for word in bare if word and word.lower() not in LITTLE and draw.random() < 0.8]
    return f"{interrogative(answer, draw)} {' '.join(kept)} ?", answer


def interrogative(answer: str, draw: random.Random) -> str:
    if answer[0].isdigit():
        return draw.choice(["Combien", "Quand", "En quelle année"])
    return draw.choice(["Qui", "Quel", "Où", "Quelle"] if answer[0].isupper() else ["Que", "Quoi"])


def talk(turns: list[tuple[str, str]], answers: tuple[str, ...] = ()) -> Row:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"messages": messages, "answers": list(answers) or [turns[-1][1]]}


def as_row(one: Conversation) -> Row:
    return talk([(one.messages[0].content, one.answers[0])], one.answers)


def real_questions(kept: list[Conversation]) -> Iterator[Row]:
    """Give the training questions: as they are, and with what else the file says of them."""
    on_contexts: dict[str, list[tuple[str, str]]] = {}
    for one in kept:
        question, _, context = one.messages[0].content.partition(CONTEXT_SEPARATOR)
        answer = one.answers[0]
        if context:
            on_contexts.setdefault(context, []).append((question, answer))
            continue
        yield from [as_row(one)] * QUIZ_TIMES
        yield talk([(user_content(question, ", ".join(one.fields["choices"])), answer)])
        if answer.lower() in own_text(one).lower():
            yield talk([(user_content(question, own_text(one)), answer)])
    for context, pairs in on_contexts.items():
        yield from about(context, pairs)


def about(context: str, pairs: list[tuple[str, str]]) -> Iterator[Row]:
    """Let each question on a context lead once; the next one and a gap follow."""
    for number, (question, answer) in enumerate(pairs):
        others = [pairs[(number + 1) % len(pairs)]] if len(pairs) > 1 else []
        made_up = gap(context.split(), random.Random(f"{number} {context}"))
        yield talk([(user_content(question, context), answer), *others, made_up])


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
