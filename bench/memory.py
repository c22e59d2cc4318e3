"""Peak memory of reading, converting and adapting large models, against its bounds.

    python bench/memory.py [DIRECTORY] [--gigabytes 4] [--only WORD...]

A random multimodal directory in shards is written to DIRECTORY (a temporary one by default), and a
GGUF file made of it. Adapters are trained beside random bf16 weights in the shape of Llama 3.2 1B.
Each job runs in a child; its anonymous memory is read from /proc every few milliseconds, less what
it has after importing. Pages of mapped files are the kernel's to take back, and are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from plan import apart, planned_and_measured

from quatrain.config import ModelConfig
from quatrain.model.hf_config import to_hf
from quatrain.model.io import PREFIX, VISION
from quatrain.model.kinds import KINDS
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import LazyTensor, open_tensors, write_shards
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import train_bpe
from quatrain.train.bases import bases
from quatrain.train.calibrate import anonymous

MB = 10**6
IMPORTS = (
    "import sys, pathlib, torch, quatrain.hub.convert as c;"
    "from quatrain.hub.opened import open_model; from quatrain.model.io import Form;"
    "d = pathlib.Path(sys.argv[1]);"
)
READY = "print('ready', flush=True); sys.stdin.readline();"
GGUF = "d.parent / 'gguf' / 'model-q8_0.gguf'"
JOBS = {
    "load": "m = open_model(d)",
    "load in float32": "m = open_model(d, torch.float32)",
    "quantise to nf4": "m = open_model(d, form=Form(torch.float32, 'nf4'))",
    "quantise to int8": "m = open_model(d, form=Form(torch.float32, 'int8'))",
    "convert to hf, f16": "c.convert(d, d.parent / 'hf', c.Conversion(to='hf', dtype='f16', "
    "check=False))",
    "convert to hf-multimodal": "c.convert(d, d.parent / 'mm', c.Conversion(to='hf-multimodal', "
    "check=False))",
    "convert to gguf, q8_0": "c.convert(d, d.parent / 'gguf', c.Conversion(to='gguf', "
    "dtype='q8_0', check=False))",
    "load gguf": f"m = open_model({GGUF})",
}
SCALES = {"nf4": 1 / 64 + 4 / (64 * 256), "int8": 4 / 768}
"""Bytes of scales for each number; for int8, of rows of 768 at least."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--only", nargs="*", default=[""])
    options = parser.parse_args()
    torch.set_num_threads(1)  # a child that is forked has none of its parent's threads
    with tempfile.TemporaryDirectory() as temporary:
        place = options.directory or Path(temporary)
        base = place / "base"
        if not base.exists():
            apart(lambda: write_checkpoint(base, options.gigabytes))
        tensors = open_tensors(base)
        total = sum(tensor.nbytes for tensor in tensors.values())
        print(f"{total / MB:,.0f} MB in {len(list(base.glob('*.safetensors')))} shards, the "
              f"largest tensor {largest_of(tensors) / MB:,.0f} MB", flush=True)  # fmt: skip
        for name, job in JOBS.items():
            if any(word in name for word in options.only):
                report(name, peak(IMPORTS + READY + job, base), bound_of(name, tensors))
        name = "two steps of adapters beside bf16"
        if any(word in name for word in options.only):
            with tempfile.TemporaryDirectory(dir=place) as directory:
                report(name, *adapted(Path(directory)))


def report(name: str, grown: int, bound: int) -> None:
    figures = {"peak_mb": round(grown / MB), "bound_mb": round(bound / MB)}
    print(json.dumps({"job": name, **figures, "within": grown <= bound}), flush=True)


def largest_of(tensors: Mapping[str, LazyTensor]) -> int:
    return max(tensor.nbytes for tensor in tensors.values())


def bound_of(name: str, tensors: Mapping[str, LazyTensor]) -> int:
    """Say how much a job may take: mapped files take nothing."""
    total, largest = sum(one.nbytes for one in tensors.values()), largest_of(tensors)
    if name.startswith("convert"):
        return 2 * largest + 500 * MB
    if name.startswith("quantise"):
        return quantised(tensors, name.split()[-1]) + 2 * largest + 300 * MB
    return 2 * (total + largest) + 300 * MB if "float32" in name else 300 * MB


def quantised(tensors: Mapping[str, LazyTensor], kind: str) -> int:
    """Count the bytes of the matrices of layers in a kind of fewer bits."""
    numbers = sum(
        math.prod(one.shape)
        for name, one in tensors.items()
        if ".layers." in name and len(one.shape) > 1 and not name.startswith(VISION)
    )
    block = KINDS[kind]
    return round(numbers * (block.num_bytes / block.block + SCALES[kind]))


def adapted(directory: Path) -> tuple[int, int]:
    """Train for two steps of one row; give the peak, and half of the base's size in bf16."""
    shape = bases()["meta-llama/Llama-3.2-1B-Instruct"].shape.model_dump(exclude_unset=True)
    case = {"model": shape, "batch": 2, "micro": 1, "length": 128, "base": "bf16"}
    plan, measured = planned_and_measured(case, directory, 2)
    return measured, plan.parameters.total


def write_checkpoint(directory: Path, gigabytes: float) -> None:
    """Write random bf16 weights of a Scout in small, as a multimodal directory."""
    layers = max(1, round(gigabytes * 10**9 / 2 / 1.2e8))
    config = ModelConfig(
        vocab_size=32_000, d_model=1024, n_layers=layers, n_heads=16, n_kv_heads=4, d_k=64,
        num_local_experts=16, intermediate_size_expert=2048, intermediate_size_mlp=4096,
    )  # fmt: skip
    with torch.device("meta"):
        names = {name: tuple(p.shape) for name, p in LlamaModel(config).state_dict().items()}

    def draw(shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, torch.bfloat16, lambda: torch.randn(shape).bfloat16() * 0.02)

    directory.mkdir(parents=True)
    tensors = {PREFIX + name: draw(shape) for name, shape in names.items()}
    tensors["vision_model.class_embedding"] = draw((1024,))
    write_shards(tensors, directory, shard_bytes=10**9)
    fields = {"model_type": "llama4", "text_config": to_hf(config, "bfloat16")}
    (directory / "config.json").write_text(json.dumps(fields))
    train_bpe(["Quelle heure est-il ?"], vocab_size=300).save(directory)
    LLAMA4.save(directory)


def peak(code: str, directory: Path) -> int:
    """Run a child; return how far its anonymous memory rises above that of its imports, bytes."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    status_file = Path(f"/proc/{child.pid}/status")
    before = highest = anonymous(status_file) or 0
    child.stdin.write("\n")
    child.stdin.flush()
    while child.poll() is None:
        highest = max(highest, anonymous(status_file) or 0)
        time.sleep(0.002)
    if child.returncode:
        raise SystemExit(f"the job failed: {code}")
    return highest - before


if __name__ == "__main__":
    main()
