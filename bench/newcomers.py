"""What three newcomers have on their disks: a workbook, texts with a CSV file, and TRL's files.

The texts and questions are our own. PEFT trains the adapter, in the interpreter that runs the
script, on a dense model that is there already.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MUSEUM = ROOT / "bench" / "musee"
SYMBOLS = (
    "hydrogène=H carbone=C azote=N oxygène=O sodium=Na magnésium=Mg aluminium=Al soufre=S "
    "chlore=Cl potassium=K calcium=Ca fer=Fe cuivre=Cu zinc=Zn argent=Ag étain=Sn or=Au mercure=Hg "
    "plomb=Pb uranium=U"
)
LEARNT = (
    "Quel est le symbole chimique de l'élément {} ?",
    "Symbole de l'élément {} ?",
    "Comment note-t-on l'élément {} en chimie ?",
    "Donne le symbole de l'élément {}.",
)
EXAMINED = ("Dans le tableau périodique, quel symbole a l'élément {} ?",)


def write_workbook(path: Path) -> None:
    """Write the town hall's questions as its secretary keeps them, with what a workbook gathers."""
    from openpyxl import Workbook
    from openpyxl.styles import Font

    with (ROOT / "examples" / "faq" / "questions.csv").open(encoding="utf-8", newline="") as file:
        rows = [[row["Service"], row["Question"], row["Réponse"]]
                for row in csv.DictReader(file, delimiter=";")]  # fmt: skip
    rows += [
        ["Accueil de la mairie", "Combien d'habitants compte la commune ?", 4812],
        ["Accueil de la mairie", "Quand a lieu la prochaine réunion publique ?", date(2027, 1, 15)],
        ["Eau et voirie", "Quand la rue Basse sera-t-elle rouverte ?", None],
    ]
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Questions"
    sheet.append(["Questions posées au guichet"])
    sheet.append([])
    sheet.append(["Service", "Question", "Réponse", "Modifiée le"])
    for cell in sheet[3]:
        cell.font = Font(bold=True)
    for number, row in enumerate(rows):
        sheet.append([*row, date(2026, 1, 5) + timedelta(days=number)])
        for column, value in enumerate([*row, date.min], start=1):
            if not isinstance(value, str):
                form = "#,##0" if isinstance(value, int) else "dd/mm/yyyy"
                sheet.cell(sheet.max_row, column).number_format = form
    book.create_sheet("Notes").append(["Demander les horaires d'hiver au gymnase."])
    book.save(path)


def write_museum(folder: Path) -> None:
    """Write `textes/` and `musee.csv`, in Windows-1252 and with semicolons, as Excel does."""
    texts = folder / "textes"
    texts.mkdir(exist_ok=True)
    for path in MUSEUM.iterdir():
        if path.suffix in (".txt", ".md"):
            shutil.copy(path, texts)
    table = (MUSEUM / "questions.csv").read_text(encoding="utf-8")
    (folder / "musee.csv").write_text(table, encoding="cp1252", newline="\r\n")


def write_trl(path: Path, wordings: tuple[str, ...]) -> None:
    """Write prompts and completions as lists of messages, an object a line."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in prompts(wordings)]
    path.write_text("".join(lines), encoding="utf-8")


def prompts(wordings: tuple[str, ...]) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Ask for each symbol in each wording."""
    for wording in wordings:
        for pair in SYMBOLS.split():
            element, symbol = pair.split("=")
            yield {
                "prompt": [{"role": "user", "content": wording.format(element)}],
                "completion": [{"role": "assistant", "content": symbol}],
            }


def train_adapter(dense: Path, adapter: Path, steps: int = 12) -> None:
    """Let PEFT train an adapter on the first wording, a question at a time, as a script of its own.

    The adapter names its base by a relative path, as one that was trained beside it does.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(dense)
    plain = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    plain.name_or_path = dense.name
    shape = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj"],
                       task_type="CAUSAL_LM")  # fmt: skip
    model: Any = get_peft_model(plain, shape)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows = list(prompts(LEARNT[:1]))
    for step in range(steps):
        batch = rows[step % 2 :: 2]
        for row in batch:
            asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"])
            ids = torch.tensor([whole["input_ids"]])
            labels = ids.clone()
            labels[:, : len(asked["input_ids"])] = -100
            (model(ids, labels=labels).loss / len(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(adapter)


def answered_by_peft(dense: Path, adapter: Path, question: str) -> str:
    """Let PEFT open an adapter beside its base, and answer greedily."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(dense)
    plain = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(plain, adapter)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = model.generate(**asked, max_new_tokens=32, do_sample=False)
    text: str = tokenizer.decode(ids[0][asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()
