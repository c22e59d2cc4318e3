"""Drafts from what was read."""

from __future__ import annotations

from quatrain.generate.lookup import Lookup


def test_a_draft_is_what_followed_the_last_pair_before() -> None:
    assert list(Lookup([1, 2, 3, 4, 5, 9, 1, 2]).draft(5)) == [3, 4, 5]
    assert list(Lookup([1, 2, 3, 4, 5, 9, 1, 2]).draft(2)) == [3, 4]


def test_the_latest_place_counts() -> None:
    assert list(Lookup([1, 2, 3, 1, 2, 4, 1, 2]).draft(1)) == [4]


def test_a_pair_does_not_foretell_itself() -> None:
    assert list(Lookup([1, 2]).draft(3)) == []
    assert list(Lookup([7, 7, 7]).draft(3)) == [7]


def test_there_is_no_draft_without_a_pair_or_room() -> None:
    for history, most in (([1], 3), ([], 3), ([1, 2, 3], 3), ([1, 2, 1, 2], 0), ([1, 2, 1, 2], -1)):
        assert list(Lookup(history).draft(most)) == []


def test_it_looks_through_what_is_added() -> None:
    history = [1, 2, 3]
    lookup = Lookup(history)
    assert list(lookup.draft(3)) == []
    history += [8, 2, 3]
    assert list(lookup.draft(1)) == [8]


def test_drafts_grow_where_they_are_right_and_pause_where_they_are_wrong() -> None:
    history = [1, 2, *range(3, 20), 1, 2]
    lookup = Lookup(history)
    first = len(lookup.draft(99))
    lookup.judge(first, first)
    assert len(lookup.draft(99)) > first
    lookup.judge(6, 0)
    pauses = 0
    while not lookup.draft(99):
        pauses += 1
    assert pauses > 0
