"""Text from ids that come one at a time, without ever showing half a character.

    ids   "c"  "af"  0xC3  0xA9  " !"          (byte-level: "é" is two tokens)
    text  "c"  "af"  ""    "é"   " !"          and finish() gives ""

For whole sequences use `Tokenizer.decode`; the joined parts equal its result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

HALF = "\ufffd"
"""What a decoder writes for bytes that are not (yet) a character."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class StreamDecoder:
    """Holds the ids whose text is not final; made by `Tokenizer.stream()`."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        token: Callable[[int], str | None],
        skipped: frozenset[int],
    ) -> None:
        self._decode = decode
        self._token = token
        self._skipped = skipped
        self._before: list[int] = []  # ids of the last part that was given: some decoders look back
        self._waiting: list[int] = []

    def push(self, token_id: int) -> str:
        """Take one id; give the text that is now final, often none."""
        if token_id in self._skipped:
            return ""
        self._waiting.append(token_id)
        # Decoders that fall back to byte tokens judge a run of them as one: wait for its end.
        if BYTE_TOKEN.fullmatch(self._token(token_id) or ""):
            return ""
        text = self._text()
        if not text or text.endswith(HALF):
            return ""
        self._before, self._waiting = self._waiting, []
        return text

    def finish(self) -> str:
        """Give the rest, half a character as U+FFFD; then be ready for a new text."""
        text = self._text()
        self._before, self._waiting = [], []
        return text

    @property
    def waits(self) -> bool:
        """Whether there are ids whose text is not final."""
        return bool(self._waiting)

    def _text(self) -> str:
        return self._decode(self._before + self._waiting)[len(self._decode(self._before)) :]
