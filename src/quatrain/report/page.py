"""Write report.html: a single page without scripts or external resources.

What people and models wrote is hostile text: the template escapes everything, and `visible` shows
what could reorder, hide or command (control characters, marks of writing direction) as signs.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from quatrain import __version__
from quatrain.files import write_text
from quatrain.report.read import Run, read_run
from quatrain.report.tell import told
from quatrain.run_dir import PAGE
from quatrain.words import Words

_HERE = Path(__file__).parent
_LONGEST = 500
"""Characters of a question or an answer that are shown."""
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def write_report(directory: Path, language: str, now: datetime | None = None) -> Run:
    """Write report.html into a run directory; return what it tells of.

    Raises:
        CheckpointError: Q440 when the directory holds no run that has begun.
    """
    run = read_run(directory)
    write_text(directory / PAGE, render(run, Words(language), now or datetime.now()))
    return run


def render(run: Run, words: Words, now: datetime) -> str:
    """Make the page of a run."""
    template = _environment().get_template("page.html")
    return template.render(
        told(run, words),
        t=words,
        cut=lambda text: _cut(text, words),
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # our own text
        written=words("report.written", version=__version__, date=words.date(now)),
    )


def visible(value: Any) -> Any:
    """Show characters that command instead of being read: ESC as U+241B, marks of direction."""
    return _CONTROL.sub(_sign, value) if type(value) is str else value


def _sign(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\ufffd" if 0xD800 <= code <= 0xDFFF else f"⟨U+{code:04X}⟩"


def _cut(text: str, words: Words) -> str:
    """Show the beginning of a long text, and say how long it is."""
    if len(text) <= _LONGEST:
        return text
    return text[:_LONGEST] + " … " + words("report.cut", count=len(text))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
