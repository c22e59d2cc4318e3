"""Aside: count what a file holds but fine-tuning does not learn, and report it once per file.

Not for rejected records (Rejection in parse.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from quatrain.words import Sentence

CONTROL_LIKE = re.compile(r"<\|[^|\s]{1,64}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
"""Matches text that looks like a control token of some model. Inside content, it is encoded as
ordinary text."""
_MOST_NAMES, _MOST_SHOWN, _MOST_MARKS = 1000, 12, 4


@dataclass(slots=True)
class Aside:
    """Counts over the good records of one source."""

    columns: Counter[str] = field(default_factory=Counter)
    """Records that have a column which is kept but not learnt."""
    keys: Counter[str] = field(default_factory=Counter)
    """Turns that have a key which is ignored."""
    context: int = 0
    """Answers that are marked as context only."""
    left_out: int = 0
    """Turns after the last answer that is learnt."""
    asking: int = 0
    """User or system turns that are marked to be learnt."""
    typed: int = 0
    """Questions and answers that are numbers or booleans."""
    unanswered: int = 0
    """Questions without an answer."""
    templated: int = 0
    """Records with text that looks like control tokens."""
    marks: Counter[str] = field(default_factory=Counter)
    """Examples of such text."""

    def see(self, columns: Iterable[str] = (), keys: Iterable[str] = ()) -> None:
        """Add the counts of one record."""
        for counter, names in ((self.columns, columns), (self.keys, keys)):
            counter.update(n for n in names if n in counter or len(counter) < _MOST_NAMES)

    def look(self, texts: Iterable[str]) -> None:
        """Look for control tokens in the text of one record."""
        for text in texts:
            if ("<" in text or "[" in text) and (found := CONTROL_LIKE.findall(text)):
                self.templated += 1
                self.marks.update(m for m in sorted(set(found)) if len(self.marks) < _MOST_NAMES)
                return

    def notes(self, source: str) -> Iterator[Sentence]:
        """Report the counts, one sentence per kind."""
        if self.columns:
            yield Sentence.of("notes.columns", source=source, names=_listed(self.columns))
        if self.keys:
            yield Sentence.of("notes.turn_keys", source=source, names=_listed(self.keys))
        for what in ("context", "left_out", "asking", "typed", "unanswered"):
            if count := getattr(self, what):
                yield Sentence.of(f"notes.{what}", source=source, count=count)
        if self.templated:
            marks = tuple(mark for mark, _ in self.marks.most_common(_MOST_MARKS))
            yield Sentence.of("notes.templated", source=source, count=self.templated, marks=marks)


def _listed(counter: Counter[str]) -> tuple[Sentence, ...]:
    shown = [
        Sentence.of("notes.times", name=name, count=count)
        for name, count in counter.most_common(_MOST_SHOWN)
    ]
    more = len(counter) - len(shown)
    return (*shown, *([Sentence.of("notes.more", count=more)] if more else []))
