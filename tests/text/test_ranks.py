"""Ranks: tiktoken gives the ids of the tokenizer it stands in for, or is not asked."""

from __future__ import annotations

import copy
import itertools
import json
import random
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from french_lines import french_lines, hostile_strings
from quatrain.text import splits
from quatrain.text.ranks import PLAIN, RankEncoder
from quatrain.text.splits import spelling
from quatrain.text.tokenizer import CONTROL_TOKENS, SimpleCharTokenizer, Tokenizer, train_bpe

LINES = french_lines(2000)
HOSTILE = hostile_strings(20_000, CONTROL_TOKENS)
CHARACTERS = [c for c in map(chr, range(0x3000)) if PLAIN.fullmatch(c)]
LONGEST = 65_536
PATTERNS = {
    "o200k": splits.O200K,
    "o200k+elisions": splits.O200K_ELISIONS,
    "llama3": splits.LLAMA3,
    "qwen2": splits.QWEN2,
}
CONTEXTS = (
    *("{}", "a{}", "{}a", "A{}", "{}A", "1{}", "{}1", " {}", "{} ", "  {}", "{}  ", "\n{}", "{}\n"),
    *("'{}", "’{}", "{}'s", "{}'S", "a'{}", "l'{}", "L’{}", "qu'{}", "a{}b", " {}b", "A{}b", ".{}"),
    *("!\n/{}", "{}\t", "\r{}\r"),
    *("{}.", "/{}", "{}/", "é{}", "{}é", "É{}", "\u00a0{}", "{0}{0}", "{0}a{0}"),
)


def made_of(backend: tokenizers.Tokenizer) -> RankEncoder:
    encoder = RankEncoder.of(backend)
    assert encoder is not None
    return encoder


def lists(all_ids: Any) -> list[list[int]]:
    return [list(ids) for ids in all_ids]


def differences(backend: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    """Find the texts that the backend, which knows nothing of ranks, encodes in another way."""
    ids = made_of(backend).encode(texts)
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [t for t, i, e in zip(texts, ids, encodings, strict=True) if i.tolist() != e.ids]


def every_pair(pattern: str, seed: int) -> tokenizers.Tokenizer:
    """Make a BPE of all pairs of bytes, so that most cuts show: no pair reaches across one.

    Pairs that may lie across characters merge before those within one.
    """
    text = "".join(CHARACTERS).encode()
    used, spelt = sorted(set(text)), spelling()
    pairs = list(itertools.product(used, used))
    random.Random(seed).shuffle(pairs)
    pairs.sort(key=lambda pair: 0x80 <= pair[1] < 0xC0)
    merges = [(spelt[one], spelt[other]) for one, other in pairs]
    words = [*spelt, *(one + other for one, other in merges)]
    backend = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    backend.pre_tokenizer = splits.byte_level(pattern)
    return backend


def changed(backend: tokenizers.Tokenizer, **fields: Any) -> tokenizers.Tokenizer:
    stored = json.loads(backend.to_str())
    stored["model"] |= fields
    return tokenizers.Tokenizer.from_str(json.dumps(stored))


# --- the same ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_words_are_cut_alike_around_every_character(pattern: str) -> None:
    texts = [context.format(c) for c in CHARACTERS for context in CONTEXTS]
    assert len(texts) > 30_000
    for seed in range(2):
        assert differences(every_pair(pattern, seed), texts) == []


@pytest.mark.parametrize(
    ("part", "other"),
    [(r"\p{Lm}", ""), (r"\p{Lo}", ""), (r"(?!\S)", ""), ("'s|", ""), ("(?i:", "(?:"), ("/]", "]")],
)
def test_another_cut_would_show(part: str, other: str) -> None:
    texts = [context.format(c) for c in CHARACTERS for context in CONTEXTS]
    backend = every_pair(splits.O200K, 0)
    encoder = made_of(backend)
    backend.pre_tokenizer = splits.byte_level(splits.O200K.replace(part, other))
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    ids = lists(encoder.encode(texts))
    assert any(i != one.ids for i, one in zip(ids, encodings, strict=True))


@pytest.mark.parametrize("elisions", [False, True])
@pytest.mark.parametrize("size", [300, 700, 3000])
def test_ids_are_those_of_the_merges(size: int, elisions: bool) -> None:
    backend = train_bpe([*LINES, *HOSTILE[:2000]], size, elisions=elisions).backend
    texts = [text for text in [*LINES, *HOSTILE] if PLAIN.fullmatch(text)]
    assert len(texts) > 10_000
    assert differences(backend, texts) == []
    assert differences(backend, ["ab" * n + "a" * n for n in range(60)]) == []


SMALL = train_bpe([*LINES, "aaaa aaaaaaa abab ababab"], 700).backend


@given(st.lists(st.text(st.sampled_from(CHARACTERS) | st.sampled_from("ab 'é\n"), max_size=30)))
def test_ids_are_those_of_the_merges_for_any_plain_texts(texts: list[str]) -> None:
    assert differences(SMALL, texts) == []


@pytest.mark.parametrize("piece", [" ", "a", "é", "'", "^", "\n", "a1", " \n", "\t ", "l'", "É."])
def test_ids_are_those_of_the_merges_without_end(piece: str) -> None:
    long = (piece * LONGEST)[:LONGEST]
    assert PLAIN.fullmatch(long)
    assert not PLAIN.fullmatch(long + "a")
    for text in (long, long[:-1] + "x", "x" + long[:-1], long[:-1] + " "):
        assert differences(SMALL, [text]) == []


def test_a_file_of_ranks_that_takes_whole_words_is_as_good() -> None:
    stored = json.loads(SMALL.to_str())["model"]
    words = [word for word in stored["vocab"] if word not in CONTROL_TOKENS]
    known = set(words)
    ways = [
        (word[:i], word[i:])
        for word in sorted(words, key=stored["vocab"].__getitem__)
        for i in range(1, len(word))
        if {word[:i], word[i:]} <= known
    ]
    assert len(ways) > len(stored["merges"])
    backend = changed(SMALL, merges=ways, ignore_merges=True)
    assert differences(backend, LINES) == []


# --- where it is not certain -----------------------------------------------------------------


def test_a_token_that_its_merges_do_not_give_is_refused() -> None:
    """Ranks would join the two to "abc" all the same, where a word is that token at once."""
    words = [*spelling(), "ab", "bc", "cd", "abc"]
    vocabulary = {word: number for number, word in enumerate(words)}

    def backend(*merges: tuple[str, str]) -> tokenizers.Tokenizer:
        made = tokenizers.Tokenizer(models.BPE(vocabulary, list(merges)))
        made.pre_tokenizer = splits.byte_level(splits.O200K)
        return made

    pairs = ("a", "b"), ("b", "c"), ("c", "d")
    assert made_of(backend(*pairs, ("ab", "c"))).encode(["abc"])[0].tolist() == [259]
    # "a" and "bc" never meet, since "ab" is merged first: nothing gives "abc"
    unreachable = backend(*pairs, ("a", "bc"))
    assert unreachable.encode("abc").ids == [256, ord("c")]
    assert RankEncoder.of(unreachable) is None


def test_ids_that_do_not_rise_are_refused() -> None:
    words = [*spelling(), "bc", "ab"]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [("a", "b"), ("b", "c")]))
    backend.pre_tokenizer = splits.byte_level(splits.O200K)
    assert backend.encode("abc").ids == [257, ord("c")]  # by ranks: a, bc
    assert RankEncoder.of(backend) is None


def _lower(backend: tokenizers.Tokenizer) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])


def _add_a_word(backend: tokenizers.Tokenizer) -> None:
    backend.add_tokens(["ville"])


def _cut_as_gpt2(backend: tokenizers.Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


def _cut_at_nothing(backend: tokenizers.Tokenizer) -> None:
    backend.pre_tokenizer = None


@pytest.mark.parametrize("change", [_lower, _add_a_word, _cut_as_gpt2, _cut_at_nothing])
def test_what_else_a_tokenizer_does_is_not_left_out(change: Any) -> None:
    backend = copy.deepcopy(SMALL)
    assert RankEncoder.of(backend) is not None
    change(backend)
    assert RankEncoder.of(backend) is None


@pytest.mark.parametrize(
    "fields", [{"dropout": 0.1}, {"byte_fallback": True}, {"unk_token": "a"}, {"fuse_unk": True}]
)
def test_what_else_a_model_does_is_not_left_out(fields: dict[str, Any]) -> None:
    assert RankEncoder.of(changed(SMALL, **fields)) is None


def test_bytes_that_are_missing_are_refused() -> None:
    stored = json.loads(SMALL.to_str())["model"]
    vocabulary = {word: number for word, number in stored["vocab"].items() if word != "z"}
    assert RankEncoder.of(changed(SMALL, vocab=vocabulary)) is None


def test_characters_and_pieces_of_other_models_are_refused() -> None:
    assert RankEncoder.of(SimpleCharTokenizer(LINES).backend) is None
    pieces = tokenizers.Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    pieces.pre_tokenizer = splits.byte_level(splits.O200K)
    assert RankEncoder.of(pieces) is None


# --- in a tokenizer --------------------------------------------------------------------------


def test_a_tokenizer_gives_the_same_ids_once_it_has_encoded_enough() -> None:
    texts = [*LINES, *HOSTILE[:3000], "", " \n\t", "e\u0301te\u0301", "\u212b", "😀", "\ufdd0", "a"]
    tokenizer = Tokenizer(copy.deepcopy(SMALL))
    first = tokenizer.encode_batch(texts[:10])
    assert "_ranks" not in vars(tokenizer)
    while "_ranks" not in vars(tokenizer):
        tokenizer.encode_batch(LINES)
    assert tokenizer._ranks is not None
    encodings = SMALL.encode_batch(texts, add_special_tokens=False)
    assert tokenizer.encode_batch(texts) == [one.ids for one in encodings]
    assert tokenizer.encode_batch(texts[:10]) == first
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("") == []


def test_control_tokens_stay_text_once_it_has_encoded_enough() -> None:
    tokenizer = Tokenizer(copy.deepcopy(SMALL))
    tokenizer.encode_batch(LINES * 20)
    assert tokenizer._ranks is not None
    assert all(
        tokenizer.control_ids.isdisjoint(ids)
        for ids in tokenizer.encode_batch([*CONTROL_TOKENS, *HOSTILE])
    )


def test_special_tokens_among_the_vocabulary_are_no_ranks() -> None:
    """Some models' files name control tokens in the vocabulary too, where nothing gives them."""
    stored = json.loads(SMALL.to_str())["model"]
    size = len(stored["vocab"])
    backend = changed(SMALL, vocab=stored["vocab"] | {"<|extra|>": size + 100})
    backend.add_special_tokens([AddedToken("<|extra|>", special=True, normalized=False)])
    backend.encode_special_tokens = True
    assert differences(backend, ["<|extra|>", "a<|extra|>b", *LINES]) == []
