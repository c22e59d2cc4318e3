"""Answer tokens trained a second on real questions: packed rows against the other ways.

    python bench/answer_tokens.py openquizz_fr.jsonl piaf_train.json [--layers 2] [--sides ...]

    packed     ours, documents packed into rows of 1024, four rows a step
    padded     ours, one conversation a row, eight a step, cut to the longest
    trl        TRL's default: eight a step, padded to the longest
    trl-packed TRL's packing=True, rows of 1024, four a step
    original   the notebook that this project began as (original.py), eight a step

All have the same weights, tokenizer and float32. The three that pad see the same conversations in
the same order: one at each of so many even quantiles of length, shuffled, so that few steps stand
for the file. The packed sides take as many rows as their steps need from a larger such sample. An
answer token is one that an answer's loss predicts; it counts once, however often it is read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from original import ROW, make_original, windows
from original import step as original_step
from paired import WARM_UP, Conditions, Found, Watch, add_arguments, alternate, ratio, timed
from saving import finish
from sides import as_in_a_run, ours, shape, theirs
from step import CLIP, RATE
from trl_side import has_trl, timed_training, trainer_of

from quatrain.config import DataConfig, TrainConfig
from quatrain.data.batches import collate
from quatrain.data.records import load_records
from quatrain.data.rows import Block, Rows, write_rows
from quatrain.evaluate.loss import count_targets
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import Tokenizer, train_bpe
from quatrain.train.loop import accumulate
from quatrain.train.optim import gradient_norm, make_optimizer, set_learning_rate, update

SIDES = ("packed", "padded", "trl", "trl-packed", "original")
ROWS, CONVERSATIONS = 4, 8
"""Of a step: rows that are packed, and conversations that are padded."""


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options)))
        return
    names = [name for name in options.sides.split(",") if not name.startswith("trl") or has_trl()]
    conditions = Conditions.of(options)
    with tempfile.TemporaryDirectory() as temporary:
        about = write_data(Path(temporary), options)
        more = ("--directory", temporary)
        found = alternate(__file__, names, options.repeats, *more, conditions=conditions)
    result = summed_up(found) | {"data": about}
    finish("answer-tokens", "answer-tokens", options, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    add_arguments(parser)
    options = parser.parse_args()
    if options.dtype != "fp32":
        parser.error("answer tokens are measured in fp32")
    if options.smoke:
        options.layers, options.steps, options.repeats = 1, 2, 1
        options.vocab, options.width, options.experts = 400, 64, 4
    return options


def write_data(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the tokenizer and what each side reads; say what it is."""
    records = load_records(options.files, DataConfig(block_size=options.block_size))
    texts = (m.content for one in records.conversations for m in one.messages)
    tokenizer = train_bpe(texts, options.vocab)
    tokenizer.save(directory / "tokenizer")
    LLAMA4.save(directory / "tokenizer")
    encoded = LLAMA4.encode_conversations(records.conversations, tokenizer)
    fitting = [i for i, one in enumerate(encoded) if len(one.ids) <= options.block_size]
    lengths = [len(encoded[i].ids) for i in fitting]
    steps = WARM_UP + options.steps
    padded = even_sample(fitting, lengths, steps * CONVERSATIONS)
    needed = steps * ROWS * options.block_size / statistics.mean(lengths)
    packed = even_sample(fitting, lengths, round(needed))
    for name, packing, chosen in (("padded", "padded", padded), ("packed", "best_fit", packed)):
        write_rows(
            directory / name, (Block.of(encoded[i].ids, encoded[i].mask) for i in chosen),
            block_size=options.block_size, packing=packing, pad_id=LLAMA4.pad_id(tokenizer),
        )  # fmt: skip
        lines = (as_example(records.conversations[i]) for i in chosen)
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {"conversations": len(encoded), "too_long": len(encoded) - len(fitting),
            "mean_length": statistics.mean(lengths),
            "files": [Path(file).name for file in options.files]}  # fmt: skip


def even_sample(indices: list[int], lengths: list[int], size: int) -> list[int]:
    """Take the conversations at even quantiles of length, and shuffle them."""
    size = min(size, len(indices))
    by_length = np.argsort(lengths, kind="stable")
    places = ((np.arange(size) + 0.5) * len(indices) / size).astype(int)
    chosen = by_length[places]
    np.random.default_rng(0).shuffle(chosen)
    return [indices[i] for i in chosen]


def as_example(conversation: Conversation) -> str:
    """Write a conversation as TRL takes it, so that the answer alone is trained."""
    turns = [{"role": m.role, "content": m.content} for m in conversation.messages]
    line = {"prompt": turns[:-1], "completion": turns[-1:]}
    return json.dumps(line, ensure_ascii=False) + "\n"


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Train one side's steps."""
    torch.set_num_threads(options.threads)
    side = with_trl if options.child.startswith("trl") else with_ours
    runs = options.child in ("packed", "padded")
    with Watch(options.device) as watch, as_in_a_run(runs):
        found = side(options)
    return {**found, "peak_mb": watch.peak_mb}


def config_of(options: argparse.Namespace) -> Any:
    """Describe the model; its pad and end are the tokenizer's."""
    tokenizer = Tokenizer.load(options.directory / "tokenizer")
    return shape(
        n_layers=options.layers, d_model=options.width, num_local_experts=options.experts,
        intermediate_size_expert=2 * options.width, vocab_size=tokenizer.vocab_size,
        pad_token_id=LLAMA4.pad_id(tokenizer),
        eos_token_ids=tuple(sorted(LLAMA4.stop_ids(tokenizer))),
    )  # fmt: skip


def with_ours(options: argparse.Namespace) -> dict[str, Any]:
    """Train our model on packed or padded rows, or as its slow twin."""
    packed, slow = options.child == "packed", options.child == "original"
    rows = Rows(options.directory / ("packed" if packed else "padded"))
    order = np.arange(len(rows))
    if packed:  # long conversations are packed first, here and in TRL
        np.random.default_rng(0).shuffle(order)
    each = ROWS if packed else CONVERSATIONS
    model = ours(config_of(options), torch.float32, options.device)
    train = TrainConfig(learning_rate=RATE)
    if slow:
        make_original(model)
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=RATE, foreach=False)
    else:
        optimizer = make_optimizer(model, train)
        set_learning_rate(optimizer, RATE)
    held: list[tuple[int, int, int]] = []

    def one() -> None:
        first = len(held) * each
        batch = collate(rows, order[np.arange(first, first + each) % len(rows)], 0.0)
        positions, used = batch.ids.size, sum(map(sum, batch.segments))
        if slow:
            ids = original_rows(batch, rows.pad_id).to(options.device)
            original_step(model, optimizer, ids)
            positions = ids.numel()
        else:
            accumulate(model, batch, train)
            update(optimizer, gradient_norm(model), CLIP)
        held.append((count_targets(batch.mask), positions, used))

    seconds = timed(one, WARM_UP, options.steps, options.device)
    answers, positions, used = zip(*held[WARM_UP:], strict=True)
    return {"seconds": seconds, "answers": answers, "positions": positions, "used": used}


def original_rows(batch: Any, pad_id: int) -> torch.Tensor:
    """Pad every window of every conversation to 512."""
    rows = []
    for ids, segments in zip(batch.ids, batch.segments, strict=True):
        rows += windows(ids[: sum(segments)].tolist())
    return torch.tensor([row + [pad_id] * (ROW - len(row)) for row in rows])


def with_trl(options: argparse.Namespace) -> dict[str, Any]:
    """Train transformers' model with TRL."""
    packed = options.child == "trl-packed"
    model = theirs(config_of(options), torch.float32, options.device)
    trainer = trainer_of(
        model, options.directory / "tokenizer",
        options.directory / ("packed.jsonl" if packed else "padded.jsonl"),
        options.directory / f"work-{options.child}", WARM_UP + options.steps, packing=packed,
        per_device_train_batch_size=ROWS if packed else CONVERSATIONS,
        max_length=options.block_size,
        train_sampling_strategy="random" if packed else "sequential",
    )  # fmt: skip
    return timed_training(trainer, WARM_UP)


def summed_up(found: Found) -> dict[str, Any]:
    """Compare packed rows with every other side, in answer tokens a second."""
    rates = {
        name: [sum(run["answers"]) / sum(run["seconds"]) for run in runs]
        for name, runs in found.items()
    }
    result: dict[str, Any] = {
        name: {
            "answer_tokens_per_second": statistics.median(rates[name]),
            "tokens_per_second": statistics.median(
                sum(r["used"]) / sum(r["seconds"]) for r in runs
            ),
            "positions_used": sum(runs[0]["used"]) / sum(runs[0]["positions"]),
            "peak_mb": statistics.median(run["peak_mb"] for run in runs),
            "gemm_gflops": statistics.median(max(run["gemm_gflops"]["fp32"]) for run in runs),
        }
        for name, runs in found.items()
    }
    others = [name for name in rates if name != "packed" and "packed" in rates]
    result["packed_over"] = {name: ratio(rates["packed"], rates[name]) for name in others}
    return result


if __name__ == "__main__":
    main()
