"""The store: blocks are shared, kept, taken over and never lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.model.store import Held, Store
from tiny import tiny_config

SIZE = 16


def store(chunk: int | None = 32, most: int | None = None) -> Store:
    """A store, bounded to sequences of `most` tokens in all."""
    made = Store(tiny_config(attention_chunk_size=chunk))
    if most is not None:
        made.most_bytes = made.bytes_for(most)
    return made


def read(one: Store, ids: list[int], piece: int = 1_000) -> Held:
    held = one.begin(ids)
    for start in range(held.length, len(ids), piece):
        new = ids[start : start + piece]
        assert one.reserve(held, len(new))
        one.learn(held, new)
    return held


def test_a_beginning_that_was_read_is_taken_over_in_whole_blocks() -> None:
    one, ids = store(None), list(range(50))
    first = read(one, ids)
    second = one.begin([*ids[:40], 90, 91])
    assert second.length == 32
    assert second.tables[0].tolist() == first.tables[0].tolist()[:2]
    assert one.begin([1, *ids]).length == 0


def test_the_last_token_is_always_read_again() -> None:
    one, ids = store(None), list(range(32))
    read(one, ids)
    assert one.begin(ids).length == 16
    assert one.begin([*ids, 5]).length == 32


def test_what_nobody_holds_stays_until_its_place_is_needed() -> None:
    one, ids = store(None, most=64), list(range(48))
    one.release(read(one, ids))
    assert one.held == 0
    again = one.begin([*ids, 1])
    assert again.length == 48
    one.release(again)
    one.release(read(one, list(range(100, 164))))  # takes every place
    assert one.begin([*ids, 1]).length == 0


def test_the_block_that_was_kept_longest_goes_first() -> None:
    one = store(None, most=64)
    for start in (0, 100):
        one.release(read(one, list(range(start, start + 32))))
    one.release(read(one, list(range(200, 216))))
    assert one.begin([*range(100, 132), 1]).length == 32
    assert one.begin([*range(32), 1]).length == 0


def test_past_chunks_are_let_go_and_a_later_chunk_is_taken_over() -> None:
    one, ids = store(32), list(range(100))
    first = read(one, ids, piece=10)
    later = one.begin([*ids[:80], 7])
    assert later.length == 80
    assert later.begins == [0, 4]
    assert [len(table) for table in later.tables] == [5, 1]
    assert one.reserve(first, 1)
    assert first.begins == [0, 6]


def test_a_full_store_takes_nothing() -> None:
    one = store(None, most=48)
    held = read(one, list(range(40)))
    before = one.held
    other = one.begin([1, 2, 3])
    assert not one.reserve(other, 30)
    assert one.held == before
    assert one.reserve(held, 8)
    assert not one.reserve(held, 9)


def test_tokens_that_were_not_learnt_are_read_again() -> None:
    one = store(None)
    held = read(one, list(range(14)))
    assert one.reserve(held, 5)
    held.length += 5
    one.learn(held, [14, 15])
    assert held.length == 16
    assert one.begin([*range(16), 3]).length == 16


moves = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 3), st.integers(1, 90)),
        st.tuples(st.just("go on"), st.integers(0, 9), st.integers(1, 40)),
        st.tuples(st.just("end"), st.integers(0, 9), st.just(0)),
    ),
    max_size=40,
)


@given(moves, st.sampled_from([None, 7, 16, 32]), st.integers(4, 12))
@settings(max_examples=100, deadline=None)
def test_no_block_is_lost_or_held_by_who_did_not_take_it(
    moves: list[tuple[str, int, int]], chunk: int | None, most: int
) -> None:
    one, alive = store(chunk, most=most * SIZE), list[tuple[Held, list[int]]]()
    for what, number, count in moves:
        if what == "begin":
            ids = [i * number % 5 for i in range(count)]
            held = one.begin(ids)
            assert held.length < len(ids)
            new = ids[held.length :]
            if one.reserve(held, len(new)):
                one.learn(held, new)
                alive.append((held, ids))
            else:
                one.release(held)
        elif alive and what == "go on":
            held, ids = alive[number % len(alive)]
            if one.reserve(held, count):
                one.learn(held, [number] * count)
                ids += [number] * count
        elif alive:
            one.release(alive.pop(number % len(alive))[0])
        check(one, [held for held, _ in alive])
    for held, _ in alive:
        one.release(held)
    check(one, [])
    assert one.held == 0


def check(one: Store, alive: list[Held]) -> None:
    assert one.most_bytes is not None
    assert one.used_bytes <= one.most_bytes
    for number, group in enumerate(one.groups):
        counted = [0] * len(group.holders)
        for held in alive:
            for block in held.tables[number]:
                counted[block] += 1
            needed = -(-held.length // one.size) - held.begins[number]
            assert len(held.tables[number]) >= needed
        assert counted == group.holders
        free = {*group.empty, *group.kept}
        assert len(free) == len(group.empty) + len(group.kept)
        assert free == {block for block, holders in enumerate(counted) if not holders}
        assert set(group.kept) <= set(group.contents)
        for block, known in group.contents.items():
            assert known.blocks[number] == block
            assert one._known[known.before, known.tokens] is known


def test_a_chunk_that_is_no_multiple_of_a_block_has_smaller_blocks() -> None:
    assert [store(chunk).size for chunk in (None, 32, 24, 7)] == [16, 16, 8, 1]


@pytest.mark.parametrize("tokens", [1, 16, 17, 100])
def test_bytes_are_those_of_the_blocks(tokens: int) -> None:
    one = store(32)
    held = one.begin()
    assert one.reserve(held, tokens)
    assert one.used_bytes <= one.bytes_for(tokens)
    everything, chunks = one.groups
    assert one.used_bytes == sum(
        len(table) * group.block_bytes
        for table, group in zip(held.tables, (everything, chunks), strict=True)
    )
