"""Speed and memory of `quatrain data inspect` on a generated file.

    python bench/inspect_data.py [--records 1000000] [--held-out 1000] [--block-size 1024]

Records are drawn from the embedded questions and texts, numbered so that few are equal, with a
hundredth repeated, some bad and some in the held-out file. The command runs in a child as a user
runs it; the peak is the child's largest resident set, imports and all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quatrain.data.demo import questions
from quatrain.data.demo_text import pretraining_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--block-size", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        train, held = Path(name) / "train.jsonl", Path(name) / "eval.jsonl"
        write(train, options.records, seed=0)
        write(held, options.held_out, seed=1)
        print(f"{options.records:,} records, {train.stat().st_size / 1e6:,.0f} MB")
        command = [sys.executable, "-m", "quatrain.cli.main", "data", "inspect", str(train)]
        command += ["--eval", str(held), "--block-size", str(options.block_size), "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    busy = used.ru_utime + used.ru_stime
    print(f"exit {done.returncode}; {seconds:.1f} s, of processor time {busy:.1f} s: "
          f"{options.records / busy:,.0f} records a second of it")  # fmt: skip
    print(f"peak resident {used.ru_maxrss / 1024:,.0f} MB")
    for finding in found["findings"]:
        print(f"  {finding['level']}: {finding['message']}")
    print(f"  languages: {found['sides']['train']['languages']}; {os.cpu_count()} cores")


def write(path: Path, number: int, seed: int) -> None:
    """Write questions of one sentence, and of a text of some sentences, with planted faults."""
    draw = random.Random(seed)
    asked = list(questions("train", 20_000))
    texts = [str(text) for text in pretraining_text()]
    with path.open("w", encoding="utf-8") as file:
        line = ""
        for index in range(number):
            if index % 100 == 99:
                file.write(line)  # a repetition
                continue
            if index % 50_000 == 777:
                file.write('{"instruction": "coupé\n')
                continue
            one = draw.choice(asked)
            count = draw.choice((0, 0, 0, 1, 2, 4))
            context = " ".join(draw.choice(texts) for _ in range(count))
            row = {
                "instruction": f"{one['instruction']} (n. {seed}{index})",
                "input": context,
                "output": one["output"],
            }
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line)


if __name__ == "__main__":
    main()
