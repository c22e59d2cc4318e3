"""Text to ids and back: byte-level BPE, one token a character, and any Hugging Face tokenizer.

Content stays content: no string, however hostile, becomes a control token, and none is added. Only
the chat format places control tokens, by name (text/chat.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, compress
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from quatrain.errors import CheckpointError, ConfigError, DataError
from quatrain.text import splits
from quatrain.text.ranks import PLAIN, RankEncoder
from quatrain.text.stream import BYTE_TOKEN, HALF, StreamDecoder
from quatrain.text.tiktoken_file import rank_file, read_rank_file
from quatrain.text.tokenizer_files import read_tokenizer_files, write_tokenizer_files
from quatrain.words import Sentence

CONTROL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|header_start|>",
    "<|header_end|>",
    "<|eom|>",
    "<|eot|>",
    "<|finetune_right_pad|>",
    *(f"<|reserved_special_token_{number}|>" for number in range(9)),
)
"""Llama 4's names; with the reserved ones, a new use needs no new embedding row."""

UNKNOWN = "<|unk|>"
"""A character tokenizer's token for unknown characters."""

# The text of Llama 4's headers. Every message has it, corpora of plain text do not: without extra
# weight a short question would be half header. The weight is enough for corpora up to 100 MB.
_HEADER_WORDS = ("system", "user", "assistant", "\n\n")
_HEADER_WEIGHT = 10_000
_ENOUGH = 64
"""Characters per id after which the rank encoder is made: encoding them took longer than that."""
_NUM_BYTES = 256
_NUM_NAMED = 5  # how many unknown characters, or missing names, an error lists


@dataclass(frozen=True, slots=True)
class Names:
    """The fields of `tokenizer_config.json` that other programs look for."""

    bos: str | None = "<|begin_of_text|>"
    eos: str | None = "<|eot|>"
    pad: str | None = "<|finetune_right_pad|>"
    unk: str | None = None
    model_max_length: int | None = None
    """The longest text that the model accepts, in tokens; nothing is cut to it here."""
    unknown: Literal["unk", "error"] = "unk"
    """What an unknown character does: become `unk`, or raise."""


class Tokenizer:
    """A `tokenizers.Tokenizer` that never reads text as a control token."""

    def __init__(self, backend: tokenizers.Tokenizer, names: Names | None = None) -> None:
        self.backend = backend
        self.names = names if names is not None else Names()
        self._num_encoded = 0
        backend.no_truncation()
        backend.no_padding()
        # Neither the file nor a pickle of the backend keeps this flag, hence also __reduce__.
        backend.encode_special_tokens = True
        self._refuse_forgeable_names()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[tokenizers.Tokenizer, Names]]:
        return Tokenizer, (self.backend, self.names)

    def encode(self, text: str) -> list[int]:
        """Turn content into ids; nothing is added, and no id is a control token's."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts on all cores, each as `encode` would."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[array[int]]:
        """Encode as `encode_batch` does, with four bytes an id instead of some forty."""
        self._num_encoded += sum(map(len, texts))
        quick = self._ranks if self._num_encoded > _ENOUGH * self.vocab_size else None
        if quick is None:
            return self._by_backend(texts)
        plain = [PLAIN.fullmatch(text) is not None for text in texts]
        if all(plain):
            return quick.encode(texts)
        others = [text for text, is_plain in zip(texts, plain, strict=True) if not is_plain]
        ids = iter(quick.encode(list(compress(texts, plain)))), iter(self._by_backend(others))
        return [next(ids[not is_plain]) for is_plain in plain]

    def _by_backend(self, texts: Sequence[str]) -> list[array[int]]:
        try:
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise _unreadable(texts, error) from error
        all_ids = [array("i", encoding.ids) for encoding in encodings]
        if self.names.unknown == "error":
            self._refuse_unknown(texts, all_ids)
        return all_ids

    @cached_property
    def _ranks(self) -> RankEncoder | None:
        return RankEncoder.of(self.backend)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text without control tokens; broken UTF-8 becomes U+FFFD."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """Give the bytes of one id in a text: perhaps a part of a character; a name if control."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._control_ids:
            return bytes(token.encode())
        if isinstance(self.backend.decoder, decoders.ByteLevel) and self._spelt.keys() >= {*token}:
            return bytes(map(self._spelt.__getitem__, token))
        if BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(token[3:5])
        # Some decoders drop the space before the first word: the id is decoded after itself.
        return self.decode([token_id] * 2)[len(self.decode([token_id])) :].encode()

    @cached_property
    def _spelt(self) -> dict[str, int]:
        return {spelt: byte for byte, spelt in enumerate(splits.spelling())}

    def stream(self) -> StreamDecoder:
        """Start decoding ids that come one at a time."""
        return StreamDecoder(self.decode, self.backend.id_to_token, self.control_ids)

    def control_id(self, name: str) -> int:
        """Find a control token; an ordinary token of this name does not count."""
        return self.require([name])[name]

    def has_control(self, name: str) -> bool:
        """Say whether there is a control token of this name."""
        return name in self._control

    @property
    def control_names(self) -> tuple[str, ...]:
        """The names of all control tokens."""
        return tuple(self._control)

    def encode_joined(self, text: str) -> list[int]:
        """Encode a whole prompt as other programs do, with its control tokens as such.

        For comparisons only: content in such a text can forge control tokens.
        """
        self.backend.encode_special_tokens = False
        try:
            ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        finally:
            self.backend.encode_special_tokens = True
        return ids

    def require(self, names: Iterable[str], needed_by: str = "") -> dict[str, int]:
        """Find several control tokens.

        Raises:
            CheckpointError: some are absent; it names them all, and `needed_by`.
        """
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if name not in self._control]
        if missing:
            present = ", ".join(list(self._control)[:_NUM_NAMED])
            raise CheckpointError(
                "Q432.control_tokens",
                missing=", ".join(missing),
                wish=Sentence.of("errors.needed_by", name=needed_by) if needed_by else "",
                known=present or Sentence.of("errors.no_tokens"),
                number=len(self._control),
            )
        return {name: self._control[name] for name in wanted}

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids that text can never produce."""
        return self._control_ids

    @cached_property
    def vocab_size(self) -> int:
        """The number of rows that an embedding needs: one more than the highest id."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    @property
    def unknown_id(self) -> int | None:
        """The id for characters outside the alphabet; byte-level tokenizers have none."""
        name = getattr(self.backend.model, "unk_token", None)
        return None if name is None else self.backend.token_to_id(name)

    @cached_property
    def split(self) -> splits.SplitName:
        """The name of the cut before BPE; exporters refuse those that a format cannot represent."""
        return splits.split_name(self.backend.pre_tokenizer)

    def save(self, directory: Path, model_max_length: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers can open too."""
        names = self.names
        if model_max_length is not None:
            names = replace(names, model_max_length=model_max_length)
        write_tokenizer_files(Path(directory), self.backend, asdict(names))

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Open the tokenizer of a model directory, ours or anyone's; always as a plain Tokenizer.

        Args:
            directory: holds tokenizer.json, or else Meta's tokenizer.model; or is that file.

        Raises:
            CheckpointError: a file is missing, too large, or not what it should be.
        """
        path = rank_file(Path(directory))
        backend, names = read_rank_file(path) if path else read_tokenizer_files(Path(directory))
        return Tokenizer(backend, Names(**names))

    @cached_property
    def _control(self) -> dict[str, int]:
        """Control tokens by name. The unknown token is content: unknown characters produce it."""
        added = self.backend.get_added_tokens_decoder()
        unknown = self.unknown_id
        return {
            token.content: token_id
            for token_id, token in sorted(added.items())
            if token.special and token_id != unknown
        }

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._control.values())

    def _refuse_forgeable_names(self) -> None:
        """Check that no control token is a piece of the model, which plain text could produce."""
        names = list(self._control)
        encodings = self.backend.encode_batch_fast(names, add_special_tokens=False)
        for name, encoding in zip(names, encodings, strict=True):
            if not self._control_ids.isdisjoint(encoding.ids):
                raise CheckpointError("Q433.forged", name=name)

    def _refuse_unknown(self, texts: Sequence[str], all_ids: list[array[int]]) -> None:
        unknown_id = self.unknown_id
        for text, ids in zip(texts, all_ids, strict=True):
            if unknown_id in ids:
                normal = _normalise(text)
                strange = [c for c in normal if self.backend.model.token_to_id(c) is None]
                named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in _first_different(strange))
                raise DataError("Q331.alphabet", named=named, text=text[:60])


class SimpleCharTokenizer(Tokenizer):
    """One token a character (a code point after NFC); accents are kept.

    The alphabet is that of the corpus, sorted, with the newline and the letters of the role names.
    The unknown token and the control tokens follow, so padding is never a real character.
    """

    def __init__(
        self, corpus: str | Iterable[str], unknown: Literal["unk", "error"] = "unk"
    ) -> None:
        if unknown not in ("unk", "error"):
            raise ConfigError("Q231.unknown", unknown=unknown)
        alphabet = set(chain.from_iterable(_HEADER_WORDS))
        for text in _texts(corpus):
            alphabet.update(_normalise(text))
        backend = _character_backend(sorted(alphabet))
        backend.add_special_tokens(_added(CONTROL_TOKENS))
        super().__init__(backend, Names(unk=UNKNOWN, unknown=unknown))


def train_bpe(
    texts: str | Iterable[str],
    vocab_size: int,
    *,
    elisions: bool = False,
    control_tokens: Sequence[str] = CONTROL_TOKENS,
) -> Tokenizer:
    """Learn a byte-level BPE: no unknown character exists, and equal corpora give equal ids.

    Args:
        texts: the corpus; a small one gives fewer ids than asked, see the result's vocab_size.
        vocab_size: including the control tokens, which take the last ids.
        elisions: cut "l'|eau" rather than o200k's "l|'eau"; GGUF has no name for that cut.
        control_tokens: their names, if not those of Llama 4's chat format.
    """
    smallest = _NUM_BYTES + len(control_tokens)
    if vocab_size < smallest:
        raise ConfigError(
            "Q230.vocab_size",
            vocab_size=vocab_size,
            num_bytes=_NUM_BYTES,
            control=len(control_tokens),
            smallest=smallest,
        )
    backend = _byte_level_backend(splits.O200K_ELISIONS if elisions else splits.O200K)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(control_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = chain(_HEADER_WORDS * _HEADER_WEIGHT, map(_readable, _texts(texts)))
    backend.train_from_iterator(corpus, trainer)
    backend.add_special_tokens(_added(control_tokens))
    return Tokenizer(backend, _names_among(control_tokens))


def _byte_level_backend(pattern: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = splits.byte_level(pattern)
    backend.decoder = decoders.ByteLevel()
    return backend


def _character_backend(alphabet: list[str]) -> tokenizers.Tokenizer:
    vocabulary = {token: token_id for token_id, token in enumerate([*alphabet, UNKNOWN])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = splits.each_character()
    backend.decoder = decoders.Sequence([decoders.Replace(UNKNOWN, HALF), decoders.Fuse()])
    return backend


def _added(names: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _names_among(control_tokens: Sequence[str]) -> Names:
    """Keep Llama 4's usual names that the tokenizer has; the chat format has the rest."""
    usual = Names()
    bos, eos, pad = (
        name if name in control_tokens else None for name in (usual.bos, usual.eos, usual.pad)
    )
    return Names(bos=bos, eos=eos, pad=pad)


def _texts(corpus: str | Iterable[str]) -> Iterable[str]:
    """Treat a single string as one text, not as many of one letter each."""
    return [corpus] if isinstance(corpus, str) else corpus


def _normalise(text: str) -> str:
    normal: str = normalizers.NFC().normalize_str(_readable(text))
    return normal


def _readable(text: str) -> str:
    """Refuse half a surrogate pair, which JSON can write but UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "Q332.surrogate", text=text[max(0, error.start - 30) : error.start + 1]
        ) from error
    return text


def _unreadable(texts: Sequence[str], error: TypeError) -> Exception:
    """Name the text that the library refused; anything but text is our own mistake."""
    for text in texts:
        if isinstance(text, str):
            _readable(text)
    return error


def _first_different(characters: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(characters))[:_NUM_NAMED]
