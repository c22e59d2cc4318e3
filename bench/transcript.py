"""A newcomer's desk: a fresh clone, an empty home, and a page of commands with what they printed.

Scripts that write such a page say its steps; this runs each step once, and keeps what it printed in
a file, so that a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quatrain.words import catalogue

ROOT = Path(__file__).parents[1]
CLONED = "```console\n$ git clone REPOSITORY quatrain\n$ cd quatrain\n```"


def sat_down(about: str | None, page: str) -> tuple[Desk, Path]:
    """Read the command line of a script that writes a page, and clone where that is not done.

    Args:
        about: what the script does.
        page: of docs/, written where no other is named.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("work", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / page)
    options = parser.parse_args()
    desk = Desk(options.work.resolve())
    desk.set_up()
    return desk, options.page


@dataclass(frozen=True)
class Step:
    """What is said, and the command that follows.

    `fails` where an error is the lesson; `before` makes, in the clone, what the reader has by then.
    """

    words: str
    command: str
    fails: bool = False
    before: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Desk:
    """A directory with the clone, the home, and the output of each command."""

    work: Path

    @property
    def clone(self) -> Path:
        """The working directory of the commands."""
        return self.work / "clone"

    def set_up(self) -> None:
        """Clone the HEAD of this repository, where that is not done."""
        if not self.clone.exists():
            (self.work / "home").mkdir(parents=True, exist_ok=True)
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)

    def blocks(
        self, steps: tuple[Step, ...], prefix: str = "", installs: bool = False
    ) -> list[str]:
        """Give the words and the console of each step; the first installs, where `installs`."""
        blocks = list[str]()
        for number, step in enumerate(steps):
            activated = not installs or number > 0
            said = self._printed(f"{prefix}{number:02d}", step, activated)
            shown = "$ . .venv/bin/activate\n" if installs and number == 1 else ""
            lines = [f"{shown}$ {step.command}", *filter(None, [shortened(said, self.work)])]
            console = "\n".join(["```console", *lines, "```"])
            blocks += [step.words, console] if step.words else [console]
        return blocks

    def _printed(self, name: str, step: Step, activated: bool) -> str:
        """Run a command where that is not done, and give what it printed."""
        log = self.work / f"{name}.txt"
        if log.exists():
            return log.read_text(encoding="utf-8")
        if step.before:
            step.before(self.clone)
        python = Path(getattr(sys, "_base_executable", sys.executable)).resolve().parent
        environment = {
            "PATH": os.pathsep.join([str(python), "/usr/bin", "/bin"]),
            "HOME": str(self.work / "home"),
            "LANG": "C.UTF-8",
        }
        command = f". .venv/bin/activate && {step.command}" if activated else step.command
        print(f"$ {step.command}", flush=True)
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.clone, env=environment, encoding="utf-8",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        if (done.returncode != 0) != step.fails:
            sys.exit(f"{done.stdout}\n{step.command}: ended with {done.returncode}")
        log.write_text(done.stdout, encoding="utf-8")
        return done.stdout


PROGRESS = re.compile(
    "|".join(
        ".*" + re.escape(text.rpartition("}")[2]) if text.startswith("{")
        else re.escape(text) + r"( \d| \(|$| ·)"
        for text in (*catalogue("progress", "en").values(), catalogue("train", "en")["bar"])
        if not text.startswith("{done}")
    )
    + r"|.*\d+%\|"
)  # fmt: skip
"""Lines that say what is being done, when nothing else was said for a while; bars of libraries."""


def shortened(text: str, work: Path) -> str:
    """Leave out installation, and progress but for its ends; take out where it was run."""
    text = text.replace(str(work / "clone"), "quatrain").rstrip()
    text = re.sub(
        r"(-m pip install .*\n)(?:.*\n)*?(?=\S+quatrain demo$)", r"\1...\n", text, flags=re.M
    )
    lines, kept = [line for line in text.splitlines() if not PROGRESS.match(line)], list[str]()
    for place, line in enumerate(lines):
        around = lines[max(0, place - 1) : place + 2]
        if len(around) == 3 and all(re.match(r"step \d+/\d+  loss", one) for one in around):
            kept += [] if kept[-1] == "..." else ["..."]
        else:
            kept.append(line.rstrip())
    return "\n".join(kept)
