"""The command line, run in this process: what goes to stdout, and how it exits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quatrain import __version__
from tiny_run import recipe_in, tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quatrain.train.run import run

    directory = tmp_path_factory.mktemp("trained")
    return run(tiny_run(directory, max_steps=80, eval_interval=40), quiet=True).run_dir


def test_sft_prints_one_json_object_and_the_same_command_resumes(
    quatrain: Any, tmp_path: Path
) -> None:
    first = quatrain("sft", recipe_in(tmp_path), "--json")
    assert first.code == 0, first.err
    assert first.json["finished"]
    assert first.json["step"] == 12
    assert set(first.json["evaluation"]) >= {"step", "eval_loss", "exact_match", "f1"}
    again = quatrain("sft", tmp_path / "tiny.yaml", "--json")
    assert "resuming after step 12" in again.err
    assert again.json["evaluation"] is None


def test_overrides_win_over_the_recipe(quatrain: Any, tmp_path: Path) -> None:
    result = quatrain("sft", recipe_in(tmp_path), f"run_dir={tmp_path / 'other'}",
                      "train.max_steps=2", "--json")  # fmt: skip
    assert result.json["step"] == 2
    assert (tmp_path / "other" / "config.yaml").exists()


@pytest.mark.parametrize(("capability", "told"), [("AVX2", True), ("AVX512", False)])
def test_bfloat16_that_is_only_emulated_is_told_of(
    capability: str, told: bool, quatrain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    result = quatrain("sft", recipe_in(tmp_path), "train.max_steps=1", "train.precision=bf16")
    assert result.code == 0, result.err
    assert ("train.precision=fp32" in result.err) is told


def test_pretraining_then_fine_tuning_begins_with_its_weights(
    quatrain: Any, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Le toit est rouge. Le mur est bleu.\n" * 200, encoding="utf-8")
    first = quatrain("pretrain", recipe_in(tmp_path), f"data.train={text}", "data.holdout=0",
                     f"run_dir={tmp_path / 'text'}", "--json")  # fmt: skip
    assert first.code == 0, first.err
    tiny = tiny_run(tmp_path).model_dump(mode="json", exclude_unset=True)
    overrides = [f"data.train={tiny['data']['train'][0]}", "data.holdout=0.25", "train.max_steps=3",
                 "data.block_size=96", f"model.init={tmp_path / 'text'}"]  # fmt: skip
    second = quatrain("sft", "openquizz", f"run_dir={tmp_path / 'sft'}", *overrides, "--json")
    assert second.code == 0, second.err
    one, other = (json.loads((tmp_path / name / "checkpoints/best/config.json").read_text())
                  for name in ("text", "sft"))  # fmt: skip
    assert one["hidden_size"] == other["hidden_size"] == 32


def test_a_contradiction_between_recipe_and_checkpoint_is_refused(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    result = quatrain("sft", "openquizz", f"run_dir={tmp_path}", f"model.init={trained}",
                      "model.d_model=64")  # fmt: skip
    assert result.code == 2
    assert "[Q203]" in result.err
    assert "model.d_model" in result.err


def test_ask_prints_the_answer_and_its_counts(quatrain: Any, trained: Path) -> None:
    found = quatrain("ask", trained, "Le toit est vert. De quelle couleur ?", "--json").json
    assert set(found) == {"answer", "finish_reason", "prompt_tokens", "completion_tokens"}
    assert found["finish_reason"] in {"stop", "length"}
    streamed = quatrain("ask", trained, "Le toit est vert. De quelle couleur ?")
    assert streamed.out == found["answer"] + "\n"


def test_ask_prints_log_probabilities_where_they_are_asked_for(
    quatrain: Any, trained: Path
) -> None:
    asked = ("ask", trained, "Le toit est vert. De quelle couleur ?", "--set", "logprobs=2")
    found = quatrain(*asked, "--set", "max_new_tokens=3", "--json").json
    for token in found["logprobs"]:
        assert set(token) == {"token", "id", "bytes", "logprob", "top_logprobs"}
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
        assert token["top_logprobs"][0] == {
            k: token[k] for k in ("token", "id", "bytes", "logprob")
        }
        assert len(token["top_logprobs"]) == 2
    eval_ = quatrain("eval", trained, "exam.jsonl", "--set", "logprobs=1", "--json")
    for refused in (quatrain(*asked), quatrain("ask", trained, "--set", "logprobs=0"), eval_):
        assert refused.code == 2
        assert "[Q208] logprobs=" in refused.err


def test_ask_ends_before_a_stop_string(quatrain: Any, trained: Path) -> None:
    asked = ("ask", trained, "Le toit est vert. De quelle couleur ?")
    whole = quatrain(*asked).out.removesuffix("\n")
    stop = whole[len(whole) // 2]
    assert quatrain(*asked, "--set", f'stop="{stop}"').out == whole.split(stop)[0] + "\n"
    refused = quatrain(*asked, "--set", "stop=")
    assert refused.code == 2
    assert "empty string" in refused.err


def test_ask_reads_its_context_from_a_file(quatrain: Any, trained: Path, tmp_path: Path) -> None:
    context = tmp_path / "context.txt"
    context.write_text("Le toit est vert.", encoding="utf-8")
    plain = quatrain("ask", trained, "De quelle couleur ?", "--json").json
    told = quatrain("ask", trained, "De quelle couleur ?", "--context", context, "--json").json
    assert told["prompt_tokens"] > plain["prompt_tokens"]
    missing = quatrain("ask", trained, "Quoi ?", "--context", tmp_path / "nothing.txt")
    assert missing.code == 3
    assert "cannot be read" in missing.err


def test_ask_without_a_question_holds_a_conversation(quatrain: Any, trained: Path) -> None:
    result = quatrain("ask", trained, typed="Le mur est bleu. De quelle couleur ?\n/new\nOui ?\n")
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2


def test_a_model_that_learnt_single_questions_is_asked_each_by_itself(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    questions = ["Le mur est bleu. De quelle couleur ?", "Le toit est vert. De quelle couleur ?"]
    alone = [quatrain("ask", trained, one).out for one in questions]
    found = quatrain("ask", trained, typed="\n".join(questions))
    assert found.out == "".join(alone)
    assert "learnt single questions" in found.err
    copy = tmp_path / "copy"  # of which nothing is known
    shutil.copytree(trained / "checkpoints" / "best", copy)
    assert "learnt single questions" not in quatrain("ask", copy, typed=questions[0]).err


def test_eval_scores_a_file_and_each_value_of_a_column(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "exam.jsonl"
    asked = "Le toit est {}. De quelle couleur ?"
    rows = [
        {"instruction": asked.format("vert"), "output": "vert", "kind": "a"},
        {"instruction": asked.format("noir"), "output": "noir", "kind": "b"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = quatrain("eval", trained, file, "--by", "kind", "--json").json
    assert set(found) == {"count", "too_long", "loss", "exact_match", "f1", "ci95", "by"}
    assert found["count"] == 2
    assert set(found["by"]) == {"a", "b"}
    assert quatrain("eval", trained, file).code == 0
    unknown = quatrain("eval", trained, file, "--by", "theme")
    assert unknown.code == 3
    assert "Columns: kind" in unknown.err


def test_eval_takes_the_names_of_columns_as_the_error_writes_them(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "exam.csv"
    file.write_bytes("Frage;Antwort\nWie heißt Österreichs Hauptstadt?;Wien\n".encode("cp1252"))
    names = ["data.columns.question=Frage", "data.columns.answer=Antwort"]
    assert "data.columns.question=COLUMN" in quatrain("eval", trained, file).err
    assert quatrain("eval", trained, file, *names, "--json").json["count"] == 1


def test_eval_and_ask_take_settings_with_one_meaning(
    quatrain: Any, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "exam.csv"
    file.write_text("Frage,Antwort\nQui ?,Moi\n", encoding="utf-8")
    names = ["data.columns.question=Frage", "--set", "data.columns.answer=Antwort"]
    for word in (["--set", "max_new_tokens=2"], ["--set", "generate.max_new_tokens=2"],
                 ["max_new_tokens=2"]):  # fmt: skip
        found = quatrain("eval", trained, file, *names, *word, "--json")
        assert found.json["count"] == 1, found.err
    asked = quatrain("ask", trained, "Qui ?", "--set", "max_new_tokens=2", "--json").json
    assert asked["completion_tokens"] <= 2


@pytest.mark.parametrize("verb", ["eval", "ask"])
@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("max_new_token=2", "Q202", "Did you mean 'generate.max_new_tokens'?"),
        ("max_new_tokens=0", "Q202", "generate.max_new_tokens=0"),
        ("max_new_tokens", "Q201", "'max_new_tokens' does not set a field"),
        ("train.seed=3", "Q209", "train.seed would have no effect"),
        ("answer.seed=3", "Q209", "answer.seed would have no effect"),
        ("run_dir.x=3", "Q209", "run_dir.x would have no effect"),
    ],
)
def test_eval_and_ask_refuse_settings_alike(
    quatrain: Any, tmp_path: Path, verb: str, setting: str, code: str, said: str
) -> None:
    result = quatrain(verb, tmp_path / "none", "what", "--set", setting)
    assert result.code == 2
    assert f"[{code}]" in result.err
    assert said in result.err


def test_eval_says_what_it_does_not_examine(
    quatrain: Any, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "exam, 2.jsonl"
    rows = [{"question": "Qui ?", "answer": "Moi", "theme": "a"}, {"question": "Où ?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with caplog.at_level("INFO"):
        found = quatrain("eval", trained, file, "data.max_bad_fraction=1", "--json")
    assert found.json["count"] == 1
    assert "other columns, kept but not learnt: theme (1x)" in caplog.text
    assert (
        "1 of 2 records cannot be used and was left out; the first is exam, 2.jsonl:2: no column"
        in caplog.text
    )


def test_every_verb_with_overrides_takes_them_as_options_too(quatrain: Any, tmp_path: Path) -> None:
    for words in (["sft", "demo"], ["pretrain", "demo-text"], ["plan", "demo"], ["demo"],
                  ["data", "inspect", "q.jsonl"], ["data", "prepare", "demo"]):  # fmt: skip
        given, option = (quatrain(*words, *form) for form in
                         (["train.sed=1"], ["--set", "train.sed=1"]))  # fmt: skip
        assert option == given
        assert "Did you mean 'train.seed'?" in option.err


@pytest.mark.parametrize(
    "words", [["--version"], ["--lang", "fr", "--version"], ["--version", "x"]]
)
def test_the_version_is_printed_alone(quatrain: Any, words: list[str]) -> None:
    result = quatrain(*words)
    assert (result.code, result.out, result.err) == (0, f"quatrain {__version__}\n", "")


def test_report_writes_the_page_and_tells_a_program_its_figures(
    quatrain: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "fr_FR.UTF-8")
    found = quatrain("report", trained, "--json").json
    assert found["report"] == str(trained / "report.html")
    assert found["finished"]
    assert found["best_evaluation"]["step"] == found["best_step"]
    assert set(found["experts"]) == {"0", "1"}
    assert '<html lang="fr">' in (trained / "report.html").read_text(encoding="utf-8")
    assert quatrain("report", trained, "--lang", "en").out == f"{trained / 'report.html'}\n"
    assert '<html lang="en">' in (trained / "report.html").read_text(encoding="utf-8")


def test_report_says_what_it_cannot_do(quatrain: Any, trained: Path, tmp_path: Path) -> None:
    assert quatrain("report", trained, "--lang", "de").code == 2
    nothing = quatrain("report", tmp_path)
    assert (nothing.code, "[Q440]" in nothing.err) == (4, True)


def test_report_opens_a_browser_only_when_asked(
    quatrain: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    quatrain("report", trained)
    assert opened == []
    assert "no browser found" in quatrain("report", trained, "--open").err
    assert opened == [(trained / "report.html").as_uri()]


def test_the_command_line_and_python_give_the_same_greedy_answer(
    quatrain: Any, trained: Path
) -> None:
    from quatrain import Answerer

    question = "Le livre est jaune. De quelle couleur ?"
    answer = Answerer(trained).answer(question, max_new_tokens=4)
    spoken = quatrain("ask", trained, question, "--set", "max_new_tokens=4").out
    assert spoken == f"{answer}\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["sft", "openquiz", "run_dir=x"], 2, "Did you mean 'openquizz'?"),
        (["sft", "openquizz", "train.learning_rat=1"], 2, "Did you mean 'train.learning_rate'?"),
        (["sft", "openquizz", "data.train=nowhere.jsonl"], 3, "no such file"),
        (["ask", "nowhere", "Quoi ?"], 4, "nowhere does not exist"),
        (["dance"], 2, "dance"),
    ],
)
def test_errors_are_short_and_have_their_exit_code(
    quatrain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = quatrain(*words)
    assert result.code == code
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_a_shard_size_is_read_or_refused() -> None:
    from quatrain.cli.usage import size_of
    from quatrain.errors import ConfigError

    assert [size_of(text) for text in ("5GB", "500 mb", "7")] == [5 * 10**9, 5 * 10**8, 7]
    for text in ("0GB", "5TB", "-1", ""):
        with pytest.raises(ConfigError, match="like 5GB"):
            size_of(text)


@pytest.mark.slow
def test_the_demo_runs_its_parts_once(quatrain: Any, tmp_path: Path) -> None:
    few = ["train.max_steps=2", "pretrain.train.max_steps=2", "generate.max_new_tokens=1",
           "evaluate.questions=4", "pretrain.model.d_model=32"]  # fmt: skip
    words = ["demo", f"run_dir={tmp_path / 'demo'}", *few, "--json"]
    first = quatrain(*words)
    assert first.code == 0, first.err
    assert len(first.json["heldout"]["by"]) >= 8
    assert min(one["count"] for one in first.json["heldout"]["by"].values()) >= 100
    assert first.json["answers"][0]["question"] == "Quel est le produit de 6 et 2 ?"
    assert quatrain(*words).json == first.json
