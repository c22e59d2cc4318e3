"""How full rows are: python bench/packing.py FILE... --block-size 1024.

Reads the files, trains a BPE on them, encodes and packs, and prints what was counted with the time
of each part. Plain text is prepared as for pretraining.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from quatrain.config import Config
from quatrain.data.batches import Batches
from quatrain.data.prepare import load_and_prepare_french_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--document", choices=["file", "line"], default="file")
    parser.add_argument("--task", choices=["sft", "pretrain"], default="sft")
    arguments = parser.parse_args()
    config = Config.model_validate(
        {
            "model": {"vocab_size": arguments.vocab_size},
            "data": {
                "train": arguments.files,
                "block_size": arguments.block_size,
                "document": arguments.document,
            },
            "train": {"task": arguments.task},
        }
    )
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        _, prepared = load_and_prepare_french_data(config, directory=Path(directory))
        made = time.perf_counter()
        load_and_prepare_french_data(config, directory=Path(directory))
        found = time.perf_counter()
        batches = Batches(prepared.train, 8, seed=0)
        num_batches = min(200, int(np.ceil(batches.steps_per_epoch)))
        for step in range(num_batches):
            batches.batch(step)
        read = time.perf_counter()
    print(json.dumps(prepared.report, ensure_ascii=False, indent=2))
    print(f"positions used: {prepared.report['train']['positions_used']:.2%}")
    print(f"prepared in {made - begin:.1f} s, found again in {found - made:.2f} s")
    print(f"a batch of 8 rows in {1000 * (read - found) / num_batches:.2f} ms")


if __name__ == "__main__":
    main()
