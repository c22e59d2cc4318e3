"""Seconds to answer an exam: ours, an older tree of ours, and transformers in padded batches of 8.

    python bench/evaluating.py MODEL QUESTIONS [--number 150] [--sides ours plain peer]
        [--older TREE] [--new 48] [--device cpu] [--dtype bf16]

MODEL is a directory in Llama 4's form, QUESTIONS any file of questions. Sides are alternated, each
in a process of its own: `ours`; `plain`, which is ours without drafts from the prompt; `older`, the
package of TREE/src; `peer`, transformers' generate, prompts of like length together, which answers
the first --of-peer questions only, since it takes so long. All answer greedily, with equally many
new tokens at most.

A side says how many questions and tokens it answered a second, F1, the highest anonymous memory
above that of the opened model, and a hash of all answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

if "--child" in sys.argv and sys.argv[sys.argv.index("--child") + 1] == "older":
    sys.path.insert(0, str(Path(sys.argv[sys.argv.index("--older") + 1]) / "src"))

import torch

KEYS = ("questions_s", "tokens_s", "f1", "exact_match", "memory_mb", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("questions")
    parser.add_argument("--number", type=int, default=150)
    parser.add_argument("--of-peer", type=int, default=24)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--shortest", type=int, default=0, help="words of the gold answer")
    parser.add_argument("--batch", type=int, default=128, help="answers side by side, ours")
    parser.add_argument("--older", type=Path)
    parser.add_argument("--sides", nargs="*", default=["ours", "peer"])
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        print(json.dumps(peer(options) if options.child == "peer" else ours(options)))
        return
    from paired import alternate

    found = alternate(__file__, options.sides, options.repeats)
    table = {name: {**{key: round(statistics.median(run[key] for run in runs), 3) for key in KEYS},
                    "answers": sorted({run["answers"] for run in runs})}
             for name, runs in found.items()}  # fmt: skip
    print(json.dumps(table, indent=1))


def conversations(options: argparse.Namespace) -> list[Any]:
    """Read the questions; take them from all over the file."""
    from quatrain.config import DataConfig
    from quatrain.data.records import load_records

    read = load_records([options.questions], DataConfig(train=[options.questions]))
    records = [
        one for one in read if one.answers and len(one.answers[0].split()) >= options.shortest
    ]
    every = max(1, len(records) // options.number)
    return records[::every][: options.number]


def scored(asked: list[Any], answers: list[str], seconds: float, tokens: int) -> dict[str, Any]:
    from quatrain.evaluate.score import exact_match, f1

    pairs = [(answer, list(one.answers)) for one, answer in zip(asked, answers, strict=True)]
    text = json.dumps([str(answer) for answer in answers], ensure_ascii=False)
    return {
        "questions_s": len(asked) / seconds, "tokens_s": tokens / seconds, "seconds": seconds,
        "f1": 100 * statistics.mean(f1(*pair) for pair in pairs),
        "exact_match": 100 * statistics.mean(exact_match(*pair) for pair in pairs),
        "answers": hashlib.sha256(text.encode()).hexdigest()[:12],
    }  # fmt: skip


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from quatrain.config import GenerateConfig
    from quatrain.generate.answer import Answerer

    asked = conversations(options)
    answerer = Answerer(options.model)
    if options.dtype == "fp32":
        answerer.model.float()
    if options.child == "plain":
        from quatrain.generate.lookup import Lookup

        Lookup.draft = lambda *_: []  # type: ignore[method-assign]
    settings = GenerateConfig(max_new_tokens=options.new, batch_size=options.batch)
    prompts = [one.messages[:-1] for one in asked]
    answerer.replies(prompts[:1], settings)  # compiles, the first time
    with Watched() as watched:
        began = time.perf_counter()
        answers = answerer.replies(prompts, settings)
        seconds = time.perf_counter() - began
    tokens = sum(answer.completion_tokens for answer in answers)
    return {**scored(asked, list(answers), seconds, tokens), "memory_mb": watched.above}


def peer(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from quatrain.generate.answer import Answerer

    asked = conversations(options)
    asked = asked[:: max(1, len(asked) // options.of_peer)][: options.of_peer]
    answerer = Answerer(options.model)
    tokenizer, stops = answerer.tokenizer, sorted(answerer.chat.stop_ids(answerer.tokenizer))
    prompts = [answerer.chat.encode_prompt(list(one.messages[:-1]), tokenizer) for one in asked]
    dtype = torch.float32 if options.dtype == "fp32" else torch.bfloat16
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    answers, tokens = [""] * len(asked), 0
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))

    def generate(block: list[int], new: int) -> torch.Tensor:
        longest = max(len(prompts[i]) for i in block)
        pads = [longest - len(prompts[i]) for i in block]
        ids = torch.tensor([[0] * pad + prompts[i] for pad, i in zip(pads, block, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])
        with torch.inference_mode():
            said = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False,
                                  eos_token_id=stops, pad_token_id=0)  # fmt: skip
        return said[:, longest:]

    generate(order[:1], 4)
    with Watched() as watched:
        began = time.perf_counter()
        for start in range(0, len(order), 8):
            block = order[start : start + 8]
            for i, row in zip(block, generate(block, options.new).tolist(), strict=True):
                end = next((n for n, token in enumerate(row) if token in stops), len(row))
                answers[i] = tokenizer.decode(row[:end])
                tokens += min(end + 1, len(row))
        seconds = time.perf_counter() - began
    return {**scored(asked, answers, seconds, tokens), "memory_mb": watched.above}


class Watched:
    """Notes the highest anonymous memory while a body runs, above what there was before, in MB."""

    above = 0.0

    def __enter__(self) -> Watched:
        self.before, self.ended = anonymous(), threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.ended.wait(0.05):
            self.above = max(self.above, anonymous() - self.before)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()


def anonymous() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1000
    return 0.0


if __name__ == "__main__":
    main()
