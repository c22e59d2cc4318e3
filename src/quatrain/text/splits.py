"""How text is cut into words before byte-level BPE, and the names of these cuts.

A cut has a name because converters need it: llama.cpp rebuilds the pre-tokeniser from its name
alone, and knows only some names. Not for the tokenizers themselves (text/tokenizer.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from tokenizers import Regex, pre_tokenizers

SplitName = Literal["o200k", "o200k+elisions", "char", "other"]

# The published pattern of OpenAI's o200k_base encoding, which Llama 4 shares; llama.cpp names it
# `gpt-4o` and `llama4`. A change of one character changes ids, so the parts stay as they are.
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _SUFFIX,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _SUFFIX,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# An elided word keeps its apostrophe: "l'|eau", " qu'|il", "jusqu'|à"; o200k alone cuts "l|'eau".
ELISION = (
    r"[^\r\n\p{L}\p{N}]?(?i:lorsqu|puisqu|quoiqu|jusqu|presqu|quelqu|qu|[cdjlmnst])['’](?=\p{L})"
)
O200K_ELISIONS = f"{ELISION}|{O200K}"

# Every code point, newlines too: in this regex dialect a dot leaves them out.
EACH_CHARACTER = r"[\s\S]"


def byte_level(pattern: str) -> Any:
    """Cut by `pattern`, then write each byte as one printable character."""
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def each_character() -> Any:
    """Cut between all code points."""
    return pre_tokenizers.Split(Regex(EACH_CHARACTER), "isolated")


def spelling() -> list[str]:
    """Give each byte its character in a byte-level BPE (as in GPT-2): itself if printable."""
    printing = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def split_name(pre_tokenizer: Any) -> SplitName:
    """Name a pre-tokenizer by its content, whoever made it; `other` if it is not one of ours."""
    if pre_tokenizer is not None and _essence(pre_tokenizer) == _essence(each_character()):
        return "char"
    names: dict[str | None, SplitName] = {O200K: "o200k", O200K_ELISIONS: "o200k+elisions"}
    return names.get(pattern_of(pre_tokenizer), "other")


def pattern_of(pre_tokenizer: Any) -> str | None:
    """Give the expression of a cut made by `byte_level`; None if it is not one of ours."""
    known = (O200K, O200K_ELISIONS, LLAMA3, QWEN2)
    given = _essence(pre_tokenizer) if pre_tokenizer is not None else None
    return next((one for one in known if _essence(byte_level(one)) == given), None)


# What other models' tokenizers cut by, as llama.cpp names it. The patterns are the published ones
# of Llama 3 and Qwen 2; SmolLM's cuts digits one by one, then as GPT-2 does.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}"
QWEN2 = f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}"


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


_GGUF_NAMES: dict[str, Callable[[], Any]] = {
    "llama4": lambda: byte_level(O200K),
    "gpt-4o": lambda: byte_level(O200K),
    "llama-bpe": lambda: byte_level(LLAMA3),
    "qwen2": lambda: byte_level(QWEN2),
    "smollm": _smollm,
    "gpt-2": _gpt2,
}


def gguf_name(pre_tokenizer: Any) -> str | None:
    """Give llama.cpp's name of a cut; None if it has none."""
    if pre_tokenizer is None:
        return None
    given = _essence(pre_tokenizer)
    return next((name for name, make in _GGUF_NAMES.items() if _essence(make()) == given), None)


def of_gguf_name(name: str) -> Any:
    """Make the cut that llama.cpp's name means; None if it is not known here."""
    make = _GGUF_NAMES.get(name)
    return make() if make else None


def _essence(pre_tokenizer: Any) -> Any:
    """Describe a cut without the parts that change no id: offsets, and a sequence of one."""
    stored = json.loads(pre_tokenizer.__getstate__())
    parts = stored.get("pretokenizers", [stored])
    return [{k: v for k, v in part.items() if k != "trim_offsets"} for part in parts]
