"""Measure a model: the loss of held-out answers, and generated answers scored against the gold.

Evaluation changes neither weights nor mode, and uses no global random generator.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from quatrain.config import GenerateConfig
from quatrain.errors import NonFiniteError
from quatrain.evaluate.abstention import Said, best_threshold, kinds, risk_coverage
from quatrain.evaluate.loss import judge
from quatrain.evaluate.score import Score, marks, mean_score
from quatrain.generate.answer import Answer, Answerer
from quatrain.model.llama import LlamaModel
from quatrain.progress import working
from quatrain.text.abstention import Abstention
from quatrain.text.chat import Encoded
from quatrain.text.conversation import Conversation
from quatrain.words import say

logger = logging.getLogger(__name__)

_LOSS_CHUNK = 1024
_NAMED = 5
_TOKENS_AT_ONCE = 4096


class HasRows(Protocol):
    """What the loss needs of a batch: arrays [B, T] and document lengths."""

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
    """Encoded conversations, one a row, padded on the right."""

    ids: Any
    mask: Any
    segments: list[list[int]]


@dataclass(frozen=True)
class Graded:
    """A question, the answer given, and how good it is."""

    conversation: Conversation
    answer: str
    finish_reason: str
    """stop, length, or too_long if the question leaves no room for an answer; it then scores 0."""
    exact_match: float
    f1: float
    said: Said | None = None
    """The answer before any threshold; None where nothing can abstain."""
    abstained: bool = False
    """Whether the final answer is that there is none."""

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


def held_out_loss(
    model: LlamaModel, batches: Iterable[HasRows], total: int | None = None
) -> tuple[float, int]:
    """Average the loss over all target tokens; return it, in nats, and their count.

    Without targets, loss and count are 0. `total` is the number of batches.

    Raises:
        NonFiniteError: Q502.
    """
    device = model.device
    loss_sum, count = 0.0, 0
    with evaluating(model), working("progress.loss", total=total) as work:
        for batch in batches:
            ids = torch.from_numpy(np.asarray(batch.ids)).to(device)
            judged = judge(model, ids, batch.mask, batch.segments, _LOSS_CHUNK)
            loss_sum += float(judged.loss_sum)
            count += judged.num_targets
            work.advance()
    if not math.isfinite(loss_sum):
        raise NonFiniteError("Q502.held_out", total=loss_sum, count=count)
    return loss_sum / max(1, count), count


def padded_batches(encoded: Sequence[Encoded]) -> Iterator[PaddedBatch]:
    """Group encodings of similar length into batches of some 4096 tokens."""
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
    """Answer the last turn of each conversation and score it against its gold answers.

    A question that fills the model's context is not asked: it scores 0, and a warning names it.
    If some question has no answer, or the model has a threshold, all questions are answered first,
    and the threshold is applied afterwards.
    """
    context = answerer.model.config.max_position_embeddings
    sizes = [answerer.prompt_size(question.messages[:-1]) for question in questions]
    asked = [q for q, size in zip(questions, sizes, strict=True) if size < context]
    _warn_of_long("log.long_questions", questions, sizes, context - 1)
    abstention = _abstention_for(answerer, questions)
    prompts = [question.messages[:-1] for question in asked]
    with evaluating(answerer.model):
        answers = iter(answerer.replies(prompts, options, abstaining=False))
        scores: Iterator[float | None] = iter([None] * len(asked))
        if abstention is not None:
            scores = iter(answerer.abstention_scores(prompts, abstention.no_answer))
    return [
        _graded(question, next(answers), next(scores), abstention) if size < context
        else _not_asked(question, abstention)
        for question, size in zip(questions, sizes, strict=True)
    ]  # fmt: skip


def _abstention_for(answerer: Answerer, questions: Sequence[Conversation]) -> Abstention | None:
    """Choose the sentence for abstaining: the model's, or the questions'; None if unneeded."""
    own = answerer.abstention
    unanswered = next((one for one in questions if not one.has_answer), None)
    if own is not None and (unanswered is not None or own.threshold is not None):
        return own
    return Abstention(no_answer=unanswered.messages[-1].content) if unanswered else None


def _graded(
    question: Conversation, answer: Answer, score: float | None, abstention: Abstention | None
) -> Graded:
    exact, overlap = marks(answer, question.answers, abstention)
    if abstention is None:
        return Graded(question, str(answer), answer.finish_reason, exact, overlap)
    text, abstained = str(answer), abstention.is_said_by(answer)
    said = Said(score, overlap, question.has_answer, abstained)
    if abstention.applies(score) and not abstained:
        text, abstained = abstention.no_answer, True
        exact, overlap = marks(text, question.answers, abstention)
    return Graded(question, text, answer.finish_reason, exact, overlap, said, abstained)


def _not_asked(question: Conversation, abstention: Abstention | None) -> Graded:
    said = Said(None, 0.0, question.has_answer, False) if abstention else None
    return Graded(question, "", "too_long", 0.0, 0.0, said)


def of_abstention(graded: Sequence[Graded]) -> dict[str, Any]:
    """Summarise how a model abstains; empty if every question has an answer and it never did.

    Returns:
        `has_answer` and `no_answer` with their scores, `abstained`, and if there are both kinds,
        `best_threshold`, `best_f1` and `risk_coverage`.
    """
    said = [one.said for one in graded if one.said is not None]
    if not said:
        return {}
    answered = [one.conversation.has_answer for one in graded]
    exact, overlaps = [one.exact_match for one in graded], [one.f1 for one in graded]
    found: dict[str, Any] = {
        **kinds(answered, exact, overlaps),
        "abstained": sum(one.abstained for one in graded),
    }
    if True in answered and False in answered:
        found["best_threshold"], found["best_f1"] = best_threshold(said)
        found["risk_coverage"] = risk_coverage(said)
    return found


def _warn_of_long(
    key: str, conversations: Sequence[Conversation], sizes: Sequence[int], limit: int
) -> None:
    """Count the conversations of more than `limit` tokens, and name the first of them."""
    long = [
        say("log.size", place=conversation.source, size=size)
        for conversation, size in zip(conversations, sizes, strict=True)
        if size > limit
    ]
    if long:
        shown = ", ".join(long[:_NAMED]) + (" ..." if len(long) > _NAMED else "")
        logger.warning(
            say(key, count=len(long), total=len(conversations), limit=limit, shown=shown)
        )


def examine(
    answerer: Answerer,
    conversations: Sequence[Conversation],
    options: GenerateConfig,
    by: str | None = None,
) -> dict[str, Any]:
    """Answer and score everything: count, loss, exact_match and f1, and `by` a field's values.

    The loss is that of the gold answers, in nats a token; scores are percentages. `too_long` of the
    `count` questions fill the model's context: they score 0, and the loss leaves them out. If some
    question has no answer, there is `abstention` too: see `of_abstention`.
    """
    context = answerer.model.config.max_position_embeddings
    encoded = answerer.chat.encode_conversations(conversations, answerer.tokenizer)
    sizes = [len(one.ids) for one in encoded]
    _warn_of_long("log.long_answers", conversations, sizes, context)
    fitting = [one for one in encoded if len(one.ids) <= context]
    loss, _ = held_out_loss(answerer.model, padded_batches(fitting))
    graded = grade(answerer, conversations, options)
    total = total_score(graded)
    return {
        "count": total.count,
        "too_long": sum(one.finish_reason == "too_long" for one in graded),
        "loss": loss,
        "exact_match": total.exact_match,
        "f1": total.f1,
        **({"abstention": abstained} if (abstained := of_abstention(graded)) else {}),
        "by": {key: asdict(score) for key, score in scores_by(graded, by).items()} if by else {},
    }


def total_score(graded: Sequence[Graded]) -> Score:
    """Average graded questions."""
    return mean_score([g.exact_match for g in graded], [g.f1 for g in graded])


def scores_by(graded: Sequence[Graded], field: str) -> dict[str, Score]:
    """Average graded questions for each value of one of their fields (family, theme ...)."""
    groups: dict[str, list[Graded]] = defaultdict(list)
    for one in graded:
        groups[str(one.conversation.fields.get(field, ""))].append(one)
    return {key: total_score(group) for key, group in groups.items()}
