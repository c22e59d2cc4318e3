"""Inspect: what a run would find in its data, before it runs, with `file:line` per finding.

    read       one pass over the held-out side, then one over the training side (survey.py)
    encode     the sample, with the tokenizer given or one trained on the sample; then, read again,
               just the records that could be longer than a row
    judge      findings: what would stop training, what is doubtful, what is good to know

Memory is bounded but for some 200 bytes a record. Not for showing all this (cli/inspecting.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quatrain.config import Config
from quatrain.data.encode import TooLong, blocks, characters
from quatrain.data.findings import Finding, judge_leaks, judge_side
from quatrain.data.language import languages
from quatrain.data.records import outcomes
from quatrain.data.similar import HeldOut
from quatrain.data.survey import Sample, Survey, said
from quatrain.errors import DataError
from quatrain.text.chat import ChatFormat, Encoded
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe

Side = Literal["train", "eval"]

_LANGUAGE_SAMPLE = 2000
_STEPS, _BINS = (1, 2, 5), 10


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long records are: of all, or of a sample."""

    median: int
    p95: int
    longest: int
    histogram: list[tuple[int, int]]
    """(upper bound, records of at most so much and above the bound before)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as the model reads it."""

    location: str
    tokens: int
    learnt: int
    spans: list[tuple[str, bool, bool]]
    """(text, whether the loss looks at it, whether it is a control token), in order."""


@dataclass(slots=True)
class Tokens:
    """What a tokenizer makes of one side."""

    sampled: int
    lengths: Lengths
    per_token: float
    """Characters a token, headers left out."""
    too_long: list[TooLong]
    fit: int
    """Conversations that fit in a row."""
    longest_answer: int = 0
    """Tokens of the longest learnt turn of the sample, its end with it."""


@dataclass(slots=True)
class Inspected:
    """One side: what it holds, and how long that is."""

    survey: Survey
    sources: list[dict[str, Any]]
    characters: Lengths | None
    languages: dict[str, int] | None
    """Sampled records by language; None where the library is not installed."""
    tokens: Tokens | None = None


@dataclass(slots=True)
class Inspection:
    """Everything that was found."""

    task: str
    block_size: int
    tokenizer: dict[str, Any]
    sides: dict[Side, Inspected]
    findings: list[Finding] = field(default_factory=list)
    samples: list[Shown] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        """Whether training would stop, or was asked to."""
        return any(finding.level == "stop" for finding in self.findings)

    @property
    def warns(self) -> bool:
        """Whether something is doubtful."""
        return any(finding.level == "warning" for finding in self.findings)


def inspect(
    config: Config,
    tokenizer: Tokenizer | None = None,
    chat: ChatFormat | None = None,
    fail_on_leak: bool = False,
) -> Inspection:
    """Look through data.train, and data.eval where it is given.

    Args:
        config: its data section says what is read; its task, what is learnt. A task that was not
            given follows from the data: plain text is for pretraining.
        tokenizer: the model's; None trains one on a sample.
        chat: the model's prompt format; None is Llama 4's.
        fail_on_leak: take text that both sides share for a reason to stop.

    Raises:
        DataError: Q320 to Q322, Q325 for a source that cannot be read at all.
    """
    chat = chat if chat is not None else ChatFormat()
    data, held_out, sides = config.data, HeldOut(), dict[Side, Inspected]()
    evaluated = None
    if data.eval:
        evaluated = Survey(collect=held_out).read(data.eval, data.replace(limit=None))
        held_out.close()
    trained = Survey(held_out if data.eval else None).read(data.train, data)
    sides["train"] = _inspected(trained)
    if evaluated is not None:
        sides["eval"] = _inspected(evaluated)
    config = _with_task(config, trained)
    about: dict[str, Any] = {"given": tokenizer is not None, "exact": True}
    if tokenizer is None and len(trained):
        about["exact"] = trained.sample.whole
        tokenizer = _quick_tokenizer(config, trained.sample)
    found = Inspection(config.train.task, config.row_length, about, sides)
    if tokenizer is not None:
        about["vocab_size"] = tokenizer.vocab_size
        for side, one in sides.items():
            one.tokens = _tokens(one.survey, side, config, tokenizer, chat)
        found.samples = _samples(trained.sample, config, tokenizer, chat)
    for side, one in sides.items():
        too_long = one.tokens.too_long if one.tokens else []
        found.findings += judge_side(one.survey, side, config, too_long, one.languages)
    if data.eval:
        found.findings += judge_leaks(trained, held_out, fail_on_leak)
    order = {"stop": 0, "warning": 1, "note": 2}
    found.findings.sort(key=lambda finding: order[finding.level])
    return found


def _inspected(survey: Survey) -> Inspected:
    texts = ("\n".join(_read(record)) for record in _first(survey.sample, _LANGUAGE_SAMPLE))
    sources = [
        {"name": source.name, "shape": source.shape, "columns": source.columns}
        for source in survey.sources
    ]
    sizes = survey.sizes
    return Inspected(survey, sources, measure(sizes) if len(sizes) else None, languages(texts))


def _read(record: Any) -> list[str]:
    return [text for text in said(record) if text.strip()]


def _first(sample: Sample, count: int) -> list[Any]:
    """Take about `count` records, spread evenly."""
    records = list(sample.records.values())
    return records[:: max(1, -(-len(records) // count))]


def _with_task(config: Config, survey: Survey) -> Config:
    """Take plain text for pretraining, unless the task was given."""
    given = "task" in config.train.model_fields_set
    if given or survey.conversations or not survey.documents:
        return config
    return config.replace(train=config.train.replace(task="pretrain"))


def _quick_tokenizer(config: Config, sample: Sample) -> Tokenizer:
    """Train what training would train, on the sample; with all records in it, the very same."""
    if config.tokenizer.kind == "char":
        return SimpleCharTokenizer(sample.texts())
    elisions = config.tokenizer.elisions
    return train_bpe(sample.texts(), config.model.vocab_size, elisions=elisions)


def measure(sizes: npt.NDArray[np.int64], limit: int | None = None) -> Lengths:
    """Sum lengths up; `limit` becomes a bound of the histogram where some are beyond it.

    2, 2, 3, 9  ->  median 2, p95 8, longest 9, histogram [(1, 0), (2, 2), (3, 1) ... (9, 1)]
    """
    p95, longest = int(np.percentile(sizes, 95)), int(sizes.max())
    bounds = _bounds(p95, longest, limit)
    counts, _ = np.histogram(sizes, bins=[-1, *(bound + 0.5 for bound in bounds)])
    return Lengths(
        median=int(np.median(sizes)),
        p95=p95,
        longest=longest,
        histogram=list(zip(bounds, counts.tolist(), strict=True)),
    )


def _bounds(p95: int, longest: int, limit: int | None) -> list[int]:
    """Cut 0 to the 95th percentile evenly, at round numbers; one more bound holds the rest."""
    least = max(1, p95) / _BINS
    step = next(s * 10**p for p in range(19) for s in _STEPS if s * 10**p >= least)
    bounds = {step * number for number in range(1, -(-max(1, p95) // step) + 1)}
    bounds |= {longest} if longest > max(bounds) else set()
    bounds |= {limit} if limit is not None and limit < longest else set()
    return sorted(bounds)


def _tokens(
    survey: Survey, side: Side, config: Config, tokenizer: Tokenizer, chat: ChatFormat
) -> Tokens | None:
    """Encode the sample, and every conversation that may be longer than a row."""
    records = list(survey.sample.records.values())
    if not records:
        return None
    lengths: list[int] = []
    num_characters = longest_answer = 0
    for block in blocks((r for r in records if isinstance(r, Conversation)), characters):
        for one in chat.encode_conversations(block, tokenizer):
            lengths.append(len(one.ids))
            turns = (len(list(run)) for learnt, run in groupby(one.mask) if learnt)
            longest_answer = max(longest_answer, *turns, 0)
    for document in (r for r in records if not isinstance(r, Conversation)):
        lengths.append(len(chat.encode_document(document.text, tokenizer).ids))
    for text in survey.sample.texts():
        num_characters += len(text)
    sizes = np.array(lengths, dtype=np.int64)
    too_long = list(_too_long(survey, side, config, tokenizer, chat))
    return Tokens(
        sampled=len(records),
        lengths=measure(sizes, config.row_length),
        per_token=num_characters / max(1, int(sizes.sum())),
        too_long=too_long,
        fit=survey.conversations - len(too_long),
        longest_answer=longest_answer,
    )


def _too_long(
    survey: Survey, side: Side, config: Config, tokenizer: Tokenizer, chat: ChatFormat
) -> Iterator[TooLong]:
    """Read again those records whose bytes do not show that they fit, and encode them."""
    data = config.data
    likely = survey.most_tokens + chat.longest_system() + 1 > config.row_length
    if not survey.conversations or not likely.any():
        return
    again: Sequence[str] = data.train if side == "train" else data.eval
    limited = data if side == "train" else data.replace(limit=None)
    index = -1

    def candidates() -> Iterator[tuple[int, Conversation]]:
        nonlocal index
        for _, outcome in outcomes(again, limited, []):
            if hasattr(outcome, "reason"):
                continue
            index += 1
            if index >= len(likely):
                raise DataError("Q310.grown")
            if likely[index] and isinstance(outcome, Conversation):
                yield index, outcome

    for block in blocks(candidates(), lambda pair: characters(pair[1])):
        encoded = chat.encode_conversations([one for _, one in block], tokenizer)
        for (number, conversation), pair in zip(block, encoded, strict=True):
            if len(pair.ids) > config.row_length:
                yield TooLong(number, conversation.source, len(pair.ids))


def _samples(sample: Sample, config: Config, tokenizer: Tokenizer, chat: ChatFormat) -> list[Shown]:
    """Show a short record, a middling one and a long one."""
    records = sorted(_first(sample, _LANGUAGE_SAMPLE), key=lambda r: sum(map(len, said(r))))
    chosen = {len(records) * share // 100: None for share in (10, 50, 90)} if records else {}
    return [_shown(records[index], config, tokenizer, chat) for index in chosen]


def _shown(record: Any, config: Config, tokenizer: Tokenizer, chat: ChatFormat) -> Shown:
    if isinstance(record, Conversation):
        encoded = chat.encode_conversation(record, tokenizer)
    else:
        encoded = chat.encode_document(record.text, tokenizer)
    if config.train.task == "pretrain":
        encoded = Encoded(encoded.ids, [False] + [True] * (len(encoded.ids) - 1))
    spans: list[tuple[list[int], bool, bool]] = []
    for token, learnt in zip(encoded.ids, encoded.mask, strict=True):
        control = token in tokenizer.control_ids
        if control or not spans or spans[-1][1:] != (learnt, False):
            spans.append(([], learnt, control))
        spans[-1][0].append(token)
    texts = [
        (
            str(tokenizer.backend.id_to_token(ids[0])) if control else tokenizer.decode(ids),
            one,
            control,
        )
        for ids, one, control in spans
    ]
    return Shown(record.source, len(encoded.ids), sum(encoded.mask), texts)
