"""Prepare: from the names in a Config to rows on disk, held-out questions and a report.

    DIRECTORY/train/  DIRECTORY/eval/   rows, and in eval the held-out questions
    DIRECTORY/tokenizer/                the tokenizer and chat format that encoded them
    DIRECTORY/rejected.jsonl            records that were not used, and why
    DIRECTORY/too_long.jsonl            conversations that were set aside
    DIRECTORY/report.json               what was counted; written last

Rows are made once: as long as the sources' bytes, the data section, the tokenizer and the chat
format are the same, they are used again. Not for what each step does (read, parse, encode, pack).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quatrain.config import DEFAULT_ROW, Config
from quatrain.data.encode import Counts, Encoder, TooLong, parts, refuse_cuts, refuse_no_targets
from quatrain.data.fingerprint import fingerprint
from quatrain.data.parse import Rejection
from quatrain.data.question import marks, taught
from quatrain.data.records import TOLD_EVERY, Records, holdout, load_records, write_rejected
from quatrain.data.row_length import SHORTEST, row_length
from quatrain.data.rows import Block, Rows, write_rows
from quatrain.data.spool import temporary_spool
from quatrain.errors import DataError
from quatrain.files import (
    damage,
    new_directory,
    read_manifest,
    remove_directory,
    remove_leftovers,
    write_json,
    write_text,
)
from quatrain.progress import working
from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Conversation, Message
from quatrain.text.tokenizer import SimpleCharTokenizer, Tokenizer, train_bpe
from quatrain.words import Sentence, recorded, say

__all__ = ["PreparedData", "Records", "Rejection", "holdout", "load_and_prepare_french_data"]
__all__ += ["load_records"]

HOLDOUT_SEED = 0
"""Not the run's seed, so that runs of different seeds are judged on the same questions."""
_QUESTIONS = "questions.jsonl"
_BINS = 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """What training, judging and answering need."""

    train: Rows
    eval: Rows | None
    questions: list[Conversation]
    """Held-out conversations, to be answered."""
    tokenizer: Tokenizer
    chat: ChatFormat
    report: dict[str, Any]
    """What was counted; see report.json."""


def load_and_prepare_french_data(
    config: Config,
    tokenizer: Tokenizer | None = None,
    chat: ChatFormat | None = None,
    directory: Path | None = None,
) -> tuple[Config, PreparedData]:
    """Read, check, split, encode and pack the data of a run, or find it done.

    Args:
        config: its data, tokenizer and train sections say what to read and how.
        tokenizer: the model's own; None loads config.tokenizer.path or trains one.
        chat: the model's own prompt format; None is Llama 4's.
        directory: where rows are kept; None is `data` in the run directory.

    Returns:
        The Config completed with the vocabulary's size and the control tokens' ids, and the data.
    """
    chat = chat if chat is not None else ChatFormat()
    directory = directory if directory is not None else config.run_dir / "data"
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    if tokenizer is None and config.tokenizer.path is not None:
        tokenizer = Tokenizer.load(Path(config.tokenizer.path))
    key = fingerprint(config, tokenizer, chat)
    prepared = _find(directory, key, config, chat)
    if prepared is None:
        prepared = _Preparation(config, chat, directory, key).run(tokenizer)
    rows = config.data.replace(block_size=prepared.train.block_size)
    return completed(config.replace(data=rows), prepared.tokenizer, chat), prepared


def completed(config: Config, tokenizer: Tokenizer, chat: ChatFormat) -> Config:
    """Fill in what a Config learns from its tokenizer; a loaded model keeps its vocabulary."""
    changes: dict[str, Any] = {
        "bos_token_id": tokenizer.control_id(chat.begin) if chat.begin else None,
        "eos_token_ids": tuple(sorted(chat.stop_ids(tokenizer))),
        "pad_token_id": chat.pad_id(tokenizer),
    }
    if config.model.init is None:
        changes["vocab_size"] = tokenizer.vocab_size
    return config.replace(model=config.model.replace(**changes))


class _Preparation:
    """One preparation from the sources on."""

    def __init__(self, config: Config, chat: ChatFormat, directory: Path, key: str) -> None:
        self.config, self.chat, self.directory, self.key = config, chat, directory, key
        self.too_long: list[dict[str, Any]] = []

    def run(self, tokenizer: Tokenizer | None) -> PreparedData:
        """Prepare, while records wait in files rather than in memory."""
        with ExitStack() as files:
            train, judged = self._records(files)
            return self._prepared(train, judged, tokenizer)

    def _prepared(
        self, train: Records, judged: Records | None, tokenizer: Tokenizer | None
    ) -> PreparedData:
        if tokenizer is None:
            tokenizer = train_tokenizer(self.config, train)
        self._settle_row_length(train, tokenizer)
        with new_directory(self.directory / "tokenizer", {"key": self.key}) as temporary:
            tokenizer.save(temporary)
            self.chat.save(temporary)
        report = {**_describe(train, judged, self.key), **_tolerances(self.config)}
        train_rows, counts = self._write("train", train, tokenizer, {})
        report["duplicates"], report["train"] = counts.duplicates, _counted(counts, train_rows)
        eval_rows, questions = None, list[Conversation]()
        if judged is not None:
            texts: dict[str, str] = {}
            eval_rows, counts = self._write("eval", judged, tokenizer, texts)
            report["eval"] = _counted(counts, eval_rows)
            questions = _questions(texts[_QUESTIONS])
        elif (self.directory / "eval").exists():
            remove_directory(self.directory / "eval")
        write_json(self.directory / "report.json", report)
        _log(report)
        return PreparedData(train_rows, eval_rows, questions, tokenizer, self.chat, report)

    def _settle_row_length(self, train: Records, tokenizer: Tokenizer) -> None:
        """Find out how long rows must be, where the recipe leaves it open."""
        config, context = self.config, self.config.model.max_position_embeddings
        if config.data.block_size is None:
            length = min(DEFAULT_ROW, context)
            if config.train.task == "sft":
                shortest = SHORTEST if config.model.init is not None else length
                length = row_length(train.conversations, tokenizer, self.chat, shortest, context)
            self.config = config.replace(data=config.data.replace(block_size=length))

    def _records(self, files: ExitStack) -> tuple[Records, Records | None]:
        """Read all sources, and split training from judging."""

        def spooled() -> Records:
            one, other = (files.enter_context(temporary_spool(self.directory)) for _ in range(2))
            return Records(one, other)

        data = self.config.data
        train = load_records(data.train, data, self.directory, spooled())
        if data.eval:
            judged = load_records(data.eval, data.replace(limit=None), records=spooled())
            write_rejected(self.directory / "rejected.jsonl", [*train.rejected, *judged.rejected])
        elif data.holdout:
            train, judged = holdout(train, data.holdout, HOLDOUT_SEED)
        else:
            judged = None
        self._refuse_documents(train)
        return train, judged

    def _refuse_documents(self, records: Records) -> None:
        if self.config.train.task == "sft" and records.documents:
            first = records.documents[0].source
            raise DataError("Q327.plain_text", number=len(records.documents), first=first)

    def _write(
        self, name: str, records: Records, tokenizer: Tokenizer, texts: dict[str, str]
    ) -> tuple[Rows, Counts]:
        """Encode and pack records into `name`; say what was counted."""
        data, task, size = self.config.data, self.config.train.task, self.config.row_length
        encoder = Encoder(tokenizer, self.chat, size, task)

        def encoded() -> Iterator[Block]:
            yield from _told(encoder, records)
            self._name_too_long(name, encoder.counts.too_long)
            refuse_cuts(encoder.counts, size, data.max_cut_fraction)
            refuse_no_targets(encoder.counts, size)
            if name == "eval":
                aside = {item.index for item in encoder.counts.too_long}
                kept = (c for i, c in enumerate(records.conversations) if i not in aside)
                texts[_QUESTIONS] = "".join(_line(asdict(item)) for item in kept)

        rows = write_rows(
            self.directory / name,
            encoded(),
            block_size=size,
            packing=data.packing,
            pad_id=self.chat.pad_id(tokenizer),
            manifest={"key": self.key},
            texts=texts,
        )
        return rows, encoder.counts

    def _name_too_long(self, name: str, too_long: list[TooLong]) -> None:
        self.too_long += [
            {"split": name, "location": item.location, "tokens": item.tokens} for item in too_long
        ]
        write_text(self.directory / "too_long.jsonl", "".join(map(_line, self.too_long)))


def _told(encoder: Encoder, records: Records) -> Iterator[Block]:
    """Encode records, and say how far it is now and then."""
    said, total = 0, len(records)
    with working("progress.encoding", total=total) as work:
        for block in encoder.stream(records):
            yield block
            done = encoder.counts.conversations + encoder.counts.documents
            work.reach(done)
            if done - said >= TOLD_EVERY:
                logger.info(say("log.encoded", count=done, total=total))
                said = done


def train_tokenizer(config: Config, records: Records) -> Tokenizer:
    """Learn the vocabulary from the training records, and from them alone."""
    if config.tokenizer.kind == "char":
        return SimpleCharTokenizer(_texts(records))
    size, elisions = config.model.vocab_size, config.tokenizer.elisions
    return train_bpe(_texts(records), size, elisions=elisions)


def _texts(records: Records) -> Iterator[str]:
    for conversation in records.conversations:
        for message in conversation.messages:
            yield message.content
    for document in records.documents:
        yield from parts(document.text)


def _tolerances(config: Config) -> dict[str, float]:
    names = ("max_bad_fraction", "max_cut_fraction")
    return {name: getattr(config.data, name) for name in names}


def _find(directory: Path, key: str, config: Config, chat: ChatFormat) -> PreparedData | None:
    """Open what an earlier preparation with the same key left, if every byte is as written."""
    try:
        report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(report, dict) or report.get("key") != key:
        return None
    if any(tolerated < report[name] for name, tolerated in _tolerances(config).items()):
        return None  # what was within a wider tolerance may be refused now
    names = ["tokenizer", "train"] + (["eval"] if report["eval"] is not None else [])
    for name in names:
        what = damage(directory / name)
        if what is None and (read_manifest(directory / name) or {}).get("key") != key:
            what = Sentence.of("log.another")
        if what is not None:
            logger.warning(say("log.made_anew", directory=directory / name, what=what))
            return None
    logger.info(say("log.used_again", directory=directory))
    has_eval = report["eval"] is not None
    text = (directory / "eval" / _QUESTIONS).read_text(encoding="utf-8") if has_eval else ""
    return PreparedData(
        Rows(directory / "train"),
        Rows(directory / "eval") if has_eval else None,
        _questions(text),
        Tokenizer.load(directory / "tokenizer"),
        chat,
        report,
    )


def _questions(text: str) -> list[Conversation]:
    """Read conversations back, one a line."""
    questions = []
    for line in text.split("\n")[:-1]:
        value = json.loads(line)
        messages = tuple(Message(**message) for message in value.pop("messages"))
        answers = tuple(value.pop("answers"))
        questions.append(Conversation(messages=messages, answers=answers, **value))
    return questions


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _describe(train: Records, judged: Records | None, key: str) -> dict[str, Any]:
    """Count records, and questions that are on both sides; what encoding counts comes later."""
    learnt = {mark for item in train for mark in taught(item)} if judged else set()
    leaks = sum(marks(item).asked in learnt for item in judged) if judged else 0
    both = [train, *([judged] if judged else [])]
    return {
        "key": key,
        "records": sum(len(part) for part in both) + sum(len(part.rejected) for part in both),
        "rejected": sum(len(part.rejected) for part in both),
        "duplicates": None,
        "leaks": leaks,
        "notes": [{"text": note, **recorded(note)} for part in both for note in part.notes],
        "train": None,
        "eval": None,
    }


def _counted(counts: Counts, rows: Rows) -> dict[str, Any]:
    return {
        "conversations": counts.conversations,
        "documents": counts.documents,
        "pieces": counts.pieces,
        "tokens": counts.tokens,
        "answer_tokens": counts.targets,
        "rows": len(rows),
        "positions_used": round(counts.tokens / (len(rows) * rows.block_size), 6),
        "longest": counts.longest,
        "lengths": _histogram(rows.lengths),
        "too_long": len(counts.too_long),
        "control_like": counts.control_like,
        "unanswered": counts.unanswered,
        "several_turns": counts.several_turns,
    }


def _histogram(lengths: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Count records by length: counts[i] of them have i * bin + 1 to (i + 1) * bin tokens."""
    size = -(-int(lengths.max(initial=1)) // _BINS)
    return {"bin": size, "counts": np.bincount((lengths - 1) // size).tolist()}


def _log(report: dict[str, Any]) -> None:
    train = report["train"]
    logger.info(
        say(
            "log.records",
            count=report["records"],
            rejected=report["rejected"],
            too_long=train["too_long"],
            rows=train["rows"],
            used=100 * train["positions_used"],
        )
    )
    if report["leaks"]:
        logger.warning(say("log.leaks", count=report["leaks"]))
