"""A tokenizer as GGUF says it: tokens, their types, merges, and the name of the cut.

llama.cpp rebuilds the cut from its name alone, so that a cut without a name cannot leave. It does
not normalise: a text that is not in NFC gives other ids there. Its `llama4` is o200k but for words
of capitals with a letter beyond ASCII, which it cuts after that letter: É|COLE.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from quatrain.errors import CheckpointError
from quatrain.text import splits
from quatrain.text.tokenizer import Names, Tokenizer
from quatrain.words import say

logger = logging.getLogger(__name__)

_ACCENT_THEN_CAPITAL = re.compile(r"[^\W\d_a-zA-Z][A-Z]")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""GGUF's token types, as far as they occur here."""


@dataclass(frozen=True)
class Vocabulary:
    """What the keys under `tokenizer.ggml` hold."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """Spell a byte-level BPE of `vocab_size` rows, those without a token included.

    Raises:
        CheckpointError: Q411 for another kind of tokenizer, or a cut without a name.
    """
    stored = json.loads(tokenizer.backend.to_str())
    name = splits.gguf_name(tokenizer.backend.pre_tokenizer)
    if stored["model"]["type"] != "BPE" or name is None:
        kind = splits.split_name(tokenizer.backend.pre_tokenizer)
        raise CheckpointError("Q411.tokenizer_kind", model=stored["model"]["type"], kind=kind)
    tokens = [f"[PAD{row}]" for row in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, row in stored["model"]["vocab"].items():
        tokens[row], types[row] = token, NORMAL
    for added in stored["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    _warn_of_capitals(tokenizer, [row for row, kind in enumerate(types) if kind == NORMAL], name)
    merges = [one if isinstance(one, str) else " ".join(one) for one in stored["model"]["merges"]]
    return Vocabulary(name, tokens, types, merges)


def _warn_of_capitals(tokenizer: Tokenizer, rows: list[int], name: str) -> None:
    """Warn of tokens that llama.cpp's cut can never give."""
    if name != "llama4":
        return
    words = tokenizer.backend.decode_batch([[row] for row in rows])
    if lost := [word.strip() for word in words if _ACCENT_THEN_CAPITAL.search(word)]:
        logger.warning(say("log.capitals", count=len(lost), shown=", ".join(lost[:3])))


def tokenizer_of(vocabulary: Vocabulary, ids: dict[str, int]) -> Tokenizer:
    """Build the tokenizer that llama.cpp would.

    Args:
        vocabulary: as read.
        ids: `bos`, `eos` and `pad`, as far as the file has them.

    Raises:
        CheckpointError: Q410 for a cut that is not known here, Q431 for a broken vocabulary.
    """
    cut = splits.of_gguf_name(vocabulary.pre)
    if cut is None:
        raise CheckpointError("Q410.gguf_cut", given=vocabulary.pre)
    special = {CONTROL, USER_DEFINED}
    plain = {
        token: row
        for row, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind == NORMAL
    }
    broken = [merge for merge in vocabulary.merges if merge.count(" ") != 1]
    if broken:
        raise CheckpointError("Q431.merges", merge=broken[0])
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in vocabulary.merges)]
    rows = {
        token: row
        for row, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in special
    }
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab=plain | rows, merges=pairs))
    except Exception as error:  # the library raises no narrower kind
        raise CheckpointError("Q431.vocabulary", error=error) from None
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    for token, row in rows.items():
        control = vocabulary.types[row] == CONTROL
        added = AddedToken(token, special=control, normalized=False)
        backend.add_special_tokens([added]) if control else backend.add_tokens([added])
    names: dict[str, Any] = {
        which: vocabulary.tokens[row]
        for which, row in ids.items()
        if 0 <= row < len(vocabulary.tokens)
    }
    return Tokenizer(backend, Names(**{"bos": None, "eos": None, "pad": None, **names}))
