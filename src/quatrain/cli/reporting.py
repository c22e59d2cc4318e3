"""`quatrain report`."""

from __future__ import annotations

import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import Any

from quatrain.locale import choose_language
from quatrain.run_dir import PAGE
from quatrain.words import say, spoken


def run_report(directory: Path, language: str | None, as_json: bool, in_browser: bool) -> None:
    """Write the report of a run, and print its path."""
    language = spoken().language if language is None else choose_language(language, os.environ)
    from quatrain.report.page import write_report

    run = write_report(directory, language)
    page = directory / PAGE
    if as_json:
        print(json.dumps(_described(run, page), ensure_ascii=False))
    else:
        print(page)
    if in_browser and not webbrowser.open(page.resolve().as_uri()):
        print(say("cli.report.no_browser", page=page), file=sys.stderr)


def _described(run: Any, page: Path) -> dict[str, Any]:
    """Return the headline figures as plain values."""
    from quatrain.report.heat import heat_maps

    series = run.series
    best = [row for row in series.evaluations if row["step"] == run.best_step]
    return {
        "report": str(page),
        "finished": run.finished,
        "step": series.last_step,
        "best_step": run.best_step,
        "first_evaluation": series.evaluations[0] if series.evaluations else None,
        "best_evaluation": best[0] if best else None,
        "training_seconds": series.training_seconds,
        "tokens": series.tokens,
        "experts": {
            str(one.layer): {"busiest": one.end.busiest, "dead": list(one.end.dead)}
            for one in heat_maps(series)
        },
    }
