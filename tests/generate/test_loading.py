"""Asking imports what answering needs, and nothing of torch's compiler or of training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapted import adapted_model
from foreign import text_tools
from tiny import tiny_config, tiny_model

NEEDLESS = {"torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "sympy", "transformers",
            "huggingface_hub", "rich", "jinja2", "datasets", "gguf", "py3langid",
            "quatrain.train", "quatrain.data", "quatrain.report", "quatrain.hub"}  # fmt: skip

PROGRAM = f"""
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
from quatrain.cli.main import app
app(["ask", sys.argv[1], "Qui ?", "--set", "max_new_tokens=2"], standalone_mode=False)
assert "torch" in sys.modules
assert os.environ["OMP_WAIT_POLICY"] == "passive"
found = {NEEDLESS!r} & set(sys.modules)
assert not found, found
"""


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_asking_imports_nothing_needless(kind: str, tmp_path: Path) -> None:
    base = tiny_model(tiny_config("every_layer_moe", vocab_size=512))
    base.save_pretrained(tmp_path / "model")
    model = adapted_model(base)
    model.base = str(tmp_path / "model")
    model.save_pretrained(tmp_path / "adapter")
    for name in ("model", "adapter"):
        text_tools(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / kind)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
