"""The documentation is true: sessions print what it shows, and its records have known shapes."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest

from quatrain.data.columns import SHAPES
from quatrain.data.lines import RawRow
from quatrain.data.parse import Rejection, guess_shape, parse_row
from quatrain.data.read import _READERS

ROOT = Path(__file__).parents[1]
SESSIONS = ("docs/tour.md", "docs/data.md")
PAGES = ("CONTRIBUTING.md", "README.fr.md", "docs/bases.md", "docs/first-run.md", "docs/guide.md",
         "docs/first-hour.md", "docs/guide.fr.md", "docs/performance.md", "docs/report.md",
         "docs/page.md", "docs/serve.md",
         "examples/faq/README.md", "examples/lecture/README.md", *SESSIONS)  # fmt: skip
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", SESSIONS)
def test_each_session_prints_what_stands_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(_blocks("python", (ROOT / name).read_text(encoding="utf-8")))
    session = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert len(session.examples) > 10
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    doctest.DocTestRunner().run(session, out=said.append)
    assert not said, "".join(said)


def test_each_shape_is_shown_by_records_of_it() -> None:
    shown: set[str | None] = set()
    for line in "".join(_blocks("json", DATA)).splitlines():
        record = json.loads(line)
        shape = guess_shape(record, {})
        assert shape is not None
        assert not [o for o in parse_row(RawRow("", record), shape, {}) if isinstance(o, Rejection)]
        shown.add(shape)
    assert shown == set(SHAPES)


def test_each_format_that_is_read_is_listed() -> None:
    assert all(f"`{suffix}`" in DATA for suffix in _READERS)


def test_the_tour_goes_the_steps_of_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| (\w+) \| .+ \| `", design, re.MULTILINE)
    assert [title.lower() for title in re.findall(r"^## (\w+):", tour, re.MULTILINE)] == steps


@pytest.mark.parametrize("name", SESSIONS)
def test_each_file_and_function_named_is_there(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "src" / "quatrain" / path).exists(), path
    for path, names in re.findall(r"`(\w+/\w+\.py)`,((?: (?:and )?`[\w.]+`)+)", text):
        source = (ROOT / "src" / "quatrain" / path).read_text(encoding="utf-8")
        for found in re.findall(r"`[\w.]*?(\w+)`", names):
            assert f"def {found}(" in source, f"{path} has no {found}"


@pytest.mark.parametrize("name", PAGES)
def test_each_link_leads_somewhere_and_each_make_target_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert ((ROOT / name).parent / link).exists(), link
    shown = re.findall(r"^make ([\w-]+)", text, re.MULTILINE) + re.findall(r"`make ([\w-]+)`", text)
    assert set(shown) <= set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_contributing_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:docs|tests|\.ci)/[\w./-]*\w|\b\w[\w.]*\.(?:md|toml|txt)\b", text)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
