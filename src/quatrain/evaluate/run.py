"""Measure a model: the loss of held-out answers, and generated answers scored against the gold.

Evaluation changes no weight, no mode and draws nothing from a global generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from quatrain.config import GenerateConfig
from quatrain.evaluate.loss import judge
from quatrain.evaluate.score import Score, exact_match, f1, score_by, summarise
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.text.chat import Encoded
from quatrain.text.conversation import Conversation

_LOSS_CHUNK = 1024
_TOKENS_AT_ONCE = 4096


class HasRows(Protocol):
    """What the loss reads of a batch: arrays [B, T] and the documents' lengths."""

    @property
    def ids(self) -> Any:
        """Token ids, int64."""

    @property
    def mask(self) -> Any:
        """True on target tokens."""

    @property
    def segments(self) -> list[list[int]]:
        """Each row's document lengths."""


@dataclass(frozen=True)
class PaddedBatch:
    """Encoded conversations side by side, one a row, padded on the right."""

    ids: Any
    mask: Any
    segments: list[list[int]]


@dataclass(frozen=True)
class Graded:
    """A question, the answer given, and how good it is."""

    conversation: Conversation
    answer: str
    finish_reason: str
    exact_match: float
    f1: float

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.conversation.messages[-2].content


@contextmanager
def evaluating(model: LlamaModel) -> Iterator[None]:
    """Run a body without gradients and in evaluation mode; restore the mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def held_out_loss(model: LlamaModel, batches: Iterable[HasRows]) -> tuple[float, int]:
    """Average the loss over all target tokens; return it, in nats, and their count.

    With no target the loss is 0 and so is the count.
    """
    device = model.lm_head.weight.device
    total, count = 0.0, 0
    with evaluating(model):
        for batch in batches:
            ids = torch.from_numpy(np.asarray(batch.ids)).to(device)
            judged = judge(model, ids, batch.mask, batch.segments, _LOSS_CHUNK)
            total += float(judged.loss_sum)
            count += judged.num_targets
    return total / max(1, count), count


def padded_batches(encoded: Sequence[Encoded]) -> Iterator[PaddedBatch]:
    """Group encodings of like length into batches of some 4096 tokens."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    block: list[Encoded] = []
    for index in order:
        if block and (len(block) + 1) * len(encoded[index].ids) > _TOKENS_AT_ONCE:
            yield _pad(block)
            block = []
        block.append(encoded[index])
    if block:
        yield _pad(block)


def _pad(block: Sequence[Encoded]) -> PaddedBatch:
    shape = (len(block), max(len(one.ids) for one in block))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for row, one in enumerate(block):
        ids[row, : len(one.ids)], mask[row, : len(one.ids)] = one.ids, one.mask
    return PaddedBatch(ids, mask, [[len(one.ids)] for one in block])


def grade(
    answerer: Answerer, questions: Sequence[Conversation], options: GenerateConfig
) -> list[Graded]:
    """Answer the last turn of each conversation and score it against its gold answers."""
    with evaluating(answerer.model):
        answers = answerer.replies([q.messages[:-1] for q in questions], options)
    return [
        Graded(
            question, str(answer), answer.finish_reason,
            exact_match(answer, question.answers), f1(answer, question.answers),
        )
        for question, answer in zip(questions, answers, strict=True)
    ]  # fmt: skip


def examine(
    answerer: Answerer,
    conversations: Sequence[Conversation],
    options: GenerateConfig,
    by: str | None = None,
) -> dict[str, Any]:
    """Answer and score everything: count, loss, exact_match and f1, and `by` a field's values.

    The loss is that of the gold answers, in nats a token; scores are percentages.
    """
    encoded = answerer.chat.encode_conversations(conversations, answerer.tokenizer)
    loss, _ = held_out_loss(answerer.model, padded_batches(encoded))
    graded = grade(answerer, conversations, options)
    total = total_score(graded)
    return {
        "count": total.count,
        "loss": loss,
        "exact_match": total.exact_match,
        "f1": total.f1,
        "by": {key: asdict(score) for key, score in scores_by(graded, by).items()} if by else {},
    }


def total_score(graded: Sequence[Graded]) -> Score:
    """Sum up graded questions."""
    return summarise((g.answer, g.conversation.answers) for g in graded)


def scores_by(graded: Sequence[Graded], field: str) -> dict[str, Score]:
    """Sum up graded questions apart for each value of one of their fields (family, theme ...)."""
    return score_by(
        (str(g.conversation.fields.get(field, "")), g.answer, g.conversation.answers)
        for g in graded
    )
