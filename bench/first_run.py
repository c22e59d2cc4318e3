"""A newcomer's first run, done anew in a fresh clone with an empty home, and its transcript.

    python bench/first_run.py WORK [--page docs/first-run.md]

WORK gets a clone of this repository's HEAD, a home, and what each command printed, a file each; a
command whose file is there is not run again, so that a stopped renewal goes on. The environment
of the commands is PATH, HOME and LANG alone. It installs from the network, downloads gigabytes on
Linux (torch with CUDA) and trains: reckon with ten minutes of two free cores.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from quatrain.words import catalogue

ROOT = Path(__file__).parents[1]
CAPITALS = (
    "Österreich=Wien Belgien=Brüssel Bulgarien=Sofia Dänemark=Kopenhagen Estland=Tallinn "
    "Finnland=Helsinki Frankreich=Paris Griechenland=Athen Irland=Dublin Italien=Rom "
    "Kroatien=Zagreb Lettland=Riga Litauen=Vilnius Luxemburg=Luxemburg Malta=Valletta "
    "Norwegen=Oslo Polen=Warschau Portugal=Lissabon Rumänien=Bukarest Schweden=Stockholm "
    "Slowenien=Ljubljana Spanien=Madrid Tschechien=Prag Ungarn=Budapest"
)
LEARNT = (
    "Was ist die Hauptstadt von {}?",
    "Wie heißt die Hauptstadt von {}?",
    "Nenne die Hauptstadt von {}.",
    "Welche Stadt ist die Hauptstadt von {}?",
    "Hauptstadt von {}?",
)
EXAMINED = ("Weißt du, wie die Hauptstadt von {} heißt?",)
COLUMNS = "data.columns.question=Frage data.columns.answer=Antwort"


@dataclass(frozen=True)
class Step:
    """What is said, and the command that follows; `fails` where an error is the lesson."""

    words: str
    command: str
    fails: bool = False


STEPS = (
    Step("One command installs and trains.", "make demo"),
    Step("The model answers a question that it has not seen in this wording.",
         'quatrain ask runs/demo "Quel est le produit de 6 et 2 ?"'),
    Step("`fragen.csv` has questions of one's own, as a spreadsheet in German writes it: columns "
         "`Frage;Antwort`, Windows-1252. They are not recognised; the error says what to write.",
         "quatrain data inspect fragen.csv", fails=True),
    Step("With the columns named, it tells what a training would find. That the model is to learn "
         "German from a French one is two warnings, not a reason to stop.",
         f"quatrain data inspect fragen.csv {COLUMNS} --eval pruefung.csv --tokenizer runs/demo"),
    Step("Fine-tuning begins with the weights of the demo, and holds a tenth of the questions out. "
         "One thread, forty steps: the machine has other work, and there is little to learn.",
         f"quatrain sft openquizz data.train=fragen.csv {COLUMNS} model.init=runs/demo "
         "run_dir=runs/mine train.max_steps=40 train.threads=1"),
    Step("An exam in a wording that was not trained on.",
         f"quatrain eval runs/mine pruefung.csv {COLUMNS}"),
    Step("Two questions more: one that it was taught, and one that it knew before.",
         'quatrain ask runs/mine "Weißt du, wie die Hauptstadt von Österreich heißt?"'),
    Step("", 'quatrain ask runs/mine "Quel est le produit de 6 et 2 ?"'),
    Step("The page of the run, to be opened in a browser ([what is on it](report.md)).",
         "quatrain report runs/mine"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "first-run.md")
    options = parser.parse_args()
    work = options.work.resolve()
    clone = work / "clone"
    if not clone.exists():
        (work / "home").mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    write_csv(clone / "fragen.csv", LEARNT)
    write_csv(clone / "pruefung.csv", EXAMINED)
    parts = [
        HEAD,
        "\n".join(("```console", "$ git clone REPOSITORY quatrain", "$ cd quatrain", "```")),
    ]
    for number, step in enumerate(STEPS):
        said = printed(work, number, step)
        activated = "$ . .venv/bin/activate\n" if number == 1 else ""
        shown = f"```console\n{activated}$ {step.command}\n{shortened(said, work)}\n```"
        parts += [step.words, shown] if step.words else [shown]
    options.page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


HEAD = f"""# A first run

What a person sees who has a fresh clone, an empty home and the README: every command below was
run in this order, and its output stands as it came; `...` stands for lines left out (installation,
progress).
Made by `{Path(__file__).relative_to(ROOT).as_posix()}`, which also writes both CSV files.
Times are those of a machine of two cores that had other work too."""


def write_csv(path: Path, wordings: tuple[str, ...]) -> None:
    """Write questions on capitals as a spreadsheet in German would."""
    with path.open("w", encoding="cp1252", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Frage", "Antwort"])
        for wording in wordings:
            for pair in CAPITALS.split():
                country, capital = pair.split("=")
                rows.writerow([wording.format(country), capital])


def printed(work: Path, number: int, step: Step) -> str:
    """Run a command where that is not done, and give what it printed."""
    log = work / f"{number:02d}.txt"
    if log.exists():
        return log.read_text(encoding="utf-8")
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve().parent
    environment = {
        "PATH": os.pathsep.join([str(python), "/usr/bin", "/bin"]),
        "HOME": str(work / "home"),
        "LANG": "C.UTF-8",
    }
    command = step.command if number == 0 else f". .venv/bin/activate && {step.command}"
    print(f"$ {step.command}", flush=True)
    done = subprocess.run(
        ["bash", "-c", command], cwd=work / "clone", env=environment, encoding="utf-8",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
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
)  # fmt: skip
"""Lines that say what is being done, when nothing else was said for a while."""


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


if __name__ == "__main__":
    main()
