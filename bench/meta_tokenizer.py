"""Open Meta's tokenizer.model and compare ids with tiktoken, line by line.

    python bench/meta_tokenizer.py TOKENIZER.MODEL FILE [FILE...] --lines 10000

The file of ranks is yours: it is under Meta's licence and is not shipped. Besides lines of the
files, random joins and repetitions of tokens are compared. Exits with 1 when any ids differ.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import tiktoken

from quatrain.text.tiktoken_file import FAMILIES, read_ranks
from quatrain.text.tokenizer import Tokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("files", nargs="+", type=Path, help="UTF-8 text, one sample a line")
    parser.add_argument("--lines", type=int, default=10_000, help="how many lines to compare")
    options = parser.parse_args()
    start = time.perf_counter()
    ours = Tokenizer.load(options.tokenizer)
    print(f"opened in {time.perf_counter() - start:.1f} s: {ours.vocab_size} tokens, "
          f"{len(ours.control_ids)} of them control tokens")  # fmt: skip
    tokens = read_ranks(options.tokenizer)
    family = FAMILIES[len(tokens)]
    theirs = tiktoken.Encoding(
        "meta", pat_str=family.pattern, special_tokens={},
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
    )  # fmt: skip
    lines = [line for path in options.files for line in path.read_text("utf-8").splitlines()]
    step = max(1, len(lines) // options.lines)
    samples = {"lines": lines[::step][: options.lines], **drawn(tokens, options.lines)}
    wrong = sum(differences(name, texts, ours, theirs) for name, texts in samples.items())
    return 1 if wrong else 0


def drawn(tokens: list[bytes], count: int) -> dict[str, list[str]]:
    """Make texts that lines of prose lack: tokens in any order, and one token many times."""
    draw = random.Random(0)
    words = [token.decode("utf-8", "ignore") for token in tokens]
    return {
        "joined tokens": ["".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(count)],
        "repeated tokens": [draw.choice(words) * draw.randint(2, 60) for _ in range(count)],
    }


def differences(name: str, texts: list[str], ours: Tokenizer, theirs: tiktoken.Encoding) -> int:
    """Print how many texts have other ids, and how many do not come back from theirs."""
    ids = ours.encode_batch(texts)
    wrong = sum(a != b for a, b in zip(ids, theirs.encode_ordinary_batch(texts), strict=True))
    lost = sum(ours.decode(a) != text for a, text in zip(ids, texts, strict=True))
    density = sum(map(len, texts)) / max(1, sum(map(len, ids)))
    print(f"{name}: {wrong} of {len(texts)} with other ids, {lost} not given back, "
          f"{density:.2f} characters a token")  # fmt: skip
    return wrong + lost


if __name__ == "__main__":
    sys.exit(main())
