"""Text up to the first stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.config import GenerateConfig
from quatrain.text.stops import Cutter, Reader, before_stop
from quatrain.text.tokenizer import train_bpe

TEXT = st.text("ab\né👩 ", max_size=12)
STOPS = st.lists(st.text("ab\né👩 ", min_size=1, max_size=4), max_size=8)


def pushed(pieces: list[str], *stops: str) -> list[str]:
    cutter = Cutter(stops)
    return [*(cutter.push(piece) for piece in pieces), cutter.finish()]


def simply_cut(text: str, stops: list[str]) -> str:
    """The obvious second way."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=None)]


def test_what_may_begin_a_stop_string_is_held_back_and_let_go() -> None:
    given_back = pushed(["Il a f", "er, f", "in", ".", "Et"], "fin.")
    assert given_back == ["Il a ", "fer, ", "", "", "", ""]
    assert pushed(["Il a f", "i"], "fin.") == ["Il a ", "", "fi"]


def test_the_stop_string_that_begins_first_wins_if_it_comes() -> None:
    assert pushed(["a", "b", "c"], "abc", "b") == ["", "", "", ""]
    assert pushed(["a", "b", "d"], "abc", "b") == ["", "", "a", ""]
    assert pushed(["a", "b"], "abc", "b") == ["", "", "a"]


def test_nothing_is_held_without_stop_strings() -> None:
    assert pushed(["a", "b"]) == ["a", "b", ""]


def test_a_stop_string_of_decomposed_letters_is_found_in_composed_text() -> None:
    assert before_stop("Un été long", ["e\u0301te\u0301"]) == ("Un ", True)


def test_a_long_text_of_beginnings_is_no_trouble() -> None:
    assert before_stop("a" * 20_000, ["a" * 50 + "b"]) == ("a" * 20_000, False)


@given(st.lists(TEXT, max_size=6), STOPS)
@settings(deadline=None)
def test_pieces_joined_are_the_text_cut_at_the_first_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    assert "".join(pushed(pieces, *stops)) == simply_cut(text, stops)
    assert before_stop(text, stops) == (simply_cut(text, stops), any(s in text for s in stops))


@given(TEXT, STOPS)
@settings(deadline=None)
def test_ids_that_are_parts_of_characters_are_read_as_their_text(
    text: str, stops: list[str]
) -> None:
    tokenizer = train_bpe(["abab a a\n"], 290)
    reader = Reader(tokenizer.stream(), stops)
    found = "".join([*map(reader.push, tokenizer.encode(text)), reader.finish()])
    assert found == simply_cut(text, stops)


@pytest.mark.parametrize(
    ("stop", "message"),
    [(("a", ""), "stop has an empty string"), ("", "stop has an empty string"),
     (["a"] * 9, "stop has 9 strings"), ([3], "stop")],
)  # fmt: skip
def test_stop_strings_that_make_no_sense_are_refused(stop: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateConfig(stop=stop)


def test_one_text_is_one_stop_string_commas_and_all() -> None:
    assert GenerateConfig(stop="a, b").stop == ("a, b",)
