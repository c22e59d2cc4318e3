"""A newcomer's first run, done anew in a fresh clone with an empty home, and its transcript.

    python bench/first_run.py WORK [--page docs/first-run.md]

WORK gets a clone of this repository's HEAD, a home, and what each command printed, a file each; a
command whose file is there is not run again, so that a stopped renewal goes on. The environment
of the commands is PATH, HOME and LANG alone. It installs from the network, downloads gigabytes on
Linux (torch with CUDA) and trains: reckon with ten minutes of two free cores.
"""

from __future__ import annotations

import csv
from pathlib import Path

from transcript import CLONED, ROOT, Step, sat_down

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
    desk, page = sat_down(__doc__, "first-run.md")
    write_csv(desk.clone / "fragen.csv", LEARNT)
    write_csv(desk.clone / "pruefung.csv", EXAMINED)
    parts = [HEAD, CLONED, *desk.blocks(STEPS, installs=True)]
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


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


if __name__ == "__main__":
    main()
