"""`quatrain eval`: its intervals, two models on the same questions, and fewer bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quatrain.text.abstention import Abstention
from quatrain.words import say
from tiny_run import COLOURS, THINGS, tiny_run

ASKED = "{} est {}. De quelle couleur ?"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quatrain.train.run import run

    directory = tmp_path_factory.mktemp("trained")
    return run(tiny_run(directory, max_steps=80, eval_interval=40), quiet=True).run_dir


def exam(directory: Path, passage: str | None = None) -> Path:
    """Ask all that was taught, perhaps of one passage."""
    rows = [
        {"instruction": ASKED.format(thing, colour), "input": passage or "", "output": colour}
        for thing in THINGS
        for colour in COLOURS
    ]
    file = directory / "exam.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_the_last_line_has_intervals_and_json_has_them_too(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path)
    found = quatrain("eval", trained, file, "--json").json
    assert set(found["ci95"]) == {"exact_match", "f1"}
    for score, (low, high) in found["ci95"].items():
        assert 0 <= low <= found[score] <= high <= 100
    low, high = found["ci95"]["f1"]
    shown = quatrain("eval", trained, file)
    assert f"{found['f1']:.1f} ({low:.0f} to {high:.0f})" in shown.out
    assert "from 24 questions in 24 groups" in shown.out
    french = quatrain("eval", trained, file, "--lang", "fr").out
    assert f"{found['f1']:.1f} ({low:.0f} à {high:.0f})".replace(".", ",") in french


def test_questions_of_one_passage_have_no_interval(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path, passage="Un mur.")
    found = quatrain("eval", trained, file, "--json").json
    assert found["ci95"] == {"exact_match": None, "f1": None}
    assert "no intervals: all questions belong together" in quatrain("eval", trained, file).out


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was taught less."""
    from quatrain.train.run import run

    return run(tiny_run(tmp_path_factory.mktemp("other"), max_steps=2), quiet=True).run_dir


def test_two_models_are_compared_question_by_question(
    quatrain: Any, trained: Path, other: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path)
    found = quatrain("eval", trained, "--against", other, file, "--json").json
    alone = [quatrain("eval", model, file, "--json").json for model in (trained, other)]
    assert found["against"] == alone[1]
    assert {name: found[name] for name in alone[0]} == alone[0]
    counts = [found[name] for name in ("fixed", "broken", "both_right", "both_wrong")]
    assert sum(counts) == found["count"] == 24
    difference = found["exact_match"] - found["against"]["exact_match"]
    assert difference == pytest.approx(100 * (counts[0] - counts[1]) / 24)
    assert found["difference"]["exact_match"] == pytest.approx(difference)
    assert counts[0] > 0
    shown = quatrain("eval", trained, "--against", other, file, "--lang", "fr").out
    assert f"corrigées, {min(5, counts[0])} sur {counts[0]}" in shown
    assert found["examples"]["fixed"][0]["question"] in shown


def test_a_model_against_itself_differs_in_nothing(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    found = quatrain("eval", trained, exam(tmp_path), "--against", trained, "--json").json
    assert (found["fixed"], found["broken"], found["p"]) == (0, 0, 1.0)
    assert found["difference"]["ci95"] == {"exact_match": [0.0, 0.0], "f1": [0.0, 0.0]}


def test_one_model_at_a_time_is_in_memory(
    quatrain: Any, trained: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from quatrain.generate.answer import Answerer

    opened, alive = list[weakref.ref[Any]](), list[int]()
    original = Answerer.__init__

    def noted(self: Answerer, *given: Any, **named: Any) -> None:
        alive.append(sum(one() is not None for one in opened))
        original(self, *given, **named)
        opened.append(weakref.ref(self.model))

    monkeypatch.setattr(Answerer, "__init__", noted)
    assert quatrain("eval", trained, "--against", other, exam(tmp_path), "--json").code == 0
    assert alive == [0, 0]


@pytest.mark.parametrize(("name", "code"), [("nowhere", "Q401"), ("dense", "Q4")])
def test_what_cannot_be_opened_is_refused_before_any_question_is_asked(
    quatrain: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, code: str,
) -> None:  # fmt: skip
    import quatrain.generate.answer as answering

    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    monkeypatch.setattr(answering.Answerer, "__init__", lambda *_, **__: pytest.fail("opened"))
    refused = quatrain("eval", trained, "--against", tmp_path / name, exam(tmp_path))
    assert refused.code == 4
    assert f"[{code}" in refused.err


WIDE = dict(
    d_model=64, n_layers=4, n_heads=4, num_local_experts=4, vocab_size=320,
    attention_chunk_size=8192, max_position_embeddings=1024,
)  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose widths are whole blocks of nf4, and which llama.cpp can hold."""
    from quatrain.recipe import build
    from quatrain.train.run import run

    values = tiny_run(tmp_path_factory.mktemp("wide"), max_steps=40).model_dump(exclude_unset=True)
    return run(build({**values, "model": WIDE}), quiet=True).run_dir


def kinds_of(answerer: Any) -> set[str]:
    from quatrain.model.frozen import Matrix

    return {one.kind.name for one in answerer.model.modules() if isinstance(one, Matrix)}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_model_answers_as_its_stored_copy_does(
    quatrain: Any, wide: Path, tmp_path: Path, kind: str
) -> None:
    from quatrain.generate.answer import Answerer

    made = quatrain("convert", wide, tmp_path / kind, "--to", "llama4", "--quantize", kind)
    assert made.code == 0, made.err
    assert kinds_of(Answerer(wide, quantize=kind)) == kinds_of(Answerer(tmp_path / kind)) == {kind}
    file, question = exam(tmp_path), ASKED.format(THINGS[0], COLOURS[0])
    stored = quatrain("eval", tmp_path / kind, file, "--json").json
    assert quatrain("eval", wide, file, "--quantize", kind, "--json").json == stored
    assert quatrain("eval", tmp_path / kind, file, "--quantize", kind, "--json").json == stored
    asked = [quatrain("ask", wide, question, "--quantize", kind),
             quatrain("ask", tmp_path / kind, question)]  # fmt: skip
    assert asked[0].code == 0, asked[0].err
    assert asked[0].out == asked[1].out


def test_against_itself_only_the_first_model_is_quantised(
    quatrain: Any, wide: Path, tmp_path: Path
) -> None:
    file = exam(tmp_path)
    words = ("eval", wide, file, "--against", wide, "--quantize", "nf4")
    found = quatrain(*words, "--json").json
    assert found["against"] == quatrain("eval", wide, file, "--json").json
    assert found["loss"] != found["against"]["loss"]
    assert "(nf4)" in quatrain(*words).out.replace("\n", "")


@pytest.mark.parametrize("verb", ["ask", "eval"])
def test_what_cannot_be_held_in_fewer_bits_is_refused(
    quatrain: Any, trained: Path, wide: Path, tmp_path: Path, verb: str
) -> None:
    last = exam(tmp_path) if verb == "eval" else "Qui ?"
    unknown = quatrain(verb, trained, last, "--quantize", "int4")
    assert unknown.code == 2
    assert "--quantize int4 is not possible" in unknown.err
    narrow = quatrain(verb, trained, last, "--quantize", "nf4")
    assert narrow.code == 4
    assert "[Q411]" in narrow.err
    assert "has 32 inputs" in narrow.err
    for words in (["--to", "llama4", "--quantize", "int8"], ["--to", "gguf", "--dtype", "q8_0"]):
        made = quatrain("convert", wide, tmp_path / "few", *words, "--no-check", "--force")
        assert made.code == 0, made.err
        place = next((tmp_path / "few").glob("*.gguf"), tmp_path / "few")
        kept = quatrain(verb, place, last, "--quantize", "nf4")
        assert kept.code == 4
        assert f"stores matrices as {'q8_0' if 'gguf' in words else 'int8'}" in kept.err
        assert "Remove --quantize" in kept.err


def test_an_unknown_kind_is_refused_in_python_too(wide: Path) -> None:
    from quatrain.errors import ConfigError
    from quatrain.generate.answer import Answerer

    with pytest.raises(ConfigError, match=r"Q208.*quantize int4 is not possible"):
        Answerer(wide, quantize="int4")


def test_each_model_abstains_with_its_own_sentence(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    models = [tmp_path / "one", tmp_path / "two"]
    for model, sentence in zip(models, ("Rien.", "Le texte ne le dit pas."), strict=True):
        shutil.copytree(trained / "checkpoints" / "best", model)
        Abstention(no_answer=sentence, threshold=-1e9).save(model)  # it always abstains
    asked = {"id": "1", "question": "Qui ?", "answers": [], "is_impossible": True}
    told = {"title": "t", "paragraphs": [{"context": "Un mur.", "qas": [asked]}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps({"version": "2", "data": [told]}), encoding="utf-8")
    found = quatrain("eval", models[0], file, "--against", models[1], "--json").json
    alone = [quatrain("eval", model, file, "--json").json for model in models]
    assert found["against"] == alone[1]
    assert {name: found[name] for name in alone[0]} == alone[0]
    assert (found["both_right"], found["exact_match"], alone[1]["exact_match"]) == (1, 100, 100)
    assert found["difference"]["ci95"] == {"exact_match": None, "f1": None}


def test_a_difference_of_nothing_has_no_sign_of_less() -> None:
    assert say("cli.eval.change", score=-0.01, low=-0.04, high=2.5) == "+0.0 (+0.0 to +2.5)"


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(
    quatrain: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quatrain.generate.answer import Answerer

    asked, replies = list[int](), Answerer.replies

    def counted(self: Any, conversations: Any, *args: Any, **more: Any) -> Any:
        asked.append(len(conversations))
        return replies(self, conversations, *args, **more)

    monkeypatch.setattr(Answerer, "replies", counted)
    file, kept = exam(tmp_path), tmp_path / "answers.jsonl"
    words = ("eval", trained, file, "--json", "batch_size=4", "--answers", kept)
    whole = quatrain(*words).json
    assert whole == quatrain("eval", trained, file, "--json").json
    assert asked == [8, 8, 8, 24]
    lines = lines_of(kept)
    assert [line.get("number") for line in lines] == [None, *range(24)]
    assert sum(line["exact_match"] for line in lines[1:]) * 100 / 24 == whole["exact_match"]

    text = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(text[:10]) + text[10][:30], encoding="utf-8")
    asked.clear()
    assert quatrain(*words).json == whole
    assert asked == [8, 7]  # nine were kept whole
    assert lines_of(kept) == lines
    asked.clear()
    assert quatrain(*words).json == whole
    assert asked == []


def test_answers_of_other_options_models_and_questions_are_not_taken_over(
    quatrain: Any, trained: Path, other: Path, tmp_path: Path
) -> None:
    file, kept = exam(tmp_path), tmp_path / "answers.jsonl"
    longer = quatrain("eval", trained, file, "--json", "--answers", kept).json
    for words in (["max_new_tokens=1"], ["temperature=1.0", "seed=1"], ["--limit", "5"]):
        asked = ("eval", trained, file, "--json", *words)
        assert quatrain(*asked, "--answers", kept).json == quatrain(*asked).json
    both = quatrain("eval", trained, file, "--against", other, "--json", "--answers", kept).json
    assert both["against"] == quatrain("eval", other, file, "--json").json
    assert {name: both[name] for name in longer} == longer
    assert len({line["exam"] for line in lines_of(kept)}) == 5


@pytest.mark.parametrize("text", ["[1]\n", "no json\n", '{"question": "Où ?"}\n'])
def test_a_file_of_something_else_is_no_place_for_answers(
    quatrain: Any, trained: Path, tmp_path: Path, text: str
) -> None:
    file, kept = exam(tmp_path), tmp_path / "answers.jsonl"
    kept.write_text(text, encoding="utf-8")
    found = quatrain("eval", trained, file, "--answers", kept)
    assert found.code == 3
    assert "Q303" in found.err
    assert "something other than answers" in found.err
    assert "Name another file for --answers" in found.err
    assert kept.read_text(encoding="utf-8") == text
    nowhere = quatrain("eval", trained, file, "--answers", tmp_path / "no" / "where.jsonl")
    assert nowhere.code == 3
    assert "Q303" in nowhere.err
    assert "cannot be written" in nowhere.err
