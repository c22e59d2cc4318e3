"""Findings: problems, doubts and facts about the data, each with a sentence and a remedy.

A finding that would stop training is a `stop`, and has the error code of that stop. Not for
reading data (survey.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quatrain.config import Config
from quatrain.data.encode import TooLong
from quatrain.data.language import TOO_SHORT, UNSURE, name_of
from quatrain.data.records import tolerated
from quatrain.data.similar import LEAK_WORDS, MOST_COMPARED, HeldOut, Repeats, disputed, repeated
from quatrain.data.survey import SHOWN, Survey
from quatrain.words import Sentence

Level = Literal["stop", "warning", "note"]

_ROUNDING = 64
_MANY_REPEATS, _MANY_NEAR = 0.01, 0.05
_FRENCH, _FEWEST_TOLD = 0.8, 20
_DOMINANT, _FEWEST_ANSWERS = 0.2, 20
_MUCH_MARKUP = 0.05
"""Of the records; questions about code hold some."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, about one side of the data."""

    level: Level
    what: str
    """A short name, for programs."""
    side: str
    count: int
    message: str
    remedy: str = ""
    places: tuple[str, ...] = ()
    code: str = ""
    """The code of the error that training would raise."""


def judge_side(
    survey: Survey,
    side: str,
    config: Config,
    too_long: Sequence[TooLong],
    languages: dict[str, int] | None,
) -> Iterator[Finding]:
    """Judge one side by itself.

    Args:
        survey: what was read.
        side: `train` or `eval`.
        config: its tolerances, its task and its row.
        too_long: conversations that do not fit in a row.
        languages: sampled records by language; None where none could be told.
    """
    judge = _Side(survey, side, config)
    yield from judge.unreadable()
    yield from judge.plain_text()
    yield from judge.cut(too_long)
    yield from judge.repeats()
    yield from judge.language(languages)
    yield from judge.text()
    yield from judge.answers()


def judge_leaks(survey: Survey, held_out: HeldOut, fails: bool) -> Iterator[Finding]:
    """Judge what training shares with the held-out side."""
    level: Level = "stop" if fails else "warning"
    remedy = Sentence.of("findings.remedy.leaks")
    if survey.asked.count:
        yield Finding(
            level, "leaked_questions", "train", survey.asked.count,
            Sentence.of("findings.leaked_questions", count=survey.asked.count),
            remedy, tuple(survey.asked.places),
        )  # fmt: skip
    if survey.shared.count:
        yield Finding(
            level, "leaked_text", "train", survey.shared.count,
            Sentence.of("findings.leaked_text", words=LEAK_WORDS, count=survey.shared.count),
            remedy, tuple(survey.shared.places),
        )  # fmt: skip
    if survey.leaked:
        yield Finding(
            "note", "leaked_records", "eval", len(survey.leaked),
            Sentence.of("findings.leaked_records", count=len(survey.leaked), total=held_out.count),
        )  # fmt: skip
    if not held_out.complete:
        yield Finding(
            "note", "leaks_incomplete", "eval", 0,
            Sentence.of("findings.leaks_incomplete", words=LEAK_WORDS),
        )  # fmt: skip


class _Side:
    def __init__(self, survey: Survey, side: str, config: Config) -> None:
        self.survey, self.side, self.config = survey, side, config
        self.total = len(survey)

    def _found(
        self, level: Level, what: str, count: int, message: str, remedy: str = "",
        places: Sequence[str] = (), code: str = "",
    ) -> Finding:  # fmt: skip
        return Finding(level, what, self.side, count, message, remedy, tuple(places), code)

    def unreadable(self) -> Iterator[Finding]:
        """Judge rejected records as training does."""
        survey, allowed = self.survey, self.config.data.max_bad_fraction
        if not survey.rejected and self.total:
            return
        seen = self.total + survey.rejected
        if not seen:
            remedy = Sentence.of("findings.remedy.no_records")
            yield self._found("stop", "no_records", 0, Sentence.of("findings.no_records"), remedy,
                              code="Q323")  # fmt: skip
            return
        share = survey.rejected / seen
        stops = not self.total or not tolerated(survey.rejected, seen, allowed)
        places = [Sentence.of("errors.at", location=r.location, reason=r.reason)
                  for r in survey.rejections[:SHOWN]]  # fmt: skip
        yield self._found(
            "stop" if stops else "warning", "rejected", survey.rejected,
            Sentence.of("findings.too_many_rejected" if stops else "findings.rejected",
                        count=survey.rejected, total=seen, share=share, allowed=allowed),
            Sentence.of("findings.remedy.rejected"), places, "Q323" if stops else "",
        )  # fmt: skip

    def plain_text(self) -> Iterator[Finding]:
        """Judge documents where answers are needed."""
        if self.config.train.task == "sft" and self.survey.documents:
            yield self._found(
                "stop", "plain_text", self.survey.documents,
                Sentence.of("findings.plain_text", count=self.survey.documents),
                Sentence.of("findings.remedy.plain_text"), code="Q327",
            )  # fmt: skip

    def cut(self, too_long: Sequence[TooLong]) -> Iterator[Finding]:
        """Judge conversations that are longer than a row."""
        if not too_long:
            return
        data, total = self.config.data, self.survey.conversations
        number, longest = len(too_long), max(item.tokens for item in too_long)
        enough = -(-longest // _ROUNDING) * _ROUNDING
        none_fits = number == total and self.config.train.task == "sft"
        stops = number > data.max_cut_fraction * total or none_fits
        yield self._found(
            "stop" if stops else "warning", "too_long", number,
            Sentence.of("findings.cut" if stops else "findings.set_aside", count=number,
                        total=total, block_size=self.config.row_length, longest=longest,
                        allowed=data.max_cut_fraction),
            Sentence.of("findings.remedy.cut", enough=enough),
            [Sentence.of("findings.tokens", location=item.location, count=item.tokens)
             for item in too_long[:SHOWN]],
            "Q324" if stops else "",
        )  # fmt: skip

    def repeats(self) -> Iterator[Finding]:
        """Judge records that say what an earlier one says."""
        survey, wholes = self.survey, self.survey.wholes
        same = repeated(wholes, SHOWN)
        yield from self._repeats("duplicates", same, _MANY_REPEATS, "findings.remedy.repeats")
        near = survey.sketches.near(wholes, SHOWN)
        yield from self._repeats("near_duplicates", near, _MANY_NEAR, "findings.remedy.repeats")
        if survey.conversations:
            several = disputed(survey.questions, survey.answers, SHOWN)
            yield from self._repeats("disputed", several, _MANY_REPEATS, "findings.remedy.disputed")
        if self.total > MOST_COMPARED:
            message = Sentence.of("findings.not_compared", count=MOST_COMPARED)
            yield self._found("note", "not_compared", self.total - MOST_COMPARED, message)

    def _repeats(self, what: str, found: Repeats, many: float, remedy: str) -> Iterator[Finding]:
        if found.count:
            share = found.count / self.total
            place = self.survey.places.__getitem__
            yield self._found(
                "warning" if share > many else "note", what, found.count,
                Sentence.of(f"findings.{what}", count=found.count, share=share),
                Sentence.of(remedy),
                [Sentence.of("findings.as", record=place(record), earlier=place(earlier))
                 for record, earlier in found.examples],
            )  # fmt: skip

    def language(self, languages: dict[str, int] | None) -> Iterator[Finding]:
        """Judge whether the texts are French."""
        if languages is None:
            yield self._found("note", "language_unknown", 0,
                              Sentence.of("findings.language_unknown"),
                              Sentence.of("findings.remedy.language_unknown"))  # fmt: skip
            return
        told = {name: n for name, n in languages.items() if name not in (TOO_SHORT, UNSURE)}
        number = sum(told.values())
        french = told.get("fr", 0) / number if number else 1.0
        if number >= _FEWEST_TOLD and french < _FRENCH:
            most = max(told, key=lambda name: told[name])
            yield self._found(
                "warning", "not_french", number - told.get("fr", 0),
                Sentence.of("findings.not_french", french=french, count=number, most=name_of(most)),
                Sentence.of("findings.remedy.not_french"),
            )  # fmt: skip

    def text(self) -> Iterator[Finding]:
        """Judge wrongly decoded text, text that looks like control tokens, and HTML."""
        survey = self.survey
        if survey.markup.count:
            names = tuple(name for name, _ in survey.markup.names.most_common(4))
            yield self._found(
                "warning" if survey.markup.count > _MUCH_MARKUP * self.total else "note", "markup",
                survey.markup.count,
                Sentence.of("findings.markup", count=survey.markup.count, names=names),
                Sentence.of("findings.remedy.markup"), survey.markup.places,
            )  # fmt: skip
        if survey.garbled.count:
            shown = next(iter(survey.garbled.names))
            yield self._found(
                "warning", "mojibake", survey.garbled.count,
                Sentence.of("findings.mojibake", count=survey.garbled.count, shown=shown),
                Sentence.of("findings.remedy.mojibake"), survey.garbled.places,
            )  # fmt: skip
        if survey.lost.count:
            yield self._found(
                "warning", "lost_characters", survey.lost.count,
                Sentence.of("findings.lost_characters", count=survey.lost.count),
                Sentence.of("findings.remedy.lost_characters"), survey.lost.places,
            )  # fmt: skip
        if survey.control.count:
            names = tuple(Sentence.of("findings.times", name=name, count=n)
                          for name, n in survey.control.names.most_common(4))  # fmt: skip
            yield self._found(
                "warning", "control_tokens", survey.control.count,
                Sentence.of("findings.control_tokens", count=survey.control.count, names=names),
                Sentence.of("findings.remedy.control_tokens"), survey.control.places,
            )  # fmt: skip

    def answers(self) -> Iterator[Finding]:
        """Judge answers: inside their contexts, and not all the same."""
        survey = self.survey
        if survey.outside.count:
            yield self._found(
                "warning", "answer_not_in_context", survey.outside.count,
                Sentence.of("findings.answer_not_in_context", count=survey.outside.count,
                            total=survey.with_context),
                Sentence.of("findings.remedy.answer_not_in_context"), survey.outside.places,
            )  # fmt: skip
        if survey.conversations < _FEWEST_ANSWERS:
            return
        answers = survey.answers
        if survey.unanswered:
            answers = answers[~np.isin(answers, np.array([*survey.unanswered], dtype=np.uint64))]
        if not len(answers):
            return
        marks, counts = np.unique(answers, return_counts=True)
        most = int(counts.argmax())
        share = float(counts[most]) / self.total
        if share > _DOMINANT:
            text = survey.answer_texts.get(int(marks[most]))
            shown = repr(text) if text is not None else Sentence.of("findings.long_answer")
            yield self._found(
                "warning", "dominant_answer", int(counts[most]),
                Sentence.of("findings.dominant_answer", share=share, shown=shown),
                Sentence.of("findings.remedy.dominant_answer"),
            )  # fmt: skip
