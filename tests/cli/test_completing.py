"""Completion in the shell: verbs, options, recipes, and fields with their values."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from quatrain.cli.completing import DTYPES, FORMATS, KINDS
from quatrain.hub.convert import Dtype, Format, Kind
from quatrain.recipe import load_config, shipped

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(quatrain: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Ask as bash does, which parts words at `=` too; the last word is the one at the cursor."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_QUATRAIN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["quatrain", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        found = quatrain()
        assert found.code == 0, found.err
        return [line for line in found.out.split("\n") if line]

    return ask


def test_verbs_and_options_complete(complete: Complete) -> None:
    assert {"ask", "convert", "data", "init", "sft"} <= set(complete(""))
    assert complete("in") == ["init"]
    assert complete("data", "ins") == ["inspect"]
    assert complete("init", "--ba") == ["--base"]
    assert complete("--install") == ["--install-completion"]


def test_recipes_complete_shipped_and_at_hand(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for name in ("opera.yaml", "opus.txt", "sub/mine.yml"):
        Path(name).touch()
    for verb in (["sft"], ["pretrain"], ["plan"], ["data", "prepare"]):
        assert complete(*verb, "op") == ["openquizz", "opera.yaml"]
        assert set(shipped()) <= set(complete(*verb, ""))
    assert complete("sft", "sub/") == ["sub/mine.yml"]


@pytest.mark.parametrize(
    "words", [["sft", "piaf"], ["plan", "piaf"], ["demo"], ["init", "q.jsonl"],
              ["data", "inspect", "q.jsonl"], ["data", "prepare", "piaf"], ["sft", "piaf", "--set"],
              ["sft", "piaf", "train.seed", "=", "1"]],
)  # fmt: skip
def test_fields_complete_section_by_section(words: list[str], complete: Complete) -> None:
    assert {"train.epochs=", "train.budget="} < set(complete(*words, "train."))
    assert complete(*words, "data.ho") == ["data.holdout=", "data.holdout=0.0"]  # no space follows
    assert "run_dir=" in complete(*words, "run")
    assert complete(*words, "nothing.") == []


def test_every_field_that_completes_is_one_of_config(complete: Complete) -> None:
    values, found = load_config(None, []).model_dump(), complete("sft", "piaf", "")
    assert len(found) > 80
    for field in found:
        section, _, name = field.rstrip("=").partition(".")
        assert section in values
        assert not name or name.partition(".")[0] in values[section]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [(["train.device", "=", "c"], ["cpu", "cuda"]),
     (["train.device", "="], ["auto", "cpu", "cuda"]),
     (["model.use_qk_norm", "=", "t"], ["true"]), (["model.preset", "=", "sm"], ["small"]),
     (["train.adapter", "=", ""], ["lora", "null"]), (["data.train", "=", "q"], [])],
)  # fmt: skip
def test_values_complete_behind_the_sign(
    typed: list[str], offered: list[str], complete: Complete
) -> None:
    assert complete("sft", "piaf", *typed) == offered
    assert complete("sft", "piaf", "--set", *typed) == offered


def test_answering_takes_fields_without_a_section(complete: Complete) -> None:
    assert complete("ask", "runs/demo", "Qui", "--set", "max") == [
        "max_new_tokens=", "max_new_tokens=64"]  # fmt: skip
    assert "temperature=" in complete("eval", "runs/demo", "q.jsonl", "--set", "temp")[0]
    assert complete("eval", "runs/demo", "q.jsonl", "data.li")[0] == "data.limit="


def test_formats_and_languages_complete_and_are_those_that_are_taken(complete: Complete) -> None:
    assert (FORMATS, DTYPES, KINDS) == (get_args(Format), get_args(Dtype), get_args(Kind))
    assert complete("convert", "a", "b", "--to", "hf") == ["hf", "hf-multimodal"]
    assert complete("convert", "a", "b", "--dtype", "q") == ["q8_0"]
    assert complete("--lang", "f") == ["fr"]


@pytest.mark.parametrize(
    ("shell", "sign"), [("zsh", '"train.device=cpu"'), ("fish", "train.device=cpu")]
)
def test_other_shells_get_whole_words(
    shell: str, sign: str, quatrain: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_QUATRAIN_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "quatrain sft piaf train.device=c")
    assert sign in quatrain().out
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "quatrain in")
    found = quatrain().out
    assert "init" in found
    assert "help." not in found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_shown_and_installed_for_the_shell_that_calls(
    shell: str, quatrain: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    shown = quatrain("--show-completion")
    assert shown.code == 0, shown.err
    assert "_QUATRAIN_COMPLETE=complete_" + shell in shown.out
    done = quatrain("--install-completion", "--lang", "fr")
    assert done.code == 0, done.err
    assert "nouveau terminal" in done.out
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_QUATRAIN_COMPLETE" in path.read_text() for path in written)


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_a_shell_that_is_not_known_is_told(
    option: str, quatrain: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shellingham

    def fail(*_: object) -> Any:
        raise shellingham.ShellDetectionFailure

    for detect in (fail, lambda *_: ("tcsh", "/bin/tcsh")):
        monkeypatch.setattr("shellingham.detect_shell", detect)
        found = quatrain(option, "--lang", "en")
        assert found.code == 2
        assert "[Q209]" in found.err
        assert "bash, zsh, fish" in found.err


def test_help_in_french_is_whole_and_imports_no_config(quatrain: Callable[..., Any]) -> None:
    help_text = quatrain("--help", "--lang", "fr").out
    assert "--install-completion" in help_text
    assert "Install completion" not in help_text
    program = (
        "import sys\n"
        "sys.argv = ['quatrain', '--help']\n"
        "from quatrain.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'pydantic', 'numpy', 'rich', 'yaml'} & set(sys.modules), sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_is_answered(
    quatrain: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    command = tmp_path / "quatrain"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quatrain "$@"\n')
    command.chmod(0o755)
    program = f"""{quatrain("--show-completion").out}
    PATH="{tmp_path}:$PATH"
    COMP_WORDS=(quatrain sft piaf train.device = c) COMP_CWORD=5
    _quatrain_completion quatrain
    echo "${{COMPREPLY[@]}}"
    COMP_WORDS=(quatrain sft openq) COMP_CWORD=2
    _quatrain_completion quatrain
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["cpu cuda", "openquizz"], done.stderr
