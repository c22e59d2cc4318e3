"""Questions without an answer are trained on, evaluated, asked, reported and converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quatrain.text.abstention import ABSTENTION, Abstention
from tiny_run import recipe_in

NONE = "Sans réponse dans le texte."
NAMES = ["Ada", "Zoé", "Léo", "Max", "Eva", "Noé", "Ugo", "Lou"]
TOWNS = ["Lille", "Brest", "Metz", "Pau"]


def squad(path: Path) -> Path:
    data = []
    for name in NAMES:
        for town in TOWNS:
            context = f"{name} vit à {town}."
            qas = [
                {"question": f"Où vit {name} ?", "is_impossible": False,
                 "answers": [{"text": town, "answer_start": context.index(town)}]},
                {"question": f"Quel âge a {name} ?", "answers": [], "is_impossible": True},
            ]  # fmt: skip
            paragraph = {"context": context, "qas": qas}
            data.append({"title": f"{name} {town}", "paragraphs": [paragraph]})
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quatrain.recipe import load_config
    from quatrain.train.run import run

    directory = tmp_path_factory.mktemp("abstaining")
    recipe = recipe_in(directory, max_steps=8, eval_interval=4)
    values = [f"data.train={squad(directory / 'squad.json')}", "data.block_size=128",
              "evaluate.questions=16", "evaluate.samples=16"]  # fmt: skip
    return run(load_config(str(recipe), values), quiet=True).run_dir


def rows(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "eval_loss" in row]


def test_evaluations_score_both_kinds_and_find_a_threshold(trained: Path) -> None:
    assert len(rows(trained)) == 3
    for row in rows(trained):
        found = row["abstention"]
        both = [found[kind] for kind in ("has_answer", "no_answer")]
        assert sum(one["count"] for one in both) == 16
        mean = sum(one["count"] * one["f1"] for one in both) / 16
        assert row["f1"] == pytest.approx(mean)
        assert found["best_f1"] >= row["f1"]
    lines = (trained / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert {bool(one["gold"]) for one in samples} == {True, False}
    assert all("abstained" in one for one in samples)


def test_the_threshold_is_kept_with_each_checkpoint_and_hashed(trained: Path) -> None:
    for step in (4, 8):
        directory = trained / "checkpoints" / f"step-{step:06d}"
        if not directory.is_dir():
            continue
        kept = Abstention.load(directory)
        [row] = [row for row in rows(trained) if row["step"] == step]
        assert kept is not None
        assert kept.no_answer == NONE
        assert kept.threshold == row["abstention"]["best_threshold"]
        assert kept.questions == 16
        assert ABSTENTION in (directory / "manifest.json").read_text(encoding="utf-8")


def test_eval_obeys_the_threshold_unless_told_otherwise(quatrain: Any, trained: Path) -> None:
    file = trained.parent / "squad.json"
    found = quatrain("eval", trained, file, "--json", "--set", "max_new_tokens=4").json
    kinds = found["abstention"]
    assert (kinds["has_answer"]["count"], kinds["no_answer"]["count"]) == (32, 32)
    assert all(0 <= point <= 1 for pair in kinds["risk_coverage"] for point in pair)
    never = quatrain("eval", trained, file, "--never-abstain", "--json",
                     "--set", "max_new_tokens=4").json  # fmt: skip
    assert never["abstention"]["best_threshold"] == kinds["best_threshold"]
    assert never["abstention"]["abstained"] == 0
    assert (
        never["f1"]
        == kinds["always_answering"]["f1"]
        == never["abstention"]["has_answer"]["f1"] / 2
    )
    assert kinds["always_abstaining"]["f1"] == 50.0
    shown = quatrain("eval", trained, file, "--set", "max_new_tokens=4").out
    for words in ("without an answer", "abstained from", "always answering", "always abstaining"):
        assert words in shown
    assert "with the threshold" in shown or "as the model decides" in shown


def always_abstaining(trained: Path, directory: Path) -> Path:
    """Copy the best checkpoint, with a threshold that every prompt is above."""
    import shutil

    best = (trained / "checkpoints" / "best").resolve()
    shutil.copytree(best, directory)
    (directory / "manifest.json").unlink()
    Abstention(no_answer=NONE, threshold=-1e6).save(directory)
    return directory


def test_ask_abstains_unless_told_otherwise(quatrain: Any, trained: Path, tmp_path: Path) -> None:
    model = always_abstaining(trained, tmp_path / "model")
    assert quatrain("ask", model, "Où vit Ada ?").out.strip() == NONE
    answer = quatrain("ask", model, "Où vit Ada ?", "--json").json
    assert (answer["answer"], answer["abstained"]) == (NONE, True)
    never = quatrain("ask", model, "Où vit Ada ?", "--never-abstain", "--json",
                     "--set", "max_new_tokens=2").json  # fmt: skip
    assert "abstained" not in never
    scored = quatrain("eval", model, trained.parent / "squad.json", "--json").json["abstention"]
    assert scored["abstained"] == 64
    assert (scored["has_answer"]["f1"], scored["no_answer"]["f1"]) == (0.0, 100.0)


def test_a_converted_model_abstains_as_its_source(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    result = quatrain("convert", trained, tmp_path / "hf", "--to", "hf", "--json")
    assert result.code == 0, result.err
    best = trained / "checkpoints" / "best"
    assert Abstention.load(tmp_path / "hf") == Abstention.load(best) is not None
    assert ABSTENTION in (tmp_path / "hf" / "manifest.json").read_text(encoding="utf-8")


def test_a_gguf_file_cannot_keep_a_threshold_and_this_is_said(
    quatrain: Any, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = always_abstaining(trained, tmp_path / "model")
    quatrain("convert", model, tmp_path / "gguf", "--to", "gguf")  # which is too small for it
    assert "stores no abstention threshold" in caplog.text


def test_an_adapter_keeps_its_own_threshold_alone_and_merged(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = trained.parent / "squad.json"
    words = [f"model.init={trained}", "train.adapter=lora", f"data.train={file}",
             "data.holdout=0.25", "train.max_steps=1", "evaluate.questions=16",
             "generate.max_new_tokens=4", f"run_dir={tmp_path / 'lora'}"]  # fmt: skip
    recipe = tmp_path / "lora.yaml"
    recipe.write_text("train: {task: sft}\n", encoding="utf-8")
    assert quatrain("sft", recipe, *words).code == 0
    own = Abstention.load((tmp_path / "lora" / "checkpoints" / "best").resolve())
    assert own is not None
    for name, more in (("alone", []), ("merged", ["--merge"])):
        made = quatrain("convert", tmp_path / "lora", tmp_path / name, "--to", "hf", *more)
        assert made.code == 0, made.err
        assert Abstention.load(tmp_path / name) == own


def test_a_sentence_of_ones_own_goes_from_the_recipe_to_the_exam(
    quatrain: Any, tmp_path: Path
) -> None:
    file = squad(tmp_path / "squad.json")
    own = "data.no_answer=Aucune idée."
    trained = quatrain("sft", recipe_in(tmp_path), f"data.train={file}", "data.block_size=128",
                       "data.holdout=0", own, "train.max_steps=2", "--json")  # fmt: skip
    assert trained.code == 0, trained.err
    kept = Abstention.load(tmp_path / "run" / "checkpoints" / "best") or Abstention.load(
        tmp_path / "run" / "checkpoints" / "step-000002"
    )
    assert kept == Abstention(no_answer="Aucune idée.")
    found = quatrain("eval", tmp_path / "run", file, "--json", "--set", "max_new_tokens=2")
    assert found.json["abstention"]["no_answer"]["count"] == 32


def test_the_report_shows_both_kinds_and_the_risk(quatrain: Any, trained: Path) -> None:
    assert quatrain("report", trained, "--lang", "en").code == 0
    page = (trained / "report.html").read_text(encoding="utf-8")
    for words in ("Questions with and without an answer", "with an answer", "Risk against coverage",
                  "no answer</dd>", "training questions without an answer"):  # fmt: skip
        assert words in page
