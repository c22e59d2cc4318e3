"""The pages' tables of speed, made from the results in bench/results/*.json.

    python bench/tables.py

A table stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`. A row is of the newest
result of its name, and says "not measured yet" where there is none. Needs neither torch nor a
result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saving import RESULTS

ROOT = Path(__file__).parents[1]
PAGES = {
    "docs/guide.md": "en",
    "docs/guide.fr.md": "fr",
    "docs/performance.md": "en",
    "docs/scout.md": "en",
}
MARKED = re.compile(r"(<!-- bench:([\w-]+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)
NOT_YET = {"en": "not measured yet", "fr": "pas encore mesuré"}

Results = dict[str, dict[str, Any]]
"""The newest result of each name."""


@dataclass(frozen=True)
class Row:
    """A claim: whose result it reads, and how its figure is found there."""

    name: str
    title: dict[str, str]
    path: tuple[str, ...]
    """Keys that lead to the figure in `result`."""
    kind: str = "times"
    """times: a ratio with its spread; share: a percentage; number: as it is."""


def row(name: str, en: str, fr: str, *path: str, kind: str = "times") -> Row:
    return Row(name, {"en": en, "fr": fr}, path, kind)


STEP, STEP_BF16 = "step-8-layers-16-experts-fp32", "step-8-layers-16-experts-bf16"
GPU = "step-16-layers-16-experts-bf16-none-cuda-d2048"
SPEED = (
    row(STEP, "training step, 8 layers, 16 experts, float32: times as fast as transformers",
        "un pas, 8 couches, 16 experts, float32\u00a0: fois plus rapide que transformers",
        "times_as_fast"),
    row(f"{STEP}-even", "the same, where transformers keeps freed memory and has oneDNN too",
        "le même, quand transformers garde aussi la mémoire libérée et a oneDNN",
        "times_as_fast"),
    row(STEP_BF16, "the first in bfloat16", "le premier en bfloat16", "times_as_fast"),
    row("answer-tokens", "answer tokens a second, times TRL's default",
        "tokens de réponse à la seconde, par rapport à TRL tel quel", "packed_over", "trl"),
    row("answer-tokens", "answer tokens a second, times TRL's packing",
        "tokens de réponse à la seconde, par rapport à TRL avec packing",
        "packed_over", "trl-packed"),
    row("prepare", "preparing questions, times as fast as TRL",
        "préparation des questions\u00a0: fois plus rapide que TRL", "times_as_fast"),
)  # fmt: skip
STEPS = (
    *SPEED[:3],
    row("step-2-layers-64-experts-fp32", "2 layers, 64 experts, float32", "", "times_as_fast"),
    row("step-8-layers-16-experts-autocast", "8 layers, 16 experts, autocast", "",
        "times_as_fast"),
    row(STEP, "peak memory, float32, over transformers'", "", "share_of_memory", kind="share"),
    row(f"{STEP}-none", "share of the best GEMM rate, float32", "", "ours", "share_of_gemm",
        kind="share"),
    row(f"{STEP}-none", "the same, of the rate at which PyTorch multiplies by itself", "", "ours",
        "share_of_gemm_of_pytorch", kind="share"),
    row(f"{STEP_BF16}-none", "share of the best GEMM rate, bfloat16", "", "ours", "share_of_gemm",
        kind="share"),
    row(STEP, "tokens a second, float32", "", "ours", "tokens_per_second", kind="number"),
    row(f"{STEP}-dense", "dense twin of equal active size: its seconds over ours", "",
        "times_as_fast"),
)  # fmt: skip
LAYER = (
    *(row("moe-layer-fp32", f"{n} experts, float32: times as fast as transformers", "",
          "times_as_fast", n) for n in ("4", "16")),
    row("moe-layer-fp32", "64 experts over 4, equal tokens", "", "most_over_fewest"),
    row("moe-layer-fp32", "64 experts over 4, a token, at equal tokens an expert", "",
        "most_over_fewest_at_equal_tokens_an_expert"),
    row("moe-layer-bf16", "16 experts, bfloat16: times as fast as transformers", "",
        "times_as_fast", "16"),
)  # fmt: skip
ANSWERS = tuple(
    row("answer-tokens", f"packed rows over {what}", "", "packed_over", key)
    for key, what in (("padded", "ours padded to the longest"), ("trl", "TRL's default"),
                      ("trl-packed", "TRL's packing"), ("original", "the original's way"))
)  # fmt: skip
PREPARE = (
    row("prepare", "100,000 records: times as fast as TRL", "", "times_as_fast"),
    row("prepare", "1,000,000 records, seconds", "", "ours:1000000", "seconds", kind="number"),
    row("prepare", "1,000,000 records, peak MB", "", "ours:1000000", "peak_mb", kind="number"),
    row("prepare", "seconds grow as records to the power of", "",
        "seconds_grow_as_records_to_the"),
)  # fmt: skip
ON_GPU = (
    row(GPU, "step of 64k tokens, share of the GEMM rate", "", "ours", "share_of_gemm",
        kind="share"),
    row(GPU, "step of 64k tokens, tokens a second", "", "ours", "tokens_per_second",
        kind="number"),
    row("moe-layer-bf16-cuda", "MoE layer at Scout's dimensions, share of the GEMM rate", "",
        "sides", "ours:16:16384:scout", "share_of_gemm", kind="share"),
    row("step-4-layers-16-experts-bf16-cuda-d2048", "step, 4 layers: times as fast as transformers",
        "", "times_as_fast"),
    row("device-parity", "largest difference of a gradient from the CPU's", "",
        "largest_difference_of_gradients_over_largest_gradient", kind="small"),
)  # fmt: skip
ON_GPU_SCOUT = tuple(
    row(f"gpu-scout-{place}", f"{where}: {what}", "", key, kind=kind)
    for place, where in (("device", "the base on the GPU"), ("host", "24 GB, the base beside it"))
    for what, key, kind in (("tokens a second", "tokens_per_second", "number"),
                            ("peak of the GPU's memory, GB", "peak_gb", "times"),
                            ("the same as planned, GB", "planned_gb", "times"))
)  # fmt: skip
SCALING = (
    row("scaling", "64 experts over 1, at one a token", "", "experts", "last_over_first"),
    row("scaling", "rows of 4,096 over 512, chunked", "", "chunked", "last_over_first"),
    row("scaling", "rows of 4,096 over 512, global", "", "global", "last_over_first"),
    row("scaling", "two threads over one, seconds", "", "threads", "last_over_first"),
)  # fmt: skip
TABLES = {"speed": SPEED, "step": STEPS, "moe-layer": LAYER, "answer-tokens": ANSWERS,
          "prepare": PREPARE, "scaling": SCALING, "gpu": ON_GPU,
          "gpu-scout": ON_GPU_SCOUT}  # fmt: skip
PICTURES = {"scaling": "![Seconds a step over experts, length of rows, threads](scaling.svg)"}
TO = {"en": "to", "fr": "à"}
HEADS = {"en": ("what", "figure", "least to most", "measured"),
         "fr": ("quoi", "chiffre", "du moindre au plus grand", "mesuré")}  # fmt: skip


def main() -> None:
    results = newest(read_results(RESULTS))
    for name, language in PAGES.items():
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        path.write_text(rewritten(page, results, language), encoding="utf-8")


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Read every JSON result, by the names of their files."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*.json"))]


def newest(results: Iterable[dict[str, Any]]) -> Results:
    """Keep the last of each name, by date."""
    return {one["name"]: one for one in sorted(results, key=lambda one: str(one["date"]))}


def rewritten(page: str, results: Results, language: str) -> str:
    """Write each table that a page marks."""
    return MARKED.sub(lambda m: m[1] + table(m[2], results, language) + m[4], page)


def table(name: str, results: Results, language: str) -> str:
    """Make one table, a line for each claim, and below it where its results come from."""
    lines = [HEADS[language], ("---",) * len(HEADS[language])]
    lines += [cells(one, results, language) for one in TABLES[name]]
    names = dict.fromkeys(one.name for one in TABLES[name] if one.name in results)
    notes = [note(results[one]) for one in names] if name != "speed" else []
    if name in PICTURES and names:
        notes.append(PICTURES[name])
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return rows + ("\n" + "".join(f"- {text}\n" for text in notes) if notes else "")


def cells(one: Row, results: Results, language: str) -> tuple[str, ...]:
    """Fill one line: title, figure, spread, and date with commit."""
    figure = found(one, results)
    if figure is None:
        return one.title[language], NOT_YET[language], "", ""
    source = results[one.name]
    spread = ""
    if isinstance(figure, dict):
        least, most = (WRITTEN[one.kind](figure[key]) for key in ("least", "most"))
        figure, spread = figure["median"], f"{least} {TO[language]} {most}"
    told = (WRITTEN[one.kind](figure), spread)
    if language == "fr":
        told = tuple(french(text) for text in told)
    return one.title[language], *told, f"{source['date']}, {source['commit']}"


def french(figure: str) -> str:
    """Write a figure as French does: 1 234,5 and 56 %, with spaces that do not break."""
    space = "\N{NO-BREAK SPACE}"
    return figure.replace(",", space).replace(".", ",").replace(" %", f"{space}%")


def found(one: Row, results: Results) -> Any:
    """Follow a claim's path into its result; None where it ends early."""
    value: Any = results.get(one.name, {}).get("result")
    for key in one.path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def note(result: dict[str, Any]) -> str:
    """Say how one result was had."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    machine = result["machine"]
    place = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores"
    return f"`{result['command']}`: {place}; {versions}"


WRITTEN: dict[str, Callable[[float], str]] = {
    "times": lambda value: f"{value:.2f}",
    "share": lambda value: f"{100 * value:.1f} %",
    "number": lambda value: f"{value:,.0f}",
    "small": lambda value: f"{value:.1e}",
}

if __name__ == "__main__":
    main()
