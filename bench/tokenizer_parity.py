"""Train a BPE on text files and compare ids with transformers, line by line and chat by chat.

    python bench/tokenizer_parity.py FILE [FILE...] --lines 10000

Exits with 1 when any line or chat differs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Conversation, Message, Role
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe


def main() -> int:
    options = parse()
    lines = [line for path in options.files for line in path.read_text("utf-8").splitlines()]
    lines = [line for line in lines if line.strip()]
    step = max(1, len(lines) // options.lines)
    sample = lines[::step][: options.lines]  # spread over the files, not their heads alone
    print(f"{len(lines)} lines, {len(sample)} compared; {os.cpu_count()} cores, "
          f"Python {platform.python_version()}")  # fmt: skip
    differences = 0
    for elisions in (False, True):
        start = time.perf_counter()
        tokenizer = train_bpe(lines, options.vocab_size, elisions=elisions)
        print(f"\n{tokenizer.split}: trained in {time.perf_counter() - start:.1f} s")
        differences += compare(tokenizer, sample)
    print("\nchar:")
    differences += compare(SimpleCharTokenizer(lines), sample)
    return 1 if differences else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+", type=Path, help="UTF-8 text, one sample a line")
    parser.add_argument("--lines", type=int, default=10_000, help="how many lines to compare")
    parser.add_argument("--vocab-size", type=int, default=8192)
    return parser.parse_args()


def compare(tokenizer: Tokenizer, lines: list[str]) -> int:
    """Print figures for one tokenizer; give the number of differences."""
    theirs = opened(tokenizer)
    start = time.perf_counter()
    ours = tokenizer.encode_batch(lines)
    seconds = time.perf_counter() - start
    ids = theirs(lines, add_special_tokens=False)["input_ids"]
    wrong_lines = sum(1 for a, b in zip(ours, ids, strict=True) if a != b)
    wrong_text = sum(tokenizer.decode(a) != b for a, b in zip(ours, lines, strict=True))
    wrong_chats, num_chats = compare_chats(tokenizer, theirs, lines)
    num_characters, num_ids = sum(map(len, lines)), sum(map(len, ours))
    print(f"  vocabulary             {tokenizer.vocab_size}")
    print(f"  characters a token     {num_characters / num_ids:.2f}")
    print(f"  lines a second         {len(lines) / seconds:.0f}")
    print(f"  lines with other ids   {wrong_lines} of {len(lines)}")
    print(f"  lines not given back   {wrong_text} of {len(lines)} (not in NFC, if any)")
    print(f"  chats with other ids   {wrong_chats} of {num_chats}")
    return wrong_lines + wrong_chats


def opened(tokenizer: Tokenizer) -> Any:
    """Save, and open with transformers as a stranger would."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save(Path(directory))
        LLAMA4.save(Path(directory))
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def compare_chats(tokenizer: Tokenizer, theirs: Any, lines: list[str]) -> tuple[int, int]:
    """Render every three lines as system, user and assistant; count those whose ids differ."""
    threes = zip(lines[0::3], lines[1::3], lines[2::3], strict=False)
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    chats = [
        tuple(Message(role, text) for role, text in zip(roles, three, strict=True))
        for three in threes
    ]
    conversations = [Conversation(messages, ("",), "", "") for messages in chats]
    encoded = LLAMA4.encode_conversations(conversations, tokenizer)
    rendered = [
        theirs.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            tokenize=True,
            return_dict=False,
        )
        for messages in chats
    ]
    wrong = sum(1 for ours, ids in zip(encoded, rendered, strict=True) if ours.ids != ids)
    return wrong, len(chats)


if __name__ == "__main__":
    sys.exit(main())
