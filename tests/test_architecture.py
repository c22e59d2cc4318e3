"""The code keeps its rules: one-way imports, small files, no torch before it is needed."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import quatrain

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "quatrain"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [module.name for module in pkgutil.walk_packages(quatrain.__path__, "quatrain.")]
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
LLAMA4 = (ROOT / "docs" / "llama4.md").read_text(encoding="utf-8")

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 450, 60
WITHOUT_TORCH = ("config", "recipe", "errors", "rules", "files", "text", "data", "model.hf_config")
WITHOUT_TORCH += ("model.locate", "model.targets", "model.peft_config", "train.start", "cli.main")
FIRST_DIGIT = {
    "ConfigError": "2",
    "DataError": "3",
    "CheckpointError": "4",
    "NonFiniteError": "5",
    "ResourceError": "6",
}


def test_every_module_can_be_imported() -> None:
    for name in MODULES:
        importlib.import_module(name)


def test_every_package_has_its_place_in_the_order_of_imports() -> None:
    packages = {name for name in MODULES if name.count(".") == 1} - {"quatrain.recipes"}
    assert set(_levels()) == packages


@pytest.mark.parametrize("path", FILES, ids=lambda path: _name(path))
def test_imports_go_one_way(path: Path) -> None:
    levels, importer = _levels(), _package(_module(path))
    for imported in map(_package, _imported(path)):
        if importer in levels and imported in levels and imported != importer:
            assert levels[imported] > levels[importer], f"{_name(path)} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: _name(path))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    for function in _functions(ast.parse(text)):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= LINES_OF_A_FUNCTION, f"{function.name} has {length} lines"


def test_only_the_command_line_prints() -> None:
    found = [
        f"{_name(path)}:{node.lineno}"
        for path in FILES
        if not _name(path).startswith("cli/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]
    assert not found


def test_help_needs_no_config() -> None:
    program = "import quatrain.cli.main, sys; assert not {'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_recipes_and_data_are_checked_before_torch_is_imported() -> None:
    allowed = tuple(f"quatrain.{name}" for name in WITHOUT_TORCH)
    light = [m for m in MODULES if m.startswith(allowed)]
    assert len(light) > 30
    program = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_error_code_begins_with_the_digit_of_its_class() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", None) if isinstance(node, ast.Call) else None
            if name in FIRST_DIGIT and isinstance(node, ast.Call):
                codes = re.findall(r"Q\d{3}", ast.unparse(node.args[0]))
                assert all(code[1] == FIRST_DIGIT[name] for code in codes), (_name(path), codes)


def test_design_names_every_module() -> None:
    unnamed = [_name(p) for p in FILES if p.name != "__init__.py" and p.stem not in _mapped(p)]
    assert not unnamed, f"the map of modules of docs/design.md lacks {unnamed}"


def test_design_explains_every_error_code_and_no_other() -> None:
    used = {code for path in FILES
            for code in re.findall(r'"(Q\d{3})[".]', path.read_text("utf-8"))}  # fmt: skip
    assert set(re.findall(r"^\| (Q\d{3}) \|", DESIGN, re.MULTILINE)) == used


def test_every_difference_from_llama_4_is_listed() -> None:
    mark = "Differs from"
    holders = {_name(path) for path in FILES if mark in path.read_text(encoding="utf-8")}
    assert holders, "the mark has changed"
    assert all(f"`{name}`" in LLAMA4 for name in holders), holders


def _levels() -> dict[str, int]:
    """Number each package by its layer in pyproject.toml; 0 may import all the others."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return {name.strip(): level for level, layer in enumerate(layers) for name in layer.split("|")}


def _mapped(path: Path) -> set[str]:
    """Find the words of docs/design.md's map that describe a file's folder."""
    folder = path.parent.name if path.parent != SOURCE else ""
    drawn = DESIGN.split("```")[1]
    if not folder:
        return set(re.findall(r"^  (\w+)\.py", drawn, re.MULTILINE))
    (block,) = re.findall(rf"^  {folder}/.*\n(?:   .*\n)*", drawn, re.MULTILINE)
    return set(re.findall(r"\w+", block))


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def _module(path: Path) -> str:
    return ".".join(["quatrain", *path.relative_to(SOURCE).with_suffix("").parts])


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
