"""What several processes are held to, on one machine without a GPU.

    python bench/ranks.py WORK [same faults resume kills torchrun speed] [--kills 20]
    python bench/ranks.py WORK before --source OTHER/src

same      20 steps at 2 and 4 processes, all meshes, against one: losses, gradients, bytes
faults    every fault, at 2 and at 4 processes: seconds until all are gone, line, exit code
resume    saved at 4 processes (two for each set of experts), resumed at 1, 2 and 4
kills     SIGKILL to random processes of four under torchrun, at random instants, until so many
torchrun  the tests' run under torchrun and --processes, against one process
speed     two processes of one thread against one process of two, in turns
before    one process against the source of another version, bit by bit; not among the others

bench/nodes.py has two machines. Prints JSON, one line for each part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodes import below, losses

TESTS = Path(__file__).parents[1] / "tests"
SOURCE = Path(__file__).parents[1] / "src"
TWO = ("dense:1:1 top_2:1:1 tied:1:1 biased:1:1 recomputed:2:1 sixteen:2:1 skewed:2:1 adapters:2:1 "
       "dropout:1:1 bf16:2:1 nf4:1:1 nf4:2:1 nf4_attention:2:1 stored_tables:2:1 "
       "top_2:1:2").split()  # fmt: skip
FOUR = ("dense:1:1 top_2:1:1 top_2:4:1 sixteen:2:1 sixteen:4:1 sixteen:2:2 skewed:4:1 adapters:4:1 "
        "nf4:2:1 nf4:4:1 biased:1:2").split()  # fmt: skip
FOUND = "losses norms gradients worst loads unused sent computed expected".split()
FAULTS = ("killed", "raised", "memory", "hung", "stopped", "shape", "recipe", "data", "folder",
          "not finite", "disk", "clock", "missing", "port")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="of speed")
    parser.add_argument("--source", type=Path, help="of the other version")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], Any]] = {
        "same": same,
        "faults": faults,
        "resume": resume,
        "kills": lambda work: kills(work, options.kills),
        "torchrun": torchrun,
        "speed": lambda work: speed(work, options.repeats),
        "before": lambda work: before(work, options.source),
    }
    for name in options.parts or [one for one in parts if one != "before"]:
        work = options.work / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        print(json.dumps({name: parts[name](work.resolve())}), flush=True)


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join([str(SOURCE), str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "TORCH_CPP_LOG_LEVEL": "ERROR", **more}


def script(name: str, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, str(TESTS / "parallel" / name), *words],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    return json.loads(done.stdout)


def same(work: Path) -> Any:
    """Give the worst relative differences by number of processes."""
    found = {}
    for world, cases in ((2, TWO), (4, FOUR)):
        report = script("forked.py", str(work / str(world)), "--world", str(world), "--steps", "20",
                        *cases)  # fmt: skip
        found[world] = {case: {name: one[name] for name in FOUND} for case, one in report.items()}
    return found


def faults(work: Path) -> Any:
    found = {}
    for world in (2, 4):
        report = script("faults.py", str(work / str(world)), "--world", str(world), *FAULTS)
        for name, one in report.items():
            said = "".join(one["said"]).splitlines()
            lines = [line for line in said if line.startswith("error[")]
            found[f"{name} of {world}"] = {**one, "said": lines, "traces": len(one["traces"])}
    return found


def resume(work: Path) -> Any:
    return script("whole_runs.py", str(work), "resume", "4:2", "1:1", "2:1", "2:2", "4:4")


def recipe_in(work: Path, **train: Any) -> Path:
    sys.path.insert(0, str(TESTS))
    from tiny_run import recipe_in as write

    return write(work, **train)


def apart(one: Path, other: Path) -> float:
    pairs = zip(losses(one), losses(other), strict=True)
    return max(abs(a - b) / a for a, b in pairs)


def quatrain(*words: str) -> list[str]:
    return [sys.executable, "-m", "quatrain", *words]


def torchrun_of(*words: str, options: tuple[str, ...] = (), processes: int = 2) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    return [*launcher, "--nproc-per-node", str(processes), "-m", "quatrain", *words]


def run(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, check=False
    )


def torchrun(work: Path) -> Any:
    recipe = recipe_in(work, batch_size=4, save_interval=2)
    ways = {
        "one": quatrain("sft", str(recipe), f"run_dir={work / 'one'}"),
        "processes": quatrain("sft", str(recipe), f"run_dir={work / 'processes'}",
                              "--processes", "2"),
        "torchrun": torchrun_of("sft", str(recipe), f"run_dir={work / 'torchrun'}"),
    }  # fmt: skip
    found: dict[str, Any] = {name: run(command).returncode for name, command in ways.items()}
    for name in ("processes", "torchrun"):
        found[f"{name} apart"] = apart(work / "one", work / name)
    return found


def kills(work: Path, number: int) -> Any:
    """Kill one of four processes again and again; torchrun starts all, or the same command does.

    An instant counts from the start of the processes. In the end weights, moments, and losses of
    each step are compared with those of a run that nobody kills.
    """
    recipe = recipe_in(work, batch_size=4, max_steps=24, eval_interval=8, save_interval=3)
    words = ("sft", str(recipe), "parallel.expert_parallel=2", "parallel.timeout=60s")

    def command(name: str) -> list[str]:
        run_dir = f"run_dir={work / name}"
        return torchrun_of(*words, run_dir, options=("--max-restarts", "3"), processes=4)

    begun = time.monotonic()
    assert run(command("calm")).returncode == 0
    seconds, draw = time.monotonic() - begun, random.Random(0)
    slowest, done, runs, commands, different = 0.0, 0, 0, 0, list[str]()
    while done < number:
        name, code = f"killed-{runs}", 1
        while code:
            commands += 1
            started = subprocess.Popen(
                command(name), env=environment(), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while done < number:
                gone = kill_one(started, draw.uniform(0, seconds))
                if gone is None:
                    break
                done, slowest = done + 1, max(slowest, gone)
            code = started.wait()
        different += differences(work / "calm", work / name)
        runs += 1
    return {"kills": done, "runs": runs, "commands": commands, "slowest": round(slowest, 1),
            "seconds": round(seconds, 1), "different": different}  # fmt: skip


def kill_one(launcher: subprocess.Popen[bytes], after: float) -> float | None:
    """Kill one of the processes so many seconds after their start.

    Returns:
        The seconds until all were gone; None when they ended before.
    """
    while len(processes := below(launcher.pid)) < 4:
        if launcher.poll() is not None:
            return None
        time.sleep(0.02)
    until = time.monotonic() + after
    while time.monotonic() < until:
        if launcher.poll() is not None:
            return None
        time.sleep(0.01)
    victim = random.Random(after).choice(processes)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return None
    since = time.monotonic()
    while any(is_alive(one) for one in processes):
        time.sleep(0.05)
    return time.monotonic() - since


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    except OSError:
        return False


def differences(calm: Path, other: Path) -> list[str]:
    """Name what differs between the last checkpoints, and between the losses, of two runs."""
    newest = sorted((calm / "checkpoints").glob("step-*"))[-1]
    files = [newest / name for name in ("model.safetensors", "optimizer.safetensors", "state.json")]
    digests = [
        [hashlib.sha256((folder / newest.name / one.name).read_bytes()).digest() for one in files]
        for folder in (calm / "checkpoints", other / "checkpoints")
    ]
    found = [one.name for one, a, b in zip(files, *digests, strict=True) if a != b]
    return found + (["losses"] if losses(calm) != losses(other) else [])


def before(work: Path, source: Path) -> Any:
    """Train the same recipe with this source and another one; say what is equal."""
    from safetensors.torch import load_file

    recipe = recipe_in(work, batch_size=4, micro_batch_size=2)
    text = recipe.read_text()
    recipe.write_text(text[: text.index("parallel:")])  # a section that the other one may not know
    ways = {"full": [], "lora": ["train.adapter=lora", f"model.init={work / 'now-full'}"]}
    found = {}
    for way, more in ways.items():
        for name, path in (("now", SOURCE), ("then", source.resolve())):
            command = quatrain("sft", str(recipe), f"run_dir={work / f'{name}-{way}'}", *more)
            done = run(command, PYTHONPATH=str(path))
            assert done.returncode == 0, done.stderr
        now, then = (work / f"{name}-{way}" for name in ("now", "then"))
        found[way] = {"steps": len(losses(now)), "losses": losses(now) == losses(then)}
        for file in sorted(now.glob("checkpoints/step-000012/*.safetensors")):
            one, other = (load_file(run / file.relative_to(now)) for run in (now, then))
            same = one.keys() == other.keys() and all(one[k].equal(other[k]) for k in one)
            found[way][file.name] = same
    return found


def speed(work: Path, repeats: int) -> Any:
    """Compare tokens a second of a model whose products take most of a step."""
    model = {
        "d_model": 256, "n_layers": 4, "n_heads": 8, "n_kv_heads": 8, "d_k": 32,
        "intermediate_size_expert": 512, "intermediate_size_shared": 512,
        "rope_layers": "[1,0,1,0]", "moe_layers": "[0,1,2,3]",
    }  # fmt: skip
    recipe = recipe_in(work, batch_size=16, max_steps=24, eval_interval=24, save_interval=24)
    sizes = [f"model.{name}={value}" for name, value in model.items()]
    sizes += ["data.block_size=256", "train.micro_batch_size=8", "evaluate.questions=0"]
    ways = {"one": ["train.threads=2"], "two": ["train.threads=1", "--processes", "2"]}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, more in ways.items():
            run_dir = work / f"{name}-{repeat}"
            done = run(quatrain("sft", str(recipe), f"run_dir={run_dir}", *sizes, *more))
            assert done.returncode == 0, done.stderr
            rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
            seen = [row["tokens_per_second"] for row in rows if "loss" in row]
            rates[name].append(statistics.median(seen[1:]))
    ratios = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
    return {**rates, "ratios": ratios, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    main()
