"""Answer tokens a second against llama.cpp and transformers: the same weights, greedy, one machine.

    python bench/decode.py WORK [--repeats 3] [--base DIR] [--sides ours-f32 llama-f32 ...]

The model is that of bench/step.py, or a directory in Llama 4's form. Sides are alternated, each in
a process of its own: one prompt of 32 tokens and 96 new ones, eight prompts at once, and a prompt
of 512 tokens that is only read. The rate at which this machine reads memory is measured beside
them, since each token reads the active weights once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from paired import add_arguments, alternate
from sides import filled, shape

NEW, PROMPT, LONG, ROWS = 96, 32, 512, 8
SIDES = ("ours-f32", "llama-f32", "ours-bf16", "llama-bf16", "ours-int8", "llama-q8_0")
KEYS = ("tokens_s", "tokens_s_of_8", "prompt_tokens_s", "read_gb_s")
PEERS = ("peer-f32", "peer-bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--sides", nargs="*", default=[*SIDES, *PEERS])
    add_arguments(parser)
    options = parser.parse_args()
    if options.child:
        side, kind = options.child.split("-")
        torch.set_num_threads(options.threads)
        run = {"ours": ours, "llama": llama, "peer": peer}[side]
        print(json.dumps({"read_gb_s": read_rate(), **run(options.work, kind, options.threads)}))
        return
    make(options.work, options.base)
    found = alternate(__file__, options.sides, options.repeats)
    table = {name: {key: round(statistics.median(run[key] for run in runs), 2)
                    for key in KEYS} for name, runs in found.items()}  # fmt: skip
    print(json.dumps(table, indent=1))


def make(work: Path, base: Path | None) -> None:
    """Write the model in each form that a side opens."""
    from quatrain.data.demo_text import pretraining_text
    from quatrain.hub.export import of_dtype, write_text_only
    from quatrain.hub.gguf_write import write_gguf
    from quatrain.hub.open import open_source
    from quatrain.hub.source import Source
    from quatrain.model.llama import LlamaModel
    from quatrain.model.shards import SHARD_BYTES, LazyTensor
    from quatrain.text.chat import LLAMA4
    from quatrain.text.tokenizer import train_bpe

    work.mkdir(parents=True, exist_ok=True)
    if (work / "q8_0.gguf").exists():
        return
    if base:
        source = open_source(base)
    else:
        config = shape()
        model = filled(LlamaModel(config), torch.float32)
        tensors = {name: LazyTensor.of(one) for name, one in model.state_dict().items()}
        tokenizer = train_bpe(pretraining_text(count=3000), vocab_size=config.vocab_size)
        source = Source(config, tensors, tokenizer, LLAMA4, work, "llama4")
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        write_text_only(of_dtype(source, dtype), work / name, SHARD_BYTES)
    for kind in ("f32", "bf16", "q8_0"):
        write_gguf(source, work / f"{kind}.gguf", kind)


def prompts(number: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(300, 4000, (number, length), generator=generator).tolist()


def read_rate() -> float:
    """Read 256 MB with all threads: GB a second."""
    numbers = torch.ones(1 << 26)
    numbers.sum()
    began = time.perf_counter()
    for _ in range(4):
        numbers.sum()
    return 4 * numbers.nbytes / (time.perf_counter() - began) / 1e9


def ours(work: Path, kind: str, threads: int) -> dict[str, float]:
    from quatrain.config import GenerateConfig
    from quatrain.generate.engine import complete
    from quatrain.hub.opened import open_model
    from quatrain.model.io import Form, form_to_ask

    if kind == "int8":
        model = open_model(work / "bf16", form=Form(torch.float32, "int8")).eval()
    else:
        model = open_model(work / kind, form=form_to_ask(work / kind, "cpu")).eval()
    options = GenerateConfig(max_new_tokens=NEW)
    complete(model, prompts(1, PROMPT), options.replace(max_new_tokens=4), [])

    def seconds(rows: int, length: int, new: int) -> float:
        began = time.perf_counter()
        complete(model, prompts(rows, length), options.replace(max_new_tokens=new), [])
        return time.perf_counter() - began

    one = seconds(1, PROMPT, NEW) - seconds(1, PROMPT, 1)
    many = seconds(ROWS, PROMPT, NEW) - seconds(ROWS, PROMPT, 1)
    return rates(one / (NEW - 1), many / (NEW - 1), seconds(1, LONG, 1))


def rates(one: float, many: float, reading: float) -> dict[str, float]:
    return {"tokens_s": 1 / one, "tokens_s_of_8": ROWS / many, "prompt_tokens_s": LONG / reading}


def llama(work: Path, kind: str, threads: int) -> dict[str, float]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(work / f"{kind}.gguf")
    params.n_ctx, params.n_parallel = 1024 * ROWS, ROWS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup, params.verbosity = True, -1
    server = xllamacpp.Server(params)

    def asked(ids: list[int], new: int) -> dict[str, Any]:
        said: Any = server.handle_completions(
            {"prompt": ids, "n_predict": new, "temperature": 0.0, "cache_prompt": False,
             "ignore_eos": True}
        )  # fmt: skip
        timings: dict[str, Any] = said["timings"]
        return timings

    asked(prompts(1, PROMPT)[0], 4)
    one = asked(prompts(1, PROMPT)[0], NEW)["predicted_per_token_ms"] / 1e3
    found: list[dict[str, Any]] = []
    workers = [threading.Thread(target=lambda ids=ids: found.append(asked(ids, NEW)))
               for ids in prompts(ROWS, PROMPT)]  # fmt: skip
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    many = statistics.median(timings["predicted_per_token_ms"] for timings in found) / 1e3
    return rates(one, many, asked(prompts(1, LONG)[0], 1)["prompt_ms"] / 1e3)


def peer(work: Path, kind: str, threads: int) -> dict[str, float]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        work / kind, dtype=torch.float32 if kind == "f32" else torch.bfloat16
    ).eval()

    def seconds(rows: int, length: int, new: int) -> float:
        ids = torch.tensor(prompts(rows, length))
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                           min_new_tokens=new, do_sample=False)  # fmt: skip
        return time.perf_counter() - began

    seconds(1, PROMPT, 4)
    one = seconds(1, PROMPT, NEW) - seconds(1, PROMPT, 1)
    many = seconds(ROWS, PROMPT, NEW) - seconds(ROWS, PROMPT, 1)
    return rates(one / (NEW - 1), many / (NEW - 1), seconds(1, LONG, 1))


if __name__ == "__main__":
    sys.exit(main())
