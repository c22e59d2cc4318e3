"""Adapters trained on a GGUF file, in real llama.cpp on the same file: the answers of both sides.

    python bench/gguf_base.py RUN [--questions 100] [--tokens 24] [--floats]

RUN has adapters on a GGUF file. They are converted, and both sides answer the run's held-out
questions greedily. Where two answers part, the gap is that between the log-probabilities that we
give to the two tokens. llama.cpp rounds what it multiplies by stored blocks to eight bits; with
--floats it gets the same weights in float32, with which it rounds nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from llamacpp import LlamaCpp
from quatrain.config import GenerateConfig
from quatrain.generate.answer import Answerer
from quatrain.generate.engine import complete
from quatrain.hub.convert import Conversion, convert
from quatrain.model.locate import base_of, locate
from quatrain.text.conversation import Message

CONTEXT = 2048
ALONE = 10
"""Questions that the base answers without its adapters, too."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--floats", action="store_true")
    options = parser.parse_args()
    answerer = Answerer(options.run)
    prompts = held_out(options.run, answerer)[: options.questions]
    settings = GenerateConfig(max_new_tokens=options.tokens)
    stops = answerer.chat.stop_ids(answerer.tokenizer)
    ours = [one.ids for one in complete(answerer.model, prompts, settings, stops)]
    with tempfile.TemporaryDirectory() as temporary:
        made, base = Path(temporary) / "adapter", base_of(locate(options.run))
        done = convert(options.run, made, Conversion(to="gguf"))
        assert done.agreement is not None
        if options.floats:
            whole = Path(temporary) / "floats"
            convert(base, whole, Conversion(to="gguf", dtype="f32", check=False))
            base = whole / "model-f32.gguf"
        alone, adapted = LlamaCpp(base, CONTEXT), LlamaCpp(base, CONTEXT, made / "adapter-f32.gguf")
        theirs = [answer(adapted, prompt, options.tokens) for prompt in prompts]
        moved = sum(answer(alone, prompt, options.tokens) != text
                    for prompt, text in zip(prompts[:ALONE], theirs, strict=False))  # fmt: skip
        result = compared(answerer, adapted, prompts, ours, theirs, options.tokens)
    figures = {
        "questions": len(prompts), "equal": len(prompts) - len(result), "gaps": result,
        f"of_{ALONE}_changed_by_the_adapter": moved,
        "largest_difference_after_conversion": done.agreement.max_logit_difference,
    }  # fmt: skip
    print(json.dumps(figures))


def held_out(run: Path, answerer: Answerer) -> list[list[int]]:
    """Encode the run's held-out questions as prompts."""
    lines = (run / "data" / "eval" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["messages"][:-1] for line in lines]
    return [answerer.chat.encode_prompt([Message(one["role"], one["content"]) for one in messages],
                                        answerer.tokenizer) for messages in asked]  # fmt: skip


def answer(llama: LlamaCpp, prompt: list[int], tokens: int) -> str:
    """Give llama.cpp's greedy answer."""
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "cache_prompt": False}
    said: Any = llama.server.handle_completions(asked)
    text: str = said["choices"][0]["text"]
    return text


def compared(
    answerer: Answerer,
    llama: LlamaCpp,
    prompts: list[list[int]],
    ours: list[list[int]],
    theirs: list[str],
    tokens: int,
) -> list[float | None]:
    """List for each answer that differs the gap where it first does; None where it is not told."""
    gaps = []
    for prompt, ids, text in zip(prompts, ours, theirs, strict=True):
        if answerer.tokenizer.decode(ids).strip() != text.strip():
            gaps.append(gap_of(answerer, llama, prompt, ids, tokens))
    return gaps


@torch.no_grad()
def gap_of(
    answerer: Answerer, llama: LlamaCpp, prompt: list[int], ids: list[int], tokens: int
) -> float | None:
    """Compare the two tokens by which answers part; llama.cpp is given our tokens before them."""
    (stop, *_) = answerer.chat.stop_ids(answerer.tokenizer)
    for number, token in enumerate([*ids, stop] if len(ids) < tokens else ids):
        said = llama.next_token(prompt + ids[:number])
        if said is not None and said["id"] == token:
            continue
        logits = answerer.model(torch.tensor([prompt + ids[:number]]))[0, -1]
        if said is None and token == stop:
            continue
        other = stop if said is None else said["id"]
        return round(float(logits[token] - logits[other]), 4)
    return None


if __name__ == "__main__":
    main()
