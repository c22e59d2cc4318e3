"""Ranks: a byte-level BPE encoded by tiktoken, several times as fast, where the ids must agree.

`tokenizers` merges the neighbours that come first in a list of pairs. tiktoken has no such list: it
merges the neighbours whose join is the token of the lowest id. Both give the same ids if

    ids rise      along the list, each pair's join has an id no lower than the one before
    tokens stand  each token's bytes, alone, are merged to that token and nothing else

Proof: say that, in some word, neighbours c and d join to the bytes of a token t. No earlier merge
crossed their ends, so the merges between these ends were those of t alone, in their order. Since t
alone ends as t, its last merge is that of c and d, which is in the list. Hence, at each step, the
neighbours that tiktoken can merge are those of the list, in the same order; of equals both take the
leftmost. A whole word that is a token is that token for tiktoken at once, and for the list because
it stands.

Words are cut by regular expressions, which both libraries must read alike. They do for Latin text
(`PLAIN`) and the patterns of splits.py, as tests show for every character. NFC does not change such
text, so it is not applied. Other texts and other tokenizers are not encoded here.
"""

from __future__ import annotations

import itertools
import json
import re
from array import array
from collections.abc import Sequence
from typing import Any

import tiktoken
import tokenizers
from tokenizers import models, normalizers

from quatrain.text import splits

PLAIN = re.compile("[\\0-\\u02ff\\u2002-\\u205e\\u20a0-\\u20bf]{0,65536}")
"""Latin letters, punctuation, currencies: each is its own NFC, whatever is beside it, in every
version of Unicode, which `unicodedata.is_normalized` does not promise. The length bounds how far
tiktoken's expressions backtrack over endless spaces."""
_BETWEEN = "\ufdd0"
"""Separates texts; it is not a character, and not in `PLAIN`."""

_EXTRAS = (
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback"),
)
"""Options of a BPE of `tokenizers` that must be off."""


class RankEncoder:
    """Encodes plain texts with the same ids as the tokenizer it was made from."""

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        """Take the id of each token's bytes, and the expression that cuts words."""
        self._between = max(ranks.values()) + 1
        special = {_BETWEEN: self._between}
        self._encoding = tiktoken.Encoding(
            "ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> RankEncoder | None:
        """Make one that gives the ids of `backend`, or None where that is not certain."""
        pattern = splits.pattern_of(backend.pre_tokenizer)
        added = backend.get_added_tokens_decoder()
        only_nfc = backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC)
        if pattern is None or not only_nfc or not all(token.special for token in added.values()):
            return None
        stored = json.loads(backend.to_str())["model"]
        vocabulary = {
            spelt: number for spelt, number in stored["vocab"].items() if number not in added
        }
        if not _is_plain_bpe(stored) or not _agree(vocabulary, stored["merges"]):
            return None
        bytes_of = {spelt: byte for byte, spelt in enumerate(splits.spelling())}
        ranks = {bytes(map(bytes_of.__getitem__, word)): n for word, n in vocabulary.items()}
        return cls(ranks, pattern)

    def encode(self, texts: Sequence[str]) -> list[array[int]]:
        """Encode texts that `PLAIN` matches, each as if it were alone."""
        if not texts:
            return []
        joined = self._encoding.encode_to_numpy(_BETWEEN.join(texts), allowed_special="all")
        ends = [*(joined == self._between).nonzero()[0].tolist(), len(joined)]
        begins = [0, *(end + 1 for end in ends)]
        ids = array("i", joined.astype("i").tobytes())
        return [ids[begin:end] for begin, end in zip(begins, ends, strict=False)]


def _is_plain_bpe(stored: dict[str, Any]) -> bool:
    """Say whether a stored model is a BPE that merges bytes, and does nothing else."""
    return stored["type"] == "BPE" and not any(stored.get(name) for name in _EXTRAS)


def _agree(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> bool:
    """Say whether ids rise along the merges, and each token stands."""
    if not vocabulary.keys() >= set(splits.spelling()):
        return False
    joins = [vocabulary.get(left + right, -1) for left, right in merges]
    if any(one > other for one, other in itertools.pairwise([0, *joins])):
        return False
    pairs = [(left, right) for left, right in merges]
    alone = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    encodings = alone.encode_batch_fast(list(vocabulary), add_special_tokens=False)
    return all(
        one.ids == [number] for one, number in zip(encodings, vocabulary.values(), strict=True)
    )
