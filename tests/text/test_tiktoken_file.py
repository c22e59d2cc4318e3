"""Meta's tokenizer.model against tiktoken, on small files of ranks made here."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from french_lines import french_lines, hostile_strings
from quatrain.errors import CheckpointError
from quatrain.text import splits, tiktoken_file
from quatrain.text.chat import LLAMA3 as LLAMA3_CHAT
from quatrain.text.chat import LLAMA4 as LLAMA4_CHAT
from quatrain.text.tiktoken_file import LLAMA3, LLAMA4, Family
from quatrain.text.tokenizer import CONTROL_TOKENS, Tokenizer, train_bpe

LINES = french_lines(2000)
TEXTS = [*LINES[:500], *hostile_strings(1000, CONTROL_TOKENS), *("a" * n for n in range(1, 60))]
FAMILIES = pytest.mark.parametrize("family", [LLAMA4, LLAMA3], ids=["llama4", "llama3"])


def learnt_tokens() -> list[bytes]:
    """Spell a small BPE's tokens in bytes, by what each decodes to."""
    backend = train_bpe(LINES, 900).backend
    character = {spelt: byte for byte, spelt in enumerate(splits.spelling())}
    number = backend.get_vocab_size(with_added_tokens=False)
    return [bytes(map(character.__getitem__, backend.id_to_token(i))) for i in range(number)]


TOKENS = learnt_tokens()


def write(path: Path, tokens: list[bytes]) -> None:
    lines = (f"{base64.b64encode(t).decode()} {rank}\n" for rank, t in enumerate(tokens))
    path.write_text("".join(lines))


def opened(path: Path, family: Family, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    write(path, TOKENS)
    monkeypatch.setitem(tiktoken_file.FAMILIES, len(TOKENS), family)
    return Tokenizer.load(path)


def reference(family: Family) -> Any:
    return tiktoken.Encoding(
        "reference",
        pat_str=family.pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(TOKENS)},
        special_tokens={name: len(TOKENS) + n for n, name in enumerate(family.control_tokens)},
    )


@FAMILIES
def test_ids_are_tiktokens(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = opened(tmp_path / "tokenizer.model", family, monkeypatch), reference(family)
    expected = theirs.encode_ordinary_batch(TEXTS)
    assert [ids.tolist() for ids in ours._by_backend(TEXTS)] == expected
    assert ours.encode_batch(TEXTS) == expected
    assert [ours.decode(ours.encode(text)) for text in TEXTS] == TEXTS
    assert ours.vocab_size == theirs.n_vocab
    assert all(ours.control_id(n) == theirs.encode_single_token(n) for n in family.control_tokens)


def test_text_is_not_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = opened(tmp_path / "tokenizer.model", LLAMA4, monkeypatch)
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"


def test_control_tokens_have_the_published_ids() -> None:
    ids = {name: 200_000 + n for n, name in enumerate(LLAMA4.control_tokens)}
    assert len(ids) == 2048
    assert [ids[name] for name in LLAMA4_CHAT.control_tokens()] == [
        200000, 200005, 200006, 200008, 200001, 200007, 200018,
    ]  # fmt: skip
    assert ids["<|python_start|>"] == 200016
    assert (ids["<|image_start|>"], ids["<|image|>"], ids["<|patch|>"]) == (200080, 200090, 200092)
    assert ids["<|reasoning_thinking_start|>"] == 201142
    assert ids["<|reserved_special_token_0|>"] == 201144
    ids = {name: 128_000 + n for n, name in enumerate(LLAMA3.control_tokens)}
    assert len(ids) == 256
    assert [ids[name] for name in LLAMA3_CHAT.control_tokens()] == [
        128000, 128006, 128007, 128009, 128001, 128008, 128004,
    ]  # fmt: skip


def test_a_directory_with_the_file_alone_opens_and_is_saved_as_tokenizer_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path / "tokenizer.model", LLAMA4, monkeypatch)
    first = Tokenizer.load(tmp_path)
    assert (first.names.eos, first.names.pad) == ("<|eot|>", "<|finetune_right_pad|>")
    first.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.encode_batch(TEXTS) == first.encode_batch(TEXTS)
    assert again.names == first.names


def test_tokenizer_json_goes_before_a_file_of_ranks(tmp_path: Path) -> None:
    train_bpe(LINES, 300).save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"broken")
    assert Tokenizer.load(tmp_path).vocab_size == 300


def test_ranks_of_another_model_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer.model", TOKENS)
    with pytest.raises(CheckpointError, match=r"\[Q434\].*Llama 3 have 200,000 and 128,000"):
        Tokenizer.load(tmp_path)


def test_sentencepiece_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(CheckpointError, match=r"(?s)\[Q434\].*SentencePiece.*save_pretrained"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "a token for each of the 256 bytes"),
        ("IQ== 0\nIg== 1\n", "a token for each of the 256 bytes"),
        ("IQ== 0\nIg==\n", "line 2 is not a base64 token followed by its rank"),
        ("IQ== 0\nI? 1\n", "line 2 is not"),
        ("IQ== zero\n", "line 1 is not"),
        ("IQ== 0\n\nIg== 1", "line 2 is not"),
        ("IQ== 1\nIg== 2\n", "ranks must count up from 0"),
        ("IQ== 0\nIg== 0\n", "ranks must count up from 0"),
        ("IQ== 0\nIQ== 1\n", "ranks must count up from 0, one for each token"),
        ("é 0\n", "line 1 is not"),
    ],
)
def test_a_broken_file_is_named(lines: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text(lines, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"\[Q431\].*tokenizer\.model.*{said}"):
        Tokenizer.load(tmp_path)


def test_an_oversized_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as sparse:
        sparse.truncate(2**26)
    with pytest.raises(CheckpointError, match="has more than 33554432 bytes"):
        Tokenizer.load(tmp_path)
