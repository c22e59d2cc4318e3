"""Two steps of Llama 4 Scout's exact text shape on a computer with far less memory than weights.

    python bench/scout.py WORK --questions piaf_train.json [--layers 48] [--steps 2]

The weights are random, drawn and stored in four bits layer by layer, straight to the disk: about 57
GB. Run again, it goes on where it was. Then the recipe scout-cpu trains adapters on real questions,
the same rows at each step, and the result is asked. A process of its own does each, while its
anonymous memory is read from /proc every tenth of a second. Time is told by part: bytes touched,
decoded, multiplied; the rest is adapters, attention, norms, the update.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quatrain.config import DataConfig, ModelConfig
from quatrain.data.demo_text import pretraining_text
from quatrain.data.records import load_records
from quatrain.files import write_json
from quatrain.model.hf_config import CONFIG, to_hf
from quatrain.model.hf_quantised import QUANTISED, described
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import INDEX, LazyTensor, write_file
from quatrain.model.stored import stored_as
from quatrain.recipe import load_config
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import Tokenizer, train_bpe

TOKENS = 8192
"""Of the tokenizer; the other rows of the vocabulary are random too."""
DRAWN = 1 << 22
STD = 0.02
ROW, SPARE = 1152, 64
"""Tokens of a row, and how many may stay empty."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--questions", required=True)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--child", choices=["make", "train", "ask"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        {"make": make, "train": train, "ask": ask}[options.child](options)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    found = {name: watched(name, options) for name in ("make", "train", "ask")}
    print(json.dumps(found, indent=2))


def watched(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a part in a process of its own; add its seconds and the most anonymous memory it had."""
    began, peak = time.monotonic(), 0
    command = [sys.executable, __file__, str(options.work), "--questions", options.questions,
               "--layers", str(options.layers), "--steps", str(options.steps),
               "--child", name]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(child.stdout or ()))
        reader.start()
        while child.poll() is None:
            peak = max(peak, anonymous(child.pid))
            time.sleep(0.1)
        reader.join()
    if child.returncode:
        raise SystemExit(f"{name} ended with {child.returncode}: {''.join(lines)[-2000:]}")
    return {"seconds": round(time.monotonic() - began), "peak_gb": round(peak / 1e9, 2),
            **json.loads(lines[-1])}  # fmt: skip


def anonymous(pid: int) -> int:
    """Read the anonymous memory of a process, in bytes."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def shape(layers: int) -> ModelConfig:
    return load_config(None, ["model.preset=scout", f"model.n_layers={layers}"]).model


def directory_of(options: argparse.Namespace) -> Path:
    made: Path = options.work / f"scout-{options.layers}-nf4"
    return made


def make(options: argparse.Namespace) -> None:
    """Draw and store the weights, a file for each layer; files that are there are kept."""
    config, directory = shape(options.layers), directory_of(options)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {name: tuple(one.shape) for name, one in LlamaModel(config).state_dict().items()}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        place = name.split(".")
        groups.setdefault(f"{int(place[2]):03}" if place[1] == "layers" else "top", []).append(name)
    weight_map, total = dict[str, str](), 0
    for group, names in groups.items():
        lazy = {name: LazyTensor(shapes[name], torch.bfloat16, Draw(name, shapes[name]))
                for name in names}  # fmt: skip
        parts = stored_as("nf4", lazy, "bfloat16")
        path, temporary = directory / f"model-{group}.safetensors", directory / "unfinished"
        if not path.exists():
            write_file(temporary, parts)
            temporary.rename(path)
            print(f"{group} of {len(groups)}", file=sys.stderr, flush=True)
        weight_map.update(dict.fromkeys(parts, path.name))
        total += path.stat().st_size
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    fields = to_hf(config, "bfloat16") | {QUANTISED: described("nf4", "bfloat16")}
    write_json(directory / CONFIG, fields)
    train_bpe(pretraining_text(count=3000), vocab_size=TOKENS).save(directory)
    LLAMA4.save(directory)
    print(json.dumps({"gb": round(total / 1e9, 2)}))


class Draw:
    """Draws a weight when it is read: normal numbers, or ones for norms.

    Numbers are pieces of one pool, at random places: to draw each one afresh would take an hour.
    """

    def __init__(self, name: str, size: tuple[int, ...]) -> None:
        self.name, self.size = name, size

    def __call__(self) -> Tensor:
        """Draw it."""
        if self.name.endswith("norm.weight"):
            return torch.ones(self.size, dtype=torch.bfloat16)
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        drawn = torch.empty(self.size, dtype=torch.bfloat16)
        for part in drawn.view(-1).split(DRAWN):
            start = int(torch.randint(0, len(pool()) - DRAWN, (), generator=generator))
            part.copy_(pool()[start : start + len(part)])
        return drawn


@functools.cache
def pool() -> Tensor:
    """Draw normal numbers to take from."""
    return (torch.randn(16 * DRAWN, generator=torch.Generator().manual_seed(0)) * STD).bfloat16()


SPENT = {"read": 0.0, "decode": 0.0, "multiply": 0.0}


def watch_tiles() -> None:
    """Tell the time of reading, decoding and multiplying apart, for frozen weights."""
    from quatrain.model import frozen, weights

    plain, rows = frozen.tiles_of, frozen.Matrix.rows

    def timed_rows(self: Any, group: int, outputs: Any, dtype: Any) -> Tensor:
        began = time.perf_counter()
        size = self.shape[-2]
        own = slice(group * size + outputs.start, group * size + outputs.stop)
        for part in self.parts.values():
            if part.ndim == 2:
                part[own].view(torch.uint8)[:, ::1024].sum()  # touches each page of 4 KB
        touched = time.perf_counter()
        tile = rows(self, group, outputs, dtype)
        SPENT["read"] += touched - began
        SPENT["decode"] += time.perf_counter() - touched
        return tile

    def timed_tiles(*arguments: Any) -> Iterator[Any]:
        for part in plain(*arguments):
            began = time.perf_counter()
            yield part
            SPENT["multiply"] += time.perf_counter() - began

    frozen.Matrix.rows = timed_rows  # type: ignore[method-assign]
    frozen.tiles_of = weights.tiles_of = timed_tiles


def train(options: argparse.Namespace) -> None:
    """Train as the recipe says, on as few questions as fill the rows of one step."""
    from quatrain.train.run import run

    few = options.work / "few.jsonl"
    write_one_row(options.questions, few, directory_of(options))
    watch_tiles()
    config = load_config("scout-cpu", [
        f"run_dir={options.work / f'run-{options.layers}'}", f"model.init={directory_of(options)}",
        f"data.train={few}", f"train.max_steps={options.steps}", "train.save_interval=1",
        f"data.block_size={ROW}", "train.batch_size=1", "train.micro_batch_size=1",
    ])  # fmt: skip
    result = run(config)
    rows = (result.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [one for one in map(json.loads, rows) if "loss" in one]
    print(json.dumps({
        "losses": [one["loss"] for one in steps], "step_seconds": [one["seconds"] for one in steps],
        "tokens": steps[-1]["tokens"],
        "parts": {name: round(seconds) for name, seconds in SPENT.items()},
    }))  # fmt: skip


def write_one_row(questions: str, few: Path, model: Path) -> None:
    """Choose questions that fill one row, so that every step reads the same one."""
    tokenizer, left = Tokenizer.load(model), ROW
    with few.open("w", encoding="utf-8") as file:
        for one in load_records([questions], DataConfig()).conversations:
            size = len(LLAMA4.encode_conversation(one, tokenizer).ids)
            if size <= left:
                left -= size
                messages = [{"role": m.role, "content": m.content} for m in one.messages]
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            if left < SPARE:
                return


def ask(options: argparse.Namespace) -> None:
    """Answer a question with four tokens."""
    from quatrain.generate.answer import Answerer

    began = time.monotonic()
    answerer = Answerer(options.work / f"run-{options.layers}")
    opened = time.monotonic()
    answer = answerer.answer("Quelle est la capitale de la France ?", max_new_tokens=4)
    seconds = time.monotonic() - opened
    print(json.dumps({
        "open_seconds": round(opened - began), "answer_seconds": round(seconds),
        "answer_tokens": answer.completion_tokens, "finite": math.isfinite(seconds),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
