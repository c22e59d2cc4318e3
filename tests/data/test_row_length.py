"""Rows of a base are as long as its conversations need, and no longer."""

from __future__ import annotations

import pytest

from quatrain.data.row_length import SHORTEST, fitted, row_length
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Conversation, Message
from quatrain.text.tokenizer import SimpleCharTokenizer


@pytest.mark.parametrize(
    ("longest", "length"),
    [(40, 256), (128, 256), (200, 448), (256, 512), (300, 512), (513, 576), (700, 704),
     (2000, 2048), (9000, 2048)],
)  # fmt: skip
def test_a_row_holds_the_longest_conversation_or_several_short_ones(
    longest: int, length: int
) -> None:
    assert fitted(longest, SHORTEST, 8192) == length


def test_a_row_is_never_longer_than_the_models_context() -> None:
    assert fitted(700, SHORTEST, 600) == 600
    assert fitted(10, SHORTEST, 128) == 128


def conversation(size: int) -> Conversation:
    return Conversation((Message("user", "a" * size), Message("assistant", "b")), ("b",), "g", "q")


def test_all_conversations_are_measured_where_they_are_few() -> None:
    tokenizer = SimpleCharTokenizer("ab")
    sizes = [5] * 100 + [600]
    around = len(LLAMA4.encode_conversation(conversation(1), tokenizer).ids) - 1
    found = row_length([conversation(n) for n in sizes], tokenizer, LLAMA4, SHORTEST, 8192)
    assert found == -(-(600 + around) // 64) * 64


def test_rows_are_shorter_where_two_conversations_would_not_share_one() -> None:
    tokenizer = SimpleCharTokenizer("ab")
    around = len(LLAMA4.encode_conversation(conversation(1), tokenizer).ids) - 1
    alike = [conversation(300 - around - n % 20) for n in range(60)]
    assert row_length(alike, tokenizer, LLAMA4, SHORTEST, 8192) == 320
    mixed = [*alike, *[conversation(150)] * 120]  # a short one fits beside a long one
    assert row_length(mixed, tokenizer, LLAMA4, SHORTEST, 8192) == 512


def test_a_sample_leaves_room_for_those_that_were_not_seen() -> None:
    tokenizer = SimpleCharTokenizer("ab")
    many = [conversation(600)] * 4001
    found = row_length(many, tokenizer, LLAMA4, SHORTEST, 8192)
    assert found >= 1.1 * 600


def test_no_conversation_gets_the_shortest_row() -> None:
    assert row_length([], SimpleCharTokenizer("ab"), LLAMA4, 512, 8192) == 512
