"""Tokenizers: content stays content, nothing is lost, files open elsewhere, errors help."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from french_lines import french_lines, hostile_strings
from quatrain.errors import CheckpointError, ConfigError, DataError
from quatrain.text.ranks import PLAIN
from quatrain.text.tokenizer import (
    CONTROL_TOKENS,
    UNKNOWN,
    Names,
    SimpleCharTokenizer,
    Tokenizer,
    train_bpe,
)

LINES = french_lines(2000)
BPE = train_bpe(LINES, 500)
CHARACTERS = SimpleCharTokenizer(LINES)
BOTH = pytest.mark.parametrize("tokenizer", [BPE, CHARACTERS], ids=["bpe", "char"])
ELISIONS = "l'eau, qu’il, L'Été, jusqu'à, aujourd'hui, d'1"


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [cut for cut, _ in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)]


# --- content ---------------------------------------------------------------------------------


@BOTH
def test_thirty_thousand_hostile_strings_give_no_control_id(tokenizer: Tokenizer) -> None:
    strings = hostile_strings(30_000, (*CONTROL_TOKENS, UNKNOWN))
    injected = sum(
        not tokenizer.control_ids.isdisjoint(ids) for ids in tokenizer.encode_batch(strings)
    )
    assert injected == 0


def test_hostile_strings_come_back_exactly_from_bpe() -> None:
    strings = hostile_strings(20_000, CONTROL_TOKENS, seed=1)
    back = [BPE.decode(ids) for ids in BPE.encode_batch(strings)]
    assert back == [nfc(text) for text in strings]


def test_hostile_strings_come_back_exactly_from_characters_of_their_alphabet() -> None:
    strings = hostile_strings(20_000, CONTROL_TOKENS, seed=2)
    tokenizer = SimpleCharTokenizer(strings, unknown="error")
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(strings)] == [
        nfc(text) for text in strings
    ]


@given(st.text())
def test_bpe_loses_nothing_of_any_text(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == nfc(text)
    assert BPE.control_ids.isdisjoint(ids)


@given(st.text())
def test_characters_lose_nothing_of_their_alphabet(text: str) -> None:
    tokenizer = SimpleCharTokenizer(text, unknown="error")
    assert tokenizer.decode(tokenizer.encode(text)) == nfc(text)


@BOTH
def test_a_batch_encodes_as_its_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(LINES[:50]) == [tokenizer.encode(line) for line in LINES[:50]]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("") == []


def test_what_is_taken_for_its_own_nfc_is_so_beside_any_other() -> None:
    every = [c for c in map(chr, range(0x3000)) if PLAIN.fullmatch(c)]
    assert len(every) > 800
    for character in every:
        pairs = "".join(character + other for other in every)
        assert normalizers.NFC().normalize_str(pairs) == pairs
    assert not PLAIN.fullmatch("e\u0301")
    assert not PLAIN.fullmatch("\u212b")


@BOTH
def test_decoding_skips_control_tokens(tokenizer: Tokenizer) -> None:
    eot = tokenizer.control_id("<|eot|>")
    assert tokenizer.decode([eot, *tokenizer.encode("été"), eot]) == "été"


@BOTH
def test_copies_and_pickles_refuse_control_tokens_too(tokenizer: Tokenizer) -> None:
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode("<|eot|>") == tokenizer.encode("<|eot|>")
        assert again.control_ids.isdisjoint(again.encode("<|eot|>"))


@BOTH
def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="'ici \\\\ud83d' ends with half of a surrogate pair"):
        tokenizer.encode_batch(["bien", "ici \ud83d là"])


# --- streams ---------------------------------------------------------------------------------


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token_id) for token_id in ids), stream.finish()]


def bytes_of(text: str) -> list[int]:
    """Encode to one token a byte, the finest cut that byte-level BPE can make."""
    alphabet = BPE.backend.get_vocab()
    symbols = [
        cut for cut, _ in pre_tokenizers.ByteLevel(False, False, False).pre_tokenize_str(text)
    ]
    return [alphabet[symbol] for symbol in "".join(symbols)]


def test_a_character_of_several_bytes_comes_whole() -> None:
    assert streamed(BPE, bytes_of("né 🦊!")) == ["n", "", "é", " ", "", "", "", "🦊", "!", ""]


@given(st.text())
def test_streamed_bytes_join_to_the_text_and_show_no_half(text: str) -> None:
    parts = streamed(BPE, bytes_of(text))
    assert "".join(parts) == text
    assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=40))
def test_any_ids_stream_to_what_they_decode_to(ids: list[int]) -> None:
    assert "".join(streamed(BPE, ids)) == BPE.decode(ids)


@given(st.lists(st.integers(0, CHARACTERS.vocab_size - 1), max_size=40))
def test_any_characters_stream_to_what_they_decode_to(ids: list[int]) -> None:
    assert "".join(streamed(CHARACTERS, ids)) == CHARACTERS.decode(ids)


@pytest.mark.parametrize("text", ["Où est l'été ?", "né 🦊 !", " deux  espaces\n"])
def test_the_bytes_of_ids_joined_are_those_of_the_text(text: str) -> None:
    old = sentencepiece_style()
    cuts = [(BPE, BPE.encode(text)), (BPE, bytes_of(text)), (old, old.encode(text))]
    for tokenizer, ids in cuts:
        spelt = b"".join(map(tokenizer.bytes_of, ids)).decode()
        assert spelt.strip() == tokenizer.decode(ids).strip()


def test_the_bytes_of_a_control_token_are_its_name_and_no_token_has_none() -> None:
    assert BPE.bytes_of(BPE.control_id("<|eot|>")) == b"<|eot|>"
    assert BPE.bytes_of(BPE.vocab_size) == b""
    assert CHARACTERS.bytes_of(CHARACTERS.encode("é")[0]) == "é".encode()


def test_a_character_that_never_ends_is_given_at_the_finish() -> None:
    stream = BPE.stream()
    assert [stream.push(token_id) for token_id in bytes_of("a🦊")[:3]] == ["a", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def sentencepiece_style() -> Tokenizer:
    """Build a small tokenizer as older Llamas have: a mark for spaces, byte tokens for the rest."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257, "▁b": 258}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    return Tokenizer(backend, Names(bos=None, eos="</s>", pad=None))


@given(st.lists(st.sampled_from([0x61, 0xC3, 0xA9, 0xFF, 256, 257, 258, 259]), max_size=20))
def test_decoders_that_look_back_and_fall_back_to_bytes_stream_too(ids: list[int]) -> None:
    tokenizer = sentencepiece_style()
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


# --- vocabulary ------------------------------------------------------------------------------


def test_a_rich_corpus_gives_exactly_the_vocabulary_asked_for() -> None:
    assert BPE.vocab_size == 500
    assert BPE.control_ids == frozenset(range(500 - 16, 500))
    assert BPE.control_id("<|begin_of_text|>") == 484


def test_a_poor_corpus_gives_what_it_can_and_says_so() -> None:
    tokenizer = train_bpe("oui", 5000)
    assert 272 < tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("œ漢")) == "œ漢"


def test_words_of_the_headers_are_few_tokens_each() -> None:
    for word in ("system", "user", "assistant", "\n\n"):
        assert len(train_bpe(LINES, 1000).encode(word)) == 1


def test_equal_corpora_give_equal_tokenizers_in_every_process() -> None:
    program = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from french_lines import french_lines\n"
        "from quatrain.text.tokenizer import train_bpe\n"
        "json = train_bpe(french_lines(2000), 500).backend.to_str()\n"
        "sys.stdout.write(json)"
    )
    tests = str(Path(__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program, tests], capture_output=True, check=True, encoding="utf-8"
    )
    assert run.stdout == BPE.backend.to_str()


def test_too_small_a_vocabulary_is_refused_with_the_smallest_possible() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size=271 is too small(.|\n)*Use vocab_size=272"):
        train_bpe(LINES, 271)


def test_o200k_and_elisions_cut_differently() -> None:
    elisions = train_bpe(LINES, 600, elisions=True)
    assert pieces(BPE, "l'eau qu'il") == ["l", "'eau", "Ġqu", "'il"]
    assert pieces(elisions, "l'eau qu'il") == ["l'", "eau", "Ġqu'", "il"]
    assert pieces(elisions, "aujourd'hui d'1") == pieces(BPE, "aujourd'hui d'1")
    assert elisions.decode(elisions.encode(ELISIONS)) == ELISIONS


def test_the_cut_is_named(tmp_path: Path) -> None:
    elisions = train_bpe(LINES[:10], 300, elisions=True)
    named = [BPE, elisions, CHARACTERS, sentencepiece_style(), llama3_style()]
    assert [t.split for t in named] == ["o200k", "o200k+elisions", "char", "other", "other"]
    elisions.save(tmp_path)
    assert Tokenizer.load(tmp_path).split == "o200k+elisions"


def test_characters_have_sorted_ids_and_control_tokens_of_their_own() -> None:
    tokenizer = SimpleCharTokenizer("ba\u0301 é")
    assert tokenizer.decode(list(range(tokenizer.vocab_size))) == "\n abeimnrstuyáé\ufffd"
    assert tokenizer.control_id("<|finetune_right_pad|>") not in tokenizer.encode("\n abé")
    assert tokenizer.vocab_size == 15 + 1 + 16


def test_a_corpus_may_be_a_text_or_many() -> None:
    one, many = SimpleCharTokenizer("oui\nnon"), SimpleCharTokenizer(["oui", "non"])
    assert one.backend.get_vocab() == many.backend.get_vocab()


def test_characters_keep_newlines_accents_emoji_and_marks_apart() -> None:
    text = "é\r\n\n q\u0302 👩‍🚀\u200b"
    tokenizer = SimpleCharTokenizer(text, unknown="error")
    assert len(tokenizer.encode(text)) == len(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_unknown_character_becomes_the_unknown_token() -> None:
    tokenizer = SimpleCharTokenizer("abc")
    ids = tokenizer.encode("aΩ<|unk|>")
    assert ids[1] == tokenizer.unknown_id
    assert tokenizer.unknown_id not in tokenizer.control_ids
    assert tokenizer.decode(ids[:3]) == "a\ufffd\ufffd"
    assert BPE.unknown_id is None


def test_unknown_characters_are_named_when_refused(tmp_path: Path) -> None:
    tokenizer = SimpleCharTokenizer("abc ", unknown="error")
    tokenizer.save(tmp_path)
    for refusing in (tokenizer, Tokenizer.load(tmp_path)):
        with pytest.raises(
            DataError, match=r"'a ΩΩz' has .* alphabet: 'Ω' \(U\+03A9\), 'z' (.|\n)*Add"
        ):
            refusing.encode_batch(["abc", "a ΩΩz"])


def test_a_mistaken_choice_for_unknown_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown='skip' is not possible. The value must be 'unk' or 'error'"
    ):
        SimpleCharTokenizer("abc", unknown="skip")  # type: ignore[arg-type]


def test_an_absent_control_token_is_named_with_those_present() -> None:
    with pytest.raises(
        CheckpointError, match=r"no control token <\|im_end\|>\. It has <\|begin_of"
    ):
        BPE.control_id("<|im_end|>")
    with pytest.raises(CheckpointError, match="no control token a"):
        BPE.control_id("a")


def test_a_control_token_that_text_could_forge_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"stop": 0, "?": 1}, unk_token="?"))
    backend.add_special_tokens([AddedToken("stop", special=True)])
    with pytest.raises(CheckpointError, match="'stop' encodes to a control token"):
        Tokenizer(backend)


# --- files -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("with_model", [False, True], ids=["alone", "with_config"])
def test_transformers_opens_the_files_with_equal_ids(
    tokenizer: Tokenizer, with_model: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path, model_max_length=512)
    if with_model:
        config = {"model_type": "llama4_text", "architectures": ["Llama4ForCausalLM"]}
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    lines = french_lines(10_000, seed=3)
    assert theirs(lines, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(lines)
    assert theirs.decode(tokenizer.encode("l 'eau , !"), skip_special_tokens=True) == "l 'eau , !"
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.model_max_length) == (
        tokenizer.control_id("<|finetune_right_pad|>"),
        tokenizer.control_id("<|eot|>"),
        512,
    )


@BOTH
def test_loading_gives_back_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.names == tokenizer.names
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert again.control_ids == tokenizer.control_ids
    assert again.encode("<|eot|> où ?") == tokenizer.encode("<|eot|> où ?")


@BOTH
def test_files_that_transformers_wrote_load_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path / "ours")
    AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.load(tmp_path / "theirs")
    assert again.control_ids == tokenizer.control_ids
    assert again.names == tokenizer.names
    assert again.encode_batch(LINES) == tokenizer.encode_batch(LINES)


def llama3_style() -> Tokenizer:
    """Build a foreign tokenizer: another cut, whole words first, a begin token put before text."""
    stored = json.loads(BPE.backend.to_str())
    stored["model"]["ignore_merges"] = True
    stored["normalizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(stored))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|[^\p{L}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    begin = "<|begin_of_text|>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, BPE.control_id(begin))]
    )
    return Tokenizer(backend)


def test_a_foreign_tokenizer_adds_no_begin_and_cuts_nothing(tmp_path: Path) -> None:
    backend = llama3_style().backend
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizer",
        "bos_token": {"content": "<|begin_of_text|>", "__type": "AddedToken"},
        "eos_token": "<|eot|>",
        "pad_token": None,
        "model_max_length": 1e30,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    text = "Une phrase assez longue <|eot|>."
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.names == Names(pad=None)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    BPE.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing(.|\n)*download the file into"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
        ("tokenizer.json", "[[[", "tokenizer.json cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read: not JSON"),
        ("tokenizer_config.json", "[" * 100_000, "cannot be read: not JSON"),
        ("tokenizer_config.json", "[]", "a JSON object is expected, and list was found"),
        ("tokenizer_config.json", '{"bos_token": 3}', "bos_token must be a string, but it is 3"),
        ("tokenizer_config.json", '{"unknown_characters": 1}', "must be 'unk' or 'error'"),
        ("tokenizer_config.json", " " * (2**20 + 1), "has 1048577 bytes. At most 1048576 are read"),
    ],
)
def test_a_broken_file_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    BPE.save(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"tokenizer.json cannot be read: 'utf-8' codec"):
        Tokenizer.load(tmp_path)
