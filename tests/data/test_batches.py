"""Batches: a pure function of seed and step, for any number of processes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.data.batches import Batches, in_order
from quatrain.data.rows import Block, Rows, write_rows
from quatrain.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Twenty-one rows; row r has r + 2 tokens, all but its first equal to r."""
    return write_rows(
        tmp_path_factory.mktemp("rows") / "rows",
        [Block.of([99, *[r] * (r + 1)], [False] + [True] * (r + 1)) for r in range(21)],
        block_size=32,
        packing="padded",
        pad_id=77,
    )


@given(
    batch_size=st.sampled_from([8, 16]),
    world=st.sampled_from([1, 2, 4, 8]),
    stop=st.integers(0, 12),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=60, deadline=None)
def test_each_row_comes_once_an_epoch_whatever_the_world_and_the_stops(
    rows: Rows, batch_size: int, world: int, stop: int, seed: int
) -> None:
    seen: list[int] = []
    for step in range(2 * len(rows)):
        if step == stop:  # a new process goes on, with half as many or as many ranks
            world = max(1, world // 2)
        if step == 0 or step == stop:
            batches = Batches(rows, batch_size, seed)
        for rank in range(world):
            seen += batches.batch(step, rank, world).indices.tolist()
    for epoch in range(len(seen) // len(rows)):
        assert sorted(seen[epoch * len(rows) : (epoch + 1) * len(rows)]) == list(range(len(rows)))


@pytest.mark.parametrize("world", [2, 4, 8])
def test_the_ranks_parts_joined_are_the_batch_of_one_process(rows: Rows, world: int) -> None:
    batches = Batches(rows, 8, seed=3)
    for step in range(6):
        parts = [batches.batch(step, rank, world) for rank in range(world)]
        whole = batches.batch(step)
        assert np.concatenate([part.indices for part in parts]).tolist() == whole.indices.tolist()
        assert sum(int(part.mask.sum()) for part in parts) == int(whole.mask.sum())
        assert {part.epoch for part in parts} == {whole.epoch}


def test_a_batch_depends_on_nothing_but_seed_and_step(rows: Rows) -> None:
    forward = [Batches(rows, 4, 5).batch(step).indices.tolist() for step in range(12)]
    batches = Batches(rows, 4, 5)
    backward = [batches.batch(step).indices.tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]


ORDER_OF_SEED_0 = [0, 2, 11, 20, 17, 9, 1, 8, 13, 5, 16, 19, 4, 3, 12, 10, 15, 14, 6, 18, 7]


def test_the_order_is_fixed_for_all_time(rows: Rows) -> None:
    order = np.concatenate([Batches(rows, 7, 0).batch(step).indices for step in range(3)])
    assert order.tolist() == ORDER_OF_SEED_0


def test_epochs_and_seeds_have_different_orders(rows: Rows) -> None:
    batches = Batches(rows, 21, 0)
    first, second = batches.batch(0).indices.tolist(), batches.batch(1).indices.tolist()
    assert first != second
    assert first != Batches(rows, 21, 1).batch(0).indices.tolist()


def test_padding_that_all_rows_share_is_trimmed(rows: Rows) -> None:
    batch = Batches(rows, 3, seed=1).batch(0)
    used = [int(index) + 2 for index in batch.indices]
    assert batch.ids.shape == batch.mask.shape == (3, max(used))
    assert [segments[0] for segments in batch.segments] == used
    assert all(len(segments) == 1 for segments in batch.segments)


def test_a_trimmed_batch_keeps_every_token_and_target(rows: Rows) -> None:
    batch = Batches(rows, 3, seed=1).batch(0)
    assert batch.ids.dtype == np.int64
    for ids, mask, index in zip(batch.ids, batch.mask, batch.indices.tolist(), strict=True):
        used = index + 2
        assert ids.tolist() == [99, *[index] * (used - 1)] + [77] * (len(ids) - used)
        assert mask.sum() == used - 1


def test_packed_rows_keep_their_width(tmp_path: Path) -> None:
    packed = write_rows(
        tmp_path / "rows",
        [Block.of([1, 2], [False, True])],
        block_size=8,
        packing="best_fit",
        pad_id=0,
    )
    batch = Batches(packed, 1, 0).batch(0)
    assert batch.ids.shape == (1, 8)
    assert batch.segments == [[2]]


def test_in_order_gives_every_row_once_and_a_last_smaller_batch(rows: Rows) -> None:
    found = [batch.indices.tolist() for batch in in_order(rows, 8)]
    assert found == [list(range(8)), list(range(8, 16)), list(range(16, 21))]


def test_epochs_are_counted_in_passes_over_the_rows(rows: Rows) -> None:
    batches = Batches(rows, 6, 0)
    assert batches.steps_per_epoch == 3.5
    assert batches.batch(0).epoch == pytest.approx(6 / 21)
    assert batches.batch(6).epoch == 2.0


def test_a_batch_larger_than_the_data_spans_epochs(rows: Rows) -> None:
    batch = Batches(rows, 63, 0).batch(0)
    assert np.bincount(batch.indices).tolist() == [3] * 21


def test_a_world_that_does_not_divide_the_batch_is_refused(rows: Rows) -> None:
    with pytest.raises(ConfigError, match="batch_size=6 cannot be divided among 4 processes") as e:
        Batches(rows, 6, 0).batch(0, 0, 4)
    assert "train.batch_size=8" in e.value.remedy


def test_no_rows_and_no_batch_are_refused(rows: Rows, tmp_path: Path) -> None:
    empty = write_rows(tmp_path / "rows", [], block_size=8, packing="padded", pad_id=0)
    with pytest.raises(DataError, match="holds no rows"):
        Batches(empty, 1, 0)
    with pytest.raises(ConfigError, match=r"batch_size is 0. It must be at least 1"):
        Batches(rows, 0, 0)
