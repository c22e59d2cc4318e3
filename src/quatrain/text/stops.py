"""Stop strings: an answer's text up to the first of them, without ever showing a part of one.

    stop   "fin."
    piece  "Il a f"  "er, f"   "in"  "."
    given  "Il a "   "fer, "   ""    ""     and nothing more: the text is "Il a fer, "

The first is the one that begins first, however the text is divided into pieces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from quatrain.text.stream import StreamDecoder


class Cutter:
    """Takes text in pieces and gives back what certainly comes before every stop string."""

    found = False
    """Whether a stop string was found; then nothing more is given."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for these strings, and for the same ones composed as tokenizers compose text."""
        self._stops = tuple(
            dict.fromkeys([*stops, *(unicodedata.normalize("NFC", stop) for stop in stops)])
        )
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, piece: str) -> str:
        """Take a piece; give what is no part of a stop string, whatever follows."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text, self._held = self._held + piece, ""
        for place in range(len(text)):
            if text.startswith(self._stops, place):
                self.found = True
                return text[:place]
            if len(text) - place < self._longest and self._may_begin(text[place:]):
                self._held = text[place:]
                return text[:place]
        return text

    def finish(self) -> str:
        """Give what was held back, up to a stop string that another one might have preceded."""
        text, self._held = self._held, ""
        places = [text.index(stop) for stop in self._stops if stop in text]
        if places:
            self.found = True
        return text[: min(places, default=None)]

    @property
    def holds(self) -> bool:
        """Whether some text is held back."""
        return self._held != ""

    def _may_begin(self, rest: str) -> bool:
        return any(stop.startswith(rest) for stop in self._stops)


class Reader:
    """Turns the ids of an answer, one at a time, into its text up to the first stop string."""

    def __init__(self, decoder: StreamDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._cutter = Cutter(stops)

    def push(self, token_id: int) -> str:
        """Take one id; give the text that is now final, often none."""
        return self._cutter.push(self._decoder.push(token_id))

    def finish(self) -> str:
        """Give the rest."""
        return self._cutter.push(self._decoder.finish()) + self._cutter.finish()

    @property
    def found(self) -> bool:
        """Whether a stop string was found."""
        return self._cutter.found

    @property
    def holds(self) -> bool:
        """Whether some text of the ids is held back."""
        return self._cutter.holds or self._decoder.waits


def before_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Cut a whole text at the first stop string, and say whether there was one."""
    cutter = Cutter(stops)
    return cutter.push(text) + cutter.finish(), cutter.found
