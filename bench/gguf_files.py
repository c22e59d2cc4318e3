"""A MODEL as GGUF in real llama.cpp: token ids, greedy tokens, log-probabilities.

    python bench/gguf_files.py MODEL --text FILE [--lines 10000]

MODEL is written as f32, f16 and q8_0. On lines of FILE the token ids are compared; on twenty
questions the next tokens (llama.cpp's and ours given the same ids), their log-probabilities, and
those of the five likeliest first tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import unicodedata
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from llamacpp import LlamaCpp
from quatrain.hub.check import float_model
from quatrain.hub.gguf_write import write_gguf
from quatrain.hub.open import open_source
from quatrain.text.conversation import Message

QUESTIONS = [f"Quel est le produit de {a} et {b} ?" for a, b in ((6, 2), (7, 8), (9, 3), (4, 4))]
QUESTIONS += [f"Quel est le pluriel de « {word} » ?" for word in ("cheval", "nez", "bijou", "œil")]
QUESTIONS += [f"Conjugue « {verb} » au présent avec « nous »." for verb in ("finir", "aller")]
QUESTIONS += [f"Quelle est la capitale de {place} ?" for place in ("la France", "l'Italie", "Cuba")]
QUESTIONS += ["Quel jour vient après lundi ?", "Combien font 12 + 30 ?", "Qui es-tu ?",
              "Où est né Victor Hugo ?", "Écris « été » en majuscules.", "What is the capital of "
              "Spain?", "Combien de mois compte une année ?"]  # fmt: skip
NEW_TOKENS = 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=10_000)
    options = parser.parse_args()
    source = open_source(options.model)
    model = float_model(source)
    prompts = [source.chat.encode_prompt([Message("user", question)], source.tokenizer)
               for question in QUESTIONS]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for kind in ("f32", "f16", "q8_0"):
            path = Path(temporary) / f"{kind}.gguf"
            write_gguf(source, path, kind)
            llama = LlamaCpp(path)
            equal, compared, worst, worst_of_five = 0, 0, 0.0, 0.0
            for prompt in prompts:
                ids, judged = greedy(model, prompt, source.chat.stop_ids(source.tokenizer))
                for number, (expected, log_probabilities) in enumerate(
                    zip(ids, judged, strict=True)
                ):
                    said = llama.next_token(prompt + ids[:number], top=5)
                    if said is None:
                        continue
                    compared += 1
                    equal += said["id"] == expected
                    worst = max(worst, abs(said["logprob"] - log_probabilities[said["id"]]))
                    for one in said["top_logprobs"] if number == 0 else []:
                        off = abs(one["logprob"] - log_probabilities[one["id"]])
                        worst_of_five = max(worst_of_five, off)
            print(f"{kind}: {path.stat().st_size:,} bytes; {equal} of {compared} greedy tokens on "
                  f"{len(prompts)} prompts equal; their log-probabilities differ by {worst:.4f} at "
                  f"most, those of the five likeliest first tokens by {worst_of_five:.4f}",
                  flush=True)  # fmt: skip
        read = options.text.read_text(encoding="utf-8").splitlines()
        spread = read[:: max(1, len(read) // options.lines)][: options.lines]
        lines = [unicodedata.normalize("NFC", line) for line in spread]
        ours, theirs = source.tokenizer.encode_batch(lines), llama.tokenize(lines)
        different = sum(a != b for a, b in zip(ours, theirs, strict=True))
        print(f"{different} of {len(lines)} lines have other token ids")


@torch.no_grad()
def greedy(
    model: torch.nn.Module, prompt: list[int], stop_ids: frozenset[int]
) -> tuple[list[int], list[list[float]]]:
    """Continue by the likeliest token to the end; give also all log-probabilities at each place."""
    ids: list[int] = []
    judged: list[list[float]] = []
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([prompt + ids]))[0, -1]
        judged.append(logits.log_softmax(-1).tolist())
        ids.append(int(logits.argmax()))
        if ids[-1] in stop_ids:
            break
    return ids, judged


if __name__ == "__main__":
    main()
