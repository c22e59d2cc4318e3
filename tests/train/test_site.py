"""What a base takes and where it stays, for this machine and for a card that is not here."""

from __future__ import annotations

import pytest

from quatrain.config import ModelConfig
from quatrain.train.bases import bases
from quatrain.train.site import BaseSize, Site, estimated, pinned, where_of
from quatrain.train.sizes import parameters

GB = 10**9
BASE = BaseSize((3 * GB, 2 * GB, 3 * GB, 2 * GB), tables=GB, small=1000, pinned=16 * GB)


@pytest.mark.parametrize(
    ("where", "on_gpu", "held", "beside"),
    [("none", True, 11 * GB + 1000, 0), ("host", True, 10 * GB + 1000, 16 * GB),
     ("disk", True, 10 * GB + 1000, 0), ("disk", False, 1000, 0),
     ("none", False, 11 * GB + 1000, 0)],
)  # fmt: skip
def test_three_layers_visit_a_gpu_and_a_file_takes_no_memory(
    where: str, on_gpu: bool, held: int, beside: int
) -> None:
    assert BASE.held(where, on_gpu) == held  # type: ignore[arg-type]
    assert BASE.in_main_memory(where) == beside  # type: ignore[arg-type]


def test_what_is_quantised_while_it_is_read_lies_in_no_file() -> None:
    made = BaseSize((GB, GB), GB, 1000, made=True)
    assert made.held("disk", False) == 2 * GB + 1000
    assert made.in_main_memory("disk") == 2 * GB


@pytest.mark.parametrize(
    ("wanted", "size", "free", "main", "where"),
    [("auto", 60, 80, 64, "none"), ("auto", 61, 80, 128, "host"), ("auto", 61, 80, 64, "disk"),
     ("auto", 60, 24, None, "disk"), ("auto", 60, None, 64, "none"), ("disk", 1, 80, 64, "disk"),
     ("none", 99, 80, 64, "none")],
)  # fmt: skip
def test_a_gpu_takes_a_base_that_fits(
    wanted: str, size: int, free: int | None, main: int | None, where: str
) -> None:
    given = (free and free * GB, main and main * GB)
    assert where_of(wanted, size * GB, True, *given, pins=size * GB) == where


@pytest.mark.parametrize(
    ("wanted", "where"),
    [("auto", "disk"), ("disk", "disk"), ("none", "none"), ("host", "none")],
)
def test_a_cpu_leaves_a_base_in_its_file_or_reads_it(wanted: str, where: str) -> None:
    assert where_of(wanted, GB, False, 80 * GB, None, GB) == where


def test_pinned_blocks_are_powers_of_two() -> None:
    assert [pinned(size) for size in (0, 1, 4, 5, 671 << 20)] == [0, 1, 4, 8, 1 << 30]


def test_scout_in_four_bits_stays_on_a_card_of_80_gb_and_visits_smaller_ones() -> None:
    scout = bases()["meta-llama/Llama-4-Scout-17B-16E-Instruct"].shape.replace(quantize="nf4")
    size = estimated(scout)
    assert size.total == pytest.approx(58.7e9, rel=0.01)
    sites = [Site.of_card(card * GB, main * GB, size)
             for card, main in ((80, 64), (48, 192), (24, 192), (24, 64))]  # fmt: skip
    assert [site.where(scout) for site in sites] == ["none", "host", "host", "disk"]


def test_a_base_that_is_not_quantised_is_counted_in_bf16() -> None:
    config = ModelConfig(d_model=64, n_layers=2, vocab_size=100)
    assert estimated(config).layers == ()
    assert estimated(config).tables == 2 * parameters(config).total
