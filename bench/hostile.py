"""Time and memory that refusing a hostile directory takes, for each of the tests' corpus.

    python bench/hostile.py

Each is opened in a child that has imported everything; the bounds are one second and 100 MB.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from hostile import HARMFUL
from quatrain.errors import QuatrainError
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.text.chat import LLAMA4
from quatrain.text.tokenizer import train_bpe
from tiny import tiny_config


def attempt(directory: Path, results: Any) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        Answerer(directory)
        said = "OPENED"
    except QuatrainError as error:
        said = error.code
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:80]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results.put((said, time.perf_counter() - started, grown / 1024))


def main() -> None:
    bad, worst_time, worst_memory = 0, 0.0, 0.0
    context = get_context("fork")
    with tempfile.TemporaryDirectory() as temporary:
        sound = Path(temporary) / "sound"
        LlamaModel(tiny_config(vocab_size=512)).save_pretrained(sound)
        train_bpe(["Où est l'été ?"], vocab_size=300).save(sound)
        LLAMA4.save(sound)
        torch.set_num_threads(1)
        Answerer(sound)  # what torch imports when it is first used is no cost of the hostile file
        for name, change in HARMFUL.items():
            directory = Path(temporary) / "hostile"
            shutil.copytree(sound, directory)
            change(directory)
            results = context.Queue()
            child = context.Process(target=attempt, args=(directory, results))
            child.start()
            said, seconds, megabytes = results.get(timeout=60)
            child.join()
            ran = (directory / "executed").exists()
            fine = said.startswith("Q4") and not ran and seconds <= 1 and megabytes <= 100
            bad += not fine
            worst_time, worst_memory = max(worst_time, seconds), max(worst_memory, megabytes)
            if not fine:
                print(f"{name}: {said}, {seconds:.2f} s, {megabytes:.0f} MB, executed {ran}")
            shutil.rmtree(directory)
    print(f"{len(HARMFUL)} hostile directories, {bad} not refused in bounds; the slowest took "
          f"{worst_time:.2f} s, the largest {worst_memory:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
