"""How a step's cost grows: with experts at fixed k, with the length of rows, with threads.

    python bench/scaling.py [--save]
    python bench/scaling.py --draw bench/results/DATE-scaling.json

Each point is a whole training step of ours in a child of its own, of equal tokens a step. Lengths
are measured with every layer on chunks of 512, whose attention is linear in the length, and with
every layer global, whose attention is not. A result that is saved is drawn in
docs/scaling.svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from active_flops import step_flops
from paired import WARM_UP, Conditions, Found, Watch, add_arguments, alternate, figures, timed
from saving import finish
from sides import as_in_a_run, shape
from step import our_step

from quatrain.config import ModelConfig

CHUNK = 512
PICTURE = Path(__file__).parents[1] / "docs" / "scaling.svg"


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options)))
        return
    if options.draw:
        draw(json.loads(options.draw.read_text(encoding="utf-8")), options.picture)
        return
    names = points(options)
    found = alternate(__file__, names, options.repeats, conditions=Conditions.of(options))
    result = summed_up(found, options)
    whole = finish("scaling", "scaling", options, result)
    if options.save:
        draw(json.loads(json.dumps(whole)), options.picture)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--experts", default="1,4,16,64")
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--counts", default="1,2", help="of threads")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--draw", type=Path, help="a result, to be drawn")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    add_arguments(parser)
    options = parser.parse_args()
    options.micro_rows, options.checkpointing = None, False
    if options.smoke:
        options.experts, options.lengths, options.counts = "2", "", ""
        options.layers, options.width, options.tokens = 1, 64, 1024
        options.steps, options.repeats = 1, 1
    return options


def points(options: argparse.Namespace) -> list[str]:
    """Name the children: `experts:16`, `chunked:2048`, `global:2048`, `threads:1`."""
    lengths = _numbers(options.lengths)
    return [
        *(f"experts:{number}" for number in _numbers(options.experts)),
        *(f"{kind}:{number}" for number in lengths for kind in ("chunked", "global")),
        *(f"threads:{number}" for number in _numbers(options.counts)),
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Time one point's steps."""
    kind, number = options.child.split(":")
    torch.set_num_threads(int(number) if kind == "threads" else options.threads)
    length = int(number) if kind in ("chunked", "global") else CHUNK
    config = config_of(kind, int(number), options)
    rows = options.tokens // length
    numbers = np.random.default_rng(0)
    with Watch(options.device) as watch, as_in_a_run():
        step = our_step(config, options)

        def one() -> None:
            step(numbers.integers(0, config.vocab_size, (rows, length)))

        seconds = timed(one, WARM_UP, options.steps, options.device)
    flops = step_flops(config, [length] * rows, rows * (length - 1))
    return {"seconds": seconds, "peak_mb": watch.peak_mb, "tokens": rows * length, "flops": flops}


def config_of(kind: str, number: int, options: argparse.Namespace) -> ModelConfig:
    return shape(
        n_layers=options.layers, d_model=options.width,
        intermediate_size_expert=2 * options.width,
        num_local_experts=number if kind == "experts" else 16,
        rope_layers=(int(kind == "chunked"),) * options.layers, attention_chunk_size=CHUNK,
    )  # fmt: skip


def summed_up(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Give each kind's points, and what the last costs over the first."""
    result: dict[str, Any] = {}
    for name, runs in found.items():
        kind, number = name.split(":")
        result.setdefault(kind, {})[number] = figures(runs)
    for series in list(result.values()):
        seconds = [point["seconds"] for point in series.values()]
        series["last_over_first"] = seconds[-1] / seconds[0]
    return result


def draw(whole: dict[str, Any], picture: Path) -> None:
    """Draw seconds a step against experts, length and threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "quatrain"  # the same result gives the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    panels = (("experts, one a token", ("experts",)),
              ("tokens in a row, as many a step", ("chunked", "global")),
              ("threads", ("threads",)))  # fmt: skip
    for axis, (label, kinds) in zip(axes, panels, strict=True):
        for kind in kinds:
            series = {int(n): p for n, p in whole["result"].get(kind, {}).items() if n.isdigit()}
            seconds = [point["seconds"] for point in series.values()]
            axis.plot(list(series), seconds, marker="o", label=kind)
            axis.set_xticks(list(series), [str(number) for number in series])
        axis.set(xlabel=label, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        if len(kinds) > 1:
            axis.legend(frameon=False)
    axes[0].set_ylabel("seconds a step")
    figure.suptitle(
        f"{whole['machine']['processor']}, {whole['settings']['dtype']}, {whole['date']}, "
        f"{whole['commit']}", fontsize=9,
    )  # fmt: skip
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
