"""A file of each shape goes through all steps: inspected, trained on, asked and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiny_run import recipe_in

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_a_file_of_each_shape_goes_the_whole_line(
    quatrain: Any, tmp_path: Path, file: Path
) -> None:
    asked = ["data.tools=text"] if file.stem.endswith("tools") else []
    inspected = quatrain("data", "inspect", file, *asked, "--json")
    assert inspected.code == 0, inspected.err
    assert not inspected.json["stops"]
    held_out = [f"data.train={file}", f"data.eval={file}", "data.holdout=0", "data.block_size=null"]
    trained = quatrain("sft", recipe_in(tmp_path), *held_out, *asked, "train.max_steps=2", "--json")
    assert trained.code == 0, trained.err
    assert trained.json["step"] == 2
    run = tmp_path / "run"
    assert quatrain("ask", run, "Bonjour ?", "--json").code == 0
    scored = quatrain("eval", run, file, *asked, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["count"] == inspected.json["sides"]["train"]["conversations"]
