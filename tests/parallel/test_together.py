"""Several processes compute what one does, however weights, rows and experts are divided."""

from __future__ import annotations

from typing import Any

import pytest

from ranks import forks, reported

FLOAT_ORDER = 1e-5
"""Sums of float32 in another order, relative to the largest number of a weight's gradient."""
TWO = (
    "dense:1:1", "top_2:1:1", "tied:1:1", "biased:1:1", "recomputed:2:1", "sixteen:2:1",
    "skewed:2:1", "adapters:2:1", "dropout:1:1", "bf16:2:1", "nf4:1:1", "nf4:2:1",
    "nf4_attention:2:1", "stored_tables:2:1", "top_2:1:2",
)  # fmt: skip
FOUR = ("top_2:4:1", "sixteen:2:1", "biased:2:2", "skewed:4:1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reported("forked.py", str(tmp_path_factory.mktemp("two")), "--world", "2", *TWO)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reported("forked.py", str(tmp_path_factory.mktemp("four")), "--world", "4", *FOUR)


def assert_same(found: dict[str, Any]) -> None:
    assert found["losses"] < FLOAT_ORDER
    assert found["norms"] < FLOAT_ORDER
    assert found["gradients"] < FLOAT_ORDER, found["worst"]
    assert found["loads"]


@forks
@pytest.mark.parametrize("case", TWO)
def test_two_processes_compute_what_one_does(two: dict[str, Any], case: str) -> None:
    assert_same(two[case])


@forks
@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR)
def test_four_processes_compute_what_one_does(four: dict[str, Any], case: str) -> None:
    assert_same(four[case])


@forks
def test_experts_without_tokens_are_among_these_cases(two: dict[str, Any]) -> None:
    assert two["skewed:2:1"]["unused"] > 0


@forks
@pytest.mark.parametrize(
    "case",
    ["dense:1:1", "top_2:1:1", "top_2:1:2", "tied:1:1", "sixteen:2:1", "recomputed:2:1",
     "skewed:2:1", "bf16:2:1", "nf4:1:1", "nf4:2:1", "nf4_attention:2:1"],
)  # fmt: skip
def test_a_process_sends_what_was_computed(two: dict[str, Any], case: str) -> None:
    """Rows of experts: of the routing that was counted, since few tokens are not routed evenly."""
    sent, computed = two[case]["sent"], two[case]["computed"]
    for kind, size in computed.items():
        assert abs(sent[kind] - size) <= 0.05 * size, kind


@forks
def test_an_even_router_would_send_about_as_much(two: dict[str, Any]) -> None:
    sent, expected = two["sixteen:2:1"]["sent"], two["sixteen:2:1"]["expected"]
    assert 0.5 < sent["tokens"] / expected["tokens"] < 1.5  # routers that nobody trained
