"""Preparing questions and answers: tokenise and pack, ours against TRL's packing=True, and growth.

    python bench/prepare.py [--records 100000] [--growth 300000,1000000] [--questions FILE]

Records are drawn by a seeded generator, French in form if not in sense, some sixty tokens each; or
they are those of a file of questions, repeated. Both sides read the same records from disk, use the
same tokenizer, pack into rows of 1024 and write what they made to disk. Ours reads, checks, encodes
(by tiktoken, where that gives the same ids) and packs as training does first; TRL's share is
load_dataset and SFTTrainer's constructor, on a model of one narrow layer, with as many processes as
there are threads. Growth says how ours takes more records: seconds and peak memory, and the
exponent b of seconds ~ records^b, 1 where linear.

TRL's processes are not in its memory, which is that of the one that asked for them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from paired import Conditions, Found, add_arguments, alternate, figures, medians, ratio
from saving import finish
from trl_side import has_trl, trainer_of

from quatrain.config import Config, DataConfig
from quatrain.data.prepare import load_and_prepare_french_data
from quatrain.data.records import load_records
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import Tokenizer, train_bpe
from quatrain.train.calibrate import anonymous

WORDS = (
    "le la une des chaque ville rivière montagne maison enfant question réponse histoire pays "
    "grande petite ancienne proche lointain rouge bleu traverse regarde connaît trouve écrit "
    "pourquoi comment lorsque puisque pendant après avant toujours souvent jamais ensemble déjà "
    "forêt école hiver été automne lumière œuvre cœur château église marché royaume siècle"
).split()
SAMPLE = 5000
"""Records that the tokenizer learns from."""


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options)))
        return
    growth = [int(number) for number in options.growth.split(",") if number]
    pair = [name for name in options.sides.split(",") if name != "trl" or has_trl()]
    conditions = Conditions.of(options)
    with tempfile.TemporaryDirectory() as temporary:
        write_data(Path(temporary), [options.records, *growth], options)
        more = ("--directory", temporary)
        names = [f"{side}:{options.records}" for side in pair]
        found = alternate(__file__, names, options.repeats, *more, conditions=conditions)
        larger = [f"ours:{number}" for number in growth]
        found |= alternate(__file__, larger, 1, *more, conditions=conditions)
    result = summed_up(found, [options.records, *growth])
    finish("prepare", "prepare", options, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--growth", default="300000,1000000")
    parser.add_argument("--questions", help="a file whose records are repeated")
    parser.add_argument("--sides", default="ours,trl")
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    add_arguments(parser)
    options = parser.parse_args()
    if options.smoke:
        options.records, options.growth, options.repeats = 200, "", 1
    return options


def write_data(directory: Path, sizes: list[int], options: argparse.Namespace) -> None:
    """Write the records in both sides' shapes, and the tokenizer that both use."""
    num_learnt = min(SAMPLE, options.records)
    sample = list(islice(records_of(options.questions), num_learnt))
    tokenizer = train_bpe((text for pair in sample for text in pair), 8192)
    tokenizer.save(directory / "tokenizer")
    LLAMA4.save(directory / "tokenizer")
    for size in sizes:
        theirs = size == options.records
        with (
            (directory / f"ours-{size}.jsonl").open("w", encoding="utf-8") as ours_file,
            (directory / f"trl-{size}.jsonl").open("w", encoding="utf-8") as their_file,
        ):
            for question, answer in islice(records_of(options.questions), size):
                asked = {"role": "user", "content": question}
                said = {"role": "assistant", "content": answer}
                ours_file.write(line({"messages": [asked, said]}))
                if theirs:
                    their_file.write(line({"prompt": [asked], "completion": [said]}))


def line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def records_of(questions: str | None) -> Iterator[tuple[str, str]]:
    """Yield questions and answers without end: of a file, over and over, or drawn by a seed."""
    if questions:
        records = load_records([questions], DataConfig()).conversations
        yield from cycle((one.messages[0].content, one.messages[-1].content) for one in records)
    draw = random.Random(0)
    while True:
        yield sentence(draw, 6, 30, " ?"), sentence(draw, 3, 60, ".")


def sentence(draw: random.Random, least: int, most: int, end: str) -> str:
    """Draw words, and now and then a number, so that texts differ."""
    words = draw.choices(WORDS, k=draw.randint(least, most))
    words[draw.randrange(len(words))] = str(draw.randrange(10_000))
    return " ".join(words).capitalize() + end


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare once, and time it."""
    side, number = options.child.split(":")
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    file = options.directory / f"{side}-{number}.jsonl"
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        return (with_ours if side == "ours" else with_trl)(file, Path(work), options)


def with_ours(file: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    tokenizer = Tokenizer.load(options.directory / "tokenizer")
    config = Config.model_validate(
        {"run_dir": work, "data": {"train": [str(file)], "block_size": options.block_size}}
    )
    with followed() as risen:
        begun = time.perf_counter()
        _, prepared = load_and_prepare_french_data(config, tokenizer, LLAMA4, work / "data")
        seconds = time.perf_counter() - begun
    rows = prepared.train
    used = rows.num_tokens / (len(rows) * rows.block_size)
    return {"seconds": [seconds], "peak_mb": round(max(risen) / 10**6), "tokens": rows.num_tokens,
            "rows": len(rows), "positions_used": used}  # fmt: skip


def with_trl(file: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from sides import shape, theirs

    tokenizer = Tokenizer.load(options.directory / "tokenizer")
    config = shape(
        n_layers=1, d_model=16, n_heads=1, n_kv_heads=1, num_local_experts=1,
        intermediate_size_expert=16, vocab_size=tokenizer.vocab_size,
        pad_token_id=LLAMA4.pad_id(tokenizer),
    )  # fmt: skip
    model = theirs(config, torch.float32, "cpu")
    import datasets  # noqa: F401  so that imports are not in the time
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    with followed() as risen:
        begun = time.perf_counter()
        trainer = trainer_of(
            model, options.directory / "tokenizer", file, work, 1, packing=True,
            max_length=options.block_size, dataset_num_proc=options.threads,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
    rows = trainer.train_dataset
    tokens = sum(map(len, rows["input_ids"]))
    used = tokens / (len(rows) * options.block_size)
    return {"seconds": [seconds], "peak_mb": round(max(risen) / 10**6), "tokens": tokens,
            "rows": len(rows), "positions_used": used}  # fmt: skip


@contextmanager
def followed() -> Iterator[list[int]]:
    """Give how far this process's anonymous memory has risen, in bytes, every five milliseconds.

    Not paired.Watch, whose mark counts files too that are mapped and let go, as rows are here.
    """
    before, risen, done = anonymous() or 0, [0], threading.Event()

    def follow() -> None:
        while not done.wait(0.005):
            risen.append((anonymous() or 0) - before)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield risen
    finally:
        done.set()
        thread.join()


def summed_up(found: Found, sizes: list[int]) -> dict[str, Any]:
    """Compare with TRL at the first size, and ours with itself over the sizes."""
    result: dict[str, Any] = {}
    for name, runs in found.items():
        kept = {key: runs[0][key] for key in ("rows", "positions_used", "tokens")}
        result[name] = figures(runs) | kept
    mine, peer = (f"{side}:{sizes[0]}" for side in ("ours", "trl"))
    if peer in found:
        result["times_as_fast"] = ratio(medians(found[peer]), medians(found[mine]))
    if len(sizes) > 1:
        times = [result[f"ours:{number}"]["seconds"] for number in (sizes[0], sizes[-1])]
        grown = math.log(times[1] / times[0]) / math.log(sizes[-1] / sizes[0])
        result["seconds_grow_as_records_to_the"] = grown
    return result


if __name__ == "__main__":
    main()
