"""Meta's tokenizer.model: a line for each token, its bytes in base64 and its rank.

    SGVsbG8= 9906        the bytes of "Hello" are token 9906

The user's own copy is opened; the file is never shipped, since Meta's licence covers it. It lacks
the cut before BPE and the control tokens. These are known for Llama 4 and Llama 3, which differ in
their number of ranks. The pair of tokens whose join has the lowest rank merges first, so each way
to cut a token into two is one merge of a byte-level BPE, in the order of ranks.
Differs from Llama 4: its own code first cuts stretches of 25,000 characters without a space.
Not for SentencePiece, whose files have the same name.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from quatrain.errors import CheckpointError
from quatrain.files import is_lfs_pointer
from quatrain.text import splits
from quatrain.text.tokenizer_files import TOKENIZER_FILE, broken
from quatrain.words import Sentence

RANK_FILE = "tokenizer.model"
_MAX_BYTES = 32 * 2**20
_NUM_BYTES = 256


@dataclass(frozen=True)
class Family:
    """What a file of ranks lacks of a model family's tokenizer."""

    pattern: str
    """The cut before BPE."""
    control_tokens: tuple[str, ...]
    """They follow the ranks, in this order."""
    eos: str
    pad: str


def _reserved(kind: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"<|{kind}reserved_special_token_{n}|>" for n in range(first, last + 1))


LLAMA4 = Family(
    pattern=splits.O200K,
    control_tokens=(
        *("<|begin_of_text|>", "<|end_of_text|>"),
        *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
        *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
        *_reserved("text_post_train_", 0, 5),
        *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
        *_reserved("text_post_train_", 8, 68),
        *("<|image_start|>", "<|image_end|>"),
        *_reserved("vision_", 0, 1),
        *("<|tile_x_separator|>", "<|tile_y_separator|>"),
        *_reserved("vision_", 2, 5),
        "<|image|>",
        *_reserved("vision_", 6, 6),
        "<|patch|>",
        *_reserved("vision_", 7, 1047),
        *_reserved("reasoning_", 0, 7),
        *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
        *_reserved("", 0, 903),
    ),
    eos="<|eot|>",
    pad="<|finetune_right_pad|>",
)

LLAMA3 = Family(
    pattern=splits.LLAMA3,
    control_tokens=(
        *("<|begin_of_text|>", "<|end_of_text|>"),
        *_reserved("", 0, 1),
        *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
        *_reserved("", 2, 245),
    ),
    eos="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
)

FAMILIES = {200_000: LLAMA4, 128_000: LLAMA3}
"""By the number of ranks."""


def rank_file(path: Path) -> Path | None:
    """Find the file that a path means: itself, or that of a directory without tokenizer.json."""
    if path.is_file():
        return path
    found = path / RANK_FILE
    return found if found.is_file() and not (path / TOKENIZER_FILE).is_file() else None


def read_rank_file(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Read a file of ranks, and give the fields of `tokenizer.Names`.

    Raises:
        CheckpointError: Q431 for a broken file, Q434 for another tokenizer's.
    """
    ranks = read_ranks(path)
    family = FAMILIES.get(len(ranks))
    if family is None:
        raise CheckpointError(
            "Q434.ranks",
            path=path,
            number=len(ranks),
            known=tuple(FAMILIES),
            tokenizer_file=TOKENIZER_FILE,
        )
    names = {"bos": "<|begin_of_text|>", "eos": family.eos, "pad": family.pad}
    return backend_of(ranks, family), names


def read_ranks(path: Path) -> list[bytes]:
    """Read each token's bytes, in the order of ranks.

    Raises:
        CheckpointError: Q401 for a Git LFS pointer, Q431 for a broken file, Q434 for SentencePiece.
    """
    if is_lfs_pointer(path):
        raise CheckpointError("Q401.lfs", path=path)
    if path.stat().st_size > _MAX_BYTES:
        raise broken(path, Sentence.of("reasons.too_large", most=_MAX_BYTES))
    data = path.read_bytes()
    if data.startswith(b"\n"):  # SentencePiece begins with its first piece, field 1 of a message
        raise CheckpointError("Q434.sentencepiece", path=path, tokenizer_file=TOKENIZER_FILE)
    ranked: dict[int, bytes] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranked[int(rank)] = base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error):
            raise broken(path, Sentence.of("reasons.rank_line", number=number)) from None
    tokens = [ranked[rank] for rank in sorted(ranked)]
    if sorted(ranked) != list(range(number if data else 0)) or len(set(tokens)) != len(tokens):
        raise broken(path, Sentence.of("reasons.ranks"))
    if len({token for token in tokens if len(token) == 1}) != _NUM_BYTES:
        raise broken(path, Sentence.of("reasons.byte_tokens", number=_NUM_BYTES))
    return tokens


def backend_of(tokens: list[bytes], family: Family) -> tokenizers.Tokenizer:
    """Build the tokenizer; like the reference it changes no text, so there is no normaliser.

    Args:
        tokens: each token's bytes, in the order of ranks.
        family: the cut, and the control tokens that follow.
    """
    vocabulary = {_spelt(token): rank for rank, token in enumerate(tokens)}
    merges = list(_merges(tokens))
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = splits.byte_level(family.pattern)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in family.control_tokens]
    )
    return backend


def _merges(tokens: list[bytes]) -> Iterator[tuple[str, str]]:
    """List every way to cut a token into two others, by the token's rank and then the parts'."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    spelt = [_spelt(token) for token in tokens]
    for token in tokens:
        cuts = ((ranks.get(token[:i]), ranks.get(token[i:])) for i in range(1, len(token)))
        parts = sorted((a, b) for a, b in cuts if a is not None and b is not None)
        yield from ((spelt[left], spelt[right]) for left, right in parts)


_TABLE = dict(enumerate(splits.spelling()))


def _spelt(token: bytes) -> str:
    return token.decode("latin-1").translate(_TABLE)
