"""Known bases: shapes with the published parameter counts, smallest first, and their memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quatrain.train.bases import bases
from quatrain.train.plan import needs
from quatrain.train.sizes import parameters

PAGE = (Path(__file__).parents[2] / "docs" / "bases.md").read_text(encoding="utf-8")


def test_the_shapes_of_dense_bases_have_the_published_counts() -> None:
    """A Qwen2 has an output bias once it is converted, which is no parameter of the original."""
    dense = {name: base for name, base in bases().items() if base.published}
    assert len(dense) >= 10
    for name, base in dense.items():
        added = base.shape.n_layers * base.shape.d_model if base.shape.attention_bias else 0
        assert parameters(base.shape).total - added == base.published, name


def test_the_shapes_of_llama_4_have_its_published_sizes() -> None:
    scout, maverick = (parameters(base.shape) for base in list(bases().values())[-2:])
    assert scout.total == pytest.approx(107.8e9, rel=0.005)  # 109B with the vision part
    assert maverick.total == pytest.approx(400e9, rel=0.005)
    assert scout.active == pytest.approx(17e9, rel=0.02)
    assert maverick.active == pytest.approx(17e9, rel=0.02)


def test_bases_stand_smallest_first() -> None:
    totals = [parameters(base.shape).total for base in bases().values()]
    assert totals == sorted(totals)


def test_adapters_need_more_than_the_weights_and_less_than_training_all() -> None:
    for name, need in needs().items():
        assert 2 * need["parameters"] < need["lora_memory"] < need["memory"], name
        assert need["parameters"] / 2 < need["qlora_memory"] < need["lora_memory"], name
        assert need["offload_memory"] < need["qlora_memory"], name


def test_the_page_of_bases_lists_them_and_no_other() -> None:
    listed = re.findall(r"^\| `([\w.-]+/[\w.-]+)` \| ([^|]+) \| (\w+) \|", PAGE, re.MULTILINE)
    assert [(name, licence, french) for name, licence, french in listed] == [
        (name, base.licence, base.french) for name, base in bases().items()
    ]
