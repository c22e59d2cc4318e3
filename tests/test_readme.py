"""What README.md and the guide show is true: paths exist, commands parse, code runs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from quatrain.cli.main import app
from quatrain.config import Config
from quatrain.data.lines import RawRow
from quatrain.data.parse import Rejection, guess_shape, parse_row
from quatrain.hub.convert import Dtype, Format
from quatrain.recipe import load_config, shipped

ROOT = Path(__file__).parents[1]
README, GUIDE, *OTHERS = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/guide.md", "docs/data.md", "docs/bases.md", "docs/serve.md",
                 "examples/faq/README.md", "examples/lecture/README.md")
)  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {"d_model": 32, "n_layers": 2, "n_heads": 2, "num_local_experts": 2, "vocab_size": 300}


def _blocks(language: str, page: str = GUIDE) -> list[str]:
    return [text for name, text in BLOCK.findall(page) if name == language]


def _commands() -> Iterator[list[str]]:
    for page in (README, GUIDE, *OTHERS):
        for block in _blocks("bash", page):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["quatrain"]:
                    yield words[1:]


COMMANDS = list(_commands())


@pytest.fixture
def at_a_users_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory with the files that the guide's YAML blocks name in their first line."""
    for block in _blocks("yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_parses_and_its_fields_exist(at_a_users_desk: Path, words: list[str]) -> None:
    verb, *rest = words
    command = _verbs()[verb]
    while hasattr(command, "commands"):
        verb, *rest = rest
        command = command.commands[verb]
    with command.make_context(verb, rest) as context:
        given = context.params
    options = list(given.get("options") or [])
    if verb == "ask":
        options = [f"generate.{option}" for option in options]
    overrides = list(given.get("overrides") or []) + options
    if verb == "demo":
        text = [o.removeprefix("pretrain.") for o in overrides if o.startswith("pretrain.")]
        load_config("demo-text", text)
        overrides = [o for o in overrides if not o.startswith("pretrain.")]
    if verb == "convert":
        assert given["to"] in get_args(Format)
        assert given["dtype"] in (None, *get_args(Dtype))
    recipe = "demo" if verb == "demo" else given.get("recipe")
    load_config(recipe, overrides, train={"task": "pretrain" if verb == "pretrain" else "sft"})


def test_the_table_of_verbs_is_that_of_the_command_line() -> None:
    table = re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)
    assert sorted(table) == sorted(_verbs())


def test_every_shipped_recipe_is_named() -> None:
    assert all(f"`{name}`" in GUIDE for name in shipped())


def test_each_record_shown_is_of_a_known_shape() -> None:
    records = [json.loads(line) for block in _blocks("json") for line in block.splitlines()]
    assert len(records) >= 5
    for record in records:
        shape = guess_shape(record, {})
        assert shape is not None
        for outcome in parse_row(RawRow("guide.md", record), shape, {}):
            assert not isinstance(outcome, Rejection)


def test_each_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    blocks = _blocks("bash", README) + _blocks("bash", GUIDE)
    shown = {words.split()[1] for block in blocks for words in _lines(block, "make")}
    assert shown | set(re.findall(r"`make (\w+)`", README)) <= targets


def test_each_path_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    named = re.findall(
        r"`((?:src|docs|tests|bench|\.ci)/[\w./-]*|\w+\.(?:txt|toml))`", README + GUIDE
    )
    assert links, named
    for path in [*links, *named]:
        if "://" not in path:
            assert (ROOT / path).exists(), path


def test_python_blocks_run_and_the_run_directory_is_as_drawn(at_a_users_desk: Path) -> None:
    from quatrain.train.run import run

    run(_tiny(at_a_users_desk), quiet=True)
    for block in _blocks("python"):
        exec(compile(block, "guide.md", "exec"), {})
    (tree,) = (text for text in _blocks("") if text.startswith("runs/"))
    for line in tree.splitlines()[1:]:
        assert Path("runs/demo", line.split()[0]).exists(), line


def _tiny(directory: Path) -> Config:
    """Stand in for runs/demo: two steps on a few sums."""
    rows = [{"instruction": f"Combien font {n} et 1 ?", "output": str(n + 1)} for n in range(20)]
    file = directory / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Config.model_validate(
        {
            "run_dir": "runs/demo",
            "model": TINY,
            "data": {"train": [str(file)], "holdout": 0.2, "block_size": 64},
            "train": {"max_steps": 2, "batch_size": 2},
            "generate": {"max_new_tokens": 4},
        }
    )


def _verbs() -> dict[str, Any]:
    group: Any = get_command(app)
    return dict(group.commands)


def _lines(block: str, first_word: str) -> list[str]:
    return [line for line in block.splitlines() if line.split()[:1] == [first_word]]
