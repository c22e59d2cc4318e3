"""What several processes are held to, on one machine without a GPU.

    python bench/ranks.py WORK [same faults resume kills torchrun nodes speed] [--kills 20]

same      losses of 20 steps and gradients, against one process: 2 and 4 processes, all meshes
faults    every fault, at 2 and at 4 processes: seconds until all are gone, line, exit code
resume    saved at 4 processes (two for each set of experts), resumed at 1, 2 and 4
kills     SIGKILL to random processes at random instants, until so many; what differs at the end
torchrun  the demo under torchrun and --processes, against one process; a kill with --max-restarts
nodes     two machines, as network namespaces of this one (needs root): the command of docs/scale.md
speed     two processes of one thread against one process of two

Prints JSON, one line for each part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"
SOURCE = Path(__file__).parents[1] / "src"
TWO = ("dense:1:1 top_2:1:1 tied:1:1 biased:1:1 recomputed:2:1 sixteen:2:1 skewed:2:1 adapters:2:1 "
       "dropout:1:1 bf16:2:1 nf4:1:1 nf4:2:1 nf4_attention:2:1 stored_tables:2:1 "
       "top_2:1:2").split()  # fmt: skip
FOUR = ("dense:1:1 top_2:1:1 top_2:4:1 sixteen:2:1 sixteen:4:1 sixteen:2:2 skewed:4:1 adapters:4:1 "
        "nf4:2:1 nf4:4:1 biased:1:2").split()  # fmt: skip
FAULTS = ("killed", "raised", "memory", "hung", "stopped", "shape", "recipe", "data", "folder",
          "not finite", "disk", "clock", "missing", "port")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("parts", nargs="*", default=[])
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], Any]] = {
        "same": same, "faults": faults, "resume": resume,
        "kills": lambda work: kills(work, options.kills), "torchrun": torchrun, "nodes": nodes,
        "speed": speed,
    }  # fmt: skip
    for name in options.parts or parts:
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
        found[world] = {
            case: {name: one[name] for name in ("losses", "norms", "gradients", "loads")}
            for case, one in report.items()
        }
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


def kills(work: Path, number: int) -> Any:
    return script("whole_runs.py", str(work), "kills", "--world", "2", "--kills", str(number))


def recipe_in(work: Path, **train: Any) -> Path:
    sys.path.insert(0, str(TESTS))
    from tiny_run import recipe_in as write

    return write(work, **train)


def losses(run_dir: Path) -> list[float]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def apart(one: Path, other: Path) -> float:
    pairs = zip(losses(one), losses(other), strict=True)
    return max(abs(a - b) / a for a, b in pairs)


def quatrain(*words: str) -> list[str]:
    return [sys.executable, "-m", "quatrain", *words]


def torchrun_of(*words: str, options: tuple[str, ...] = ("--standalone",)) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", "2"]
    return [*launcher, "-m", "quatrain", *words]


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
    return found | {"restart": restart(work, recipe)}


def restart(work: Path, recipe: Path) -> Any:
    """Kill a process once there is a checkpoint; torchrun starts both again."""
    run_dir = work / "restarted"
    started = subprocess.Popen(
        torchrun_of("sft", str(recipe), f"run_dir={run_dir}",
                    options=("--standalone", "--max-restarts", "1")),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    beat = run_dir / ".ranks" / "beat-1.json"
    while not (run_dir / "checkpoints" / "step-000004").exists():
        time.sleep(0.05)
        assert started.poll() is None, "it ended before it could be killed"
    os.kill(json.loads(beat.read_text())["pid"], signal.SIGKILL)
    return {"code": started.wait(), "apart": apart(work / "one", run_dir)}


def nodes(work: Path) -> Any:
    """Run two launchers in two network namespaces that a pair of interfaces joins."""
    recipe = recipe_in(work, batch_size=4)
    one = run(quatrain("sft", str(recipe), f"run_dir={work / 'one'}")).returncode
    names, links = ("quatrain-a", "quatrain-b"), ("qa", "qb")
    for command in (
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", links[0], "type", "veth", "peer", "name", links[1]],
    ):
        subprocess.run(command, check=True)
    try:
        for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
            inside = ["ip", "netns", "exec", name]
            subprocess.run(["ip", "link", "set", link, "netns", name], check=True)
            for words in (["addr", "add", f"10.77.0.{number}/24", "dev", link],
                          ["link", "set", link, "up"], ["link", "set", "lo", "up"]):  # fmt: skip
                subprocess.run([*inside, "ip", *words], check=True)
        started = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *torchrun_of(
                    "sft", str(recipe), f"run_dir={work / 'two'}",
                    options=("--nnodes", "2", "--node-rank", str(rank), "--master-addr",
                             "10.77.0.1", "--master-port", "29500"))],
                env=environment(GLOO_SOCKET_IFNAME=link),
            )
            for rank, (name, link) in enumerate(zip(names, links, strict=True))
        ]  # fmt: skip
        codes = [one.wait() for one in started]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
    return {"codes": [one, *codes], "apart": apart(work / "one", work / "two")}


def speed(work: Path) -> Any:
    """Compare tokens a second of a model whose products take most of a step."""
    model = {"d_model": 256, "n_layers": 4, "n_heads": 8, "d_k": 32, "num_local_experts": 4}
    recipe = recipe_in(work, batch_size=16, max_steps=14, eval_interval=14, save_interval=14)
    sizes = [f"model.{name}={value}" for name, value in model.items()]
    sizes += ["data.block_size=256", "train.micro_batch_size=8", "evaluate.questions=0"]
    rates: dict[str, float] = {}
    for name, more in (("one", ["train.threads=2"]),
                       ("two", ["train.threads=1", "--processes", "2"])):  # fmt: skip
        command = quatrain("sft", str(recipe), f"run_dir={work / name}", *sizes, *more)
        done = run(command)
        assert done.returncode == 0, done.stderr
        rows = map(json.loads, (work / name / "metrics.jsonl").read_text().splitlines())
        seen = sorted(row["tokens_per_second"] for row in rows if "loss" in row)
        rates[name] = seen[len(seen) // 2]
    return {**rates, "ratio": rates["two"] / rates["one"]}


if __name__ == "__main__":
    main()
