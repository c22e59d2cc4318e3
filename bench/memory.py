"""Peak memory of loading and of converting a checkpoint of four gigabytes, against its bounds.

    python bench/memory.py [DIRECTORY] [--gigabytes 4]

A random multimodal directory in shards is written to DIRECTORY (a temporary one by default). Each
job runs in a child; its anonymous memory is read from /proc every few milliseconds, less what it
has after importing. Pages of mapped files are the kernel's to take back, and are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from quatrain.config import ModelConfig
from quatrain.model.hf_config import to_hf
from quatrain.model.io import PREFIX
from quatrain.model.llama import LlamaModel
from quatrain.model.shards import LazyTensor, open_tensors, write_shards
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import train_bpe
from quatrain.train.calibrate import anonymous

MB = 10**6
IMPORTS = "import sys, pathlib, torch, quatrain.hub.convert as c; d = pathlib.Path(sys.argv[1]);"
READY = "print('ready', flush=True); sys.stdin.readline();"
JOBS = {
    "load": "from quatrain.model.llama import LlamaModel; m = LlamaModel.from_pretrained(d)",
    "load in float32": "from quatrain.model.llama import LlamaModel;"
    "m = LlamaModel.from_pretrained(d, dtype=torch.float32)",
    "convert to hf, f16": "c.convert(d, d.parent / 'hf', c.Conversion(to='hf', dtype='f16', "
    "check=False))",
    "convert to hf-multimodal": "c.convert(d, d.parent / 'mm', c.Conversion(to='hf-multimodal', "
    "check=False))",
    "convert to gguf, q8_0": "c.convert(d, d.parent / 'gguf', c.Conversion(to='gguf', "
    "dtype='q8_0', check=False))",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--gigabytes", type=float, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = (options.directory or Path(temporary)) / "base"
        if not base.exists():
            write_checkpoint(base, options.gigabytes)
        tensors = open_tensors(base)
        total = sum(tensor.nbytes for tensor in tensors.values())
        largest = max(tensor.nbytes for tensor in tensors.values())
        print(f"{total / MB:,.0f} MB in {len(list(base.glob('*.safetensors')))} shards, the "
              f"largest tensor {largest / MB:,.0f} MB")  # fmt: skip
        for name, job in JOBS.items():
            grown = peak(IMPORTS + READY + job, base)
            floats = 2 if "float32" in name else 1
            bound = (total * floats + largest * floats + 300 * MB if name.startswith("load")
                     else 2 * largest + 500 * MB)  # fmt: skip
            figures = {"peak_mb": round(grown / MB), "bound_mb": round(bound / MB)}
            print(json.dumps({"job": name, **figures, "within": grown <= bound}))


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
