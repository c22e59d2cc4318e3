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
from quatrain.evaluate.chance import Interval, intervals
from quatrain.evaluate.graded import Graded
from quatrain.evaluate.kept import Kept
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
_BATCHES_A_SHARE = 2
"""Between two times that answers are kept."""


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
    model: LlamaModel,
    batches: Iterable[HasRows],
    total: int | None = None,
    chunk_size: int = _LOSS_CHUNK,
) -> tuple[float, int]:
    """Average the loss over all target tokens; return it, in nats, and their count.

    Args:
        model: the model.
        batches: without targets, loss and count are 0.
        total: the number of batches.
        chunk_size: for how many positions logits exist at one time.

    Raises:
        NonFiniteError: Q502.
    """
    device = model.device
    loss_sum, count = 0.0, 0
    with evaluating(model), working("progress.loss", total=total, done=1) as work:
        for number, batch in enumerate(batches, 1):
            work.reach(number)
            ids = torch.from_numpy(np.asarray(batch.ids)).to(device)
            judged = judge(model, ids, batch.mask, batch.segments, chunk_size)
            loss_sum += float(judged.loss_sum)
            count += judged.num_targets
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
    answerer: Answerer,
    questions: Sequence[Conversation],
    options: GenerateConfig,
    among: Sequence[Conversation] | None = None,
) -> list[Graded]:
    """Answer the last turn of each conversation and score it against its gold answers.

    A question that fills the model's context is not asked: it scores 0, and a warning names it.
    If some question has no answer, or the model has a threshold, the model's own answers come
    first, then the threshold decides. Where a model abstains by itself, its best other answer is
    generated too, if it counts.

    Args:
        answerer: the model.
        questions: to be answered.
        options: of generation.
        among: all questions, of which these are a share; they decide how the model abstains.
    """
    context = answerer.model.config.max_position_embeddings
    sizes = [answerer.prompt_size(question.messages[:-1]) for question in questions]
    asked = [q for q, size in zip(questions, sizes, strict=True) if size < context]
    _warn_of_long("log.long_questions", questions, sizes, context - 1)
    abstention = _abstention_for(answerer, questions if among is None else among)
    with evaluating(answerer.model):
        graded = iter(_asked(answerer, asked, options, abstention))
    return [
        next(graded) if size < context else _not_asked(question, abstention)
        for question, size in zip(questions, sizes, strict=True)
    ]


def _asked(
    answerer: Answerer,
    questions: Sequence[Conversation],
    options: GenerateConfig,
    abstention: Abstention | None,
) -> list[Graded]:
    prompts = [question.messages[:-1] for question in questions]
    answers = answerer.replies(prompts, options, abstaining=False)
    if abstention is None:
        return [
            Graded(question, str(answer), answer.finish_reason, *marks(answer, question.answers))
            for question, answer in zip(questions, answers, strict=True)
        ]
    scores = answerer.abstention_scores(prompts, abstention.no_answer)
    wanted = [
        number
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if abstention.is_said_by(answer)
        and (question.has_answer or abstention.forbids(scores[number]))
    ]
    others = answerer.alternatives([prompts[number] for number in wanted], options, abstention)
    other_of = dict(zip(wanted, others, strict=True))
    return [
        _graded(question, answer, other_of.get(number), scores[number], abstention)
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]


def _abstention_for(answerer: Answerer, questions: Sequence[Conversation]) -> Abstention | None:
    """Choose the sentence for abstaining: the model's, or the questions'; None if unneeded."""
    own = answerer.abstention
    unanswered = next((one for one in questions if not one.has_answer), None)
    if own is not None and (unanswered is not None or own.threshold is not None):
        return own
    return Abstention(no_answer=unanswered.messages[-1].content) if unanswered else None


def _graded(
    question: Conversation,
    own: Answer,
    other: Answer | None,
    score: float | None,
    abstention: Abstention,
) -> Graded:
    """Score the model's own answer and its best other one, and let the threshold decide."""
    of_own = marks(own, question.answers, abstention)
    answering = marks(other, question.answers, abstention) if other is not None else (0.0, 0.0)
    abstained = abstention.is_said_by(own)
    said = Said(score, of_own[1], question.has_answer, abstained, answering[1])
    text, reason = str(own), own.finish_reason
    if abstention.applies(score):
        text = text if abstained else abstention.no_answer
    elif abstention.forbids(score) and other is not None:
        text, reason = str(other), other.finish_reason
    exact, overlap = marks(text, question.answers, abstention)
    abstains, exact_answering = (
        abstention.is_said_by(text),
        answering[0] if abstained else of_own[0],
    )
    return Graded(question, text, reason, exact, overlap, said, abstains, exact_answering)


def _not_asked(question: Conversation, abstention: Abstention | None) -> Graded:
    said = Said(None, 0.0, question.has_answer, False) if abstention else None
    return Graded(question, "", "too_long", 0.0, 0.0, said)


def of_abstention(graded: Sequence[Graded]) -> dict[str, Any]:
    """Summarise how a model abstains; empty if every question has an answer and it never did.

    Returns:
        `has_answer` and `no_answer` with their scores, `abstained`, and if there are both kinds,
        `best_threshold`, `best_f1`, `risk_coverage`, and the scores of `always_answering` and
        `always_abstaining`.
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
        other = [one.exact_answering for one in graded], [one.answering for one in said]
        nothing = [float(not one) for one in answered]
        found["always_answering"] = _both_kinds(answered, *other)
        found["always_abstaining"] = _both_kinds(answered, nothing, nothing)
    return found


def _both_kinds(
    has_answer: Sequence[bool], exact: Sequence[float], f1: Sequence[float]
) -> dict[str, Any]:
    return {**asdict(mean_score(exact, f1)), **kinds(has_answer, exact, f1)}


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


@dataclass(frozen=True)
class Examined:
    """What an exam found."""

    scores: dict[str, Any]
    """See `examine`."""
    graded: list[Graded]
    """Every question with its answer, in the order of the exam."""


def examine(
    answerer: Answerer,
    conversations: Sequence[Conversation],
    options: GenerateConfig,
    by: str | None = None,
) -> dict[str, Any]:
    """Answer and score everything: count, loss, exact_match and f1, and `by` a field's values.

    The loss is that of the gold answers, in nats a token; scores are percentages. `too_long` of the
    `count` questions fill the model's context: they score 0, and the loss leaves them out. `ci95`
    has the interval of both scores: see `confidence`. If some question has no answer, there is
    `abstention` too: see `of_abstention`, and `decided_by`.
    """
    return examined(answerer, conversations, options, by).scores


def examined(
    answerer: Answerer,
    conversations: Sequence[Conversation],
    options: GenerateConfig,
    by: str | None = None,
    kept: Kept | None = None,
) -> Examined:
    """Do as `examine`, and give the answers, too.

    With `kept`, what it knows is not computed again, and what is new is added to it.
    """
    context = answerer.model.config.max_position_embeddings
    encoded = answerer.chat.encode_conversations(conversations, answerer.tokenizer)
    sizes = [len(one.ids) for one in encoded]
    _warn_of_long("log.long_answers", conversations, sizes, context)
    loss = None if kept is None else kept.loss
    if loss is None:
        batches = list(padded_batches([one for one in encoded if len(one.ids) <= context]))
        loss, _ = held_out_loss(answerer.model, batches, total=len(batches))
        if kept is not None:
            kept.add_loss(loss)
    graded = (
        grade(answerer, conversations, options)
        if kept is None
        else _graded_on(answerer, conversations, options, kept)
    )
    total, abstained = total_score(graded), of_abstention(graded)
    if abstained:
        abstained["decided_by"] = (answerer.abstention or Abstention(no_answer="-")).decided_by
    scores = {
        "count": total.count,
        "too_long": sum(one.finish_reason == "too_long" for one in graded),
        "loss": loss,
        "exact_match": total.exact_match,
        "f1": total.f1,
        "ci95": confidence([(g.exact_match, g.f1) for g in graded], conversations),
        **({"abstention": abstained} if abstained else {}),
        "by": {key: asdict(score) for key, score in scores_by(graded, by).items()} if by else {},
    }
    return Examined(scores, graded)


def _graded_on(
    answerer: Answerer, questions: Sequence[Conversation], options: GenerateConfig, kept: Kept
) -> list[Graded]:
    """Grade the questions whose answers are not known yet, a share at a time."""
    found = [kept.of(number, question) for number, question in enumerate(questions)]
    left = [number for number, one in enumerate(found) if one is None]
    size = _BATCHES_A_SHARE * options.batch_size
    with working("progress.exam", total=len(found), done=len(found) - len(left)) as work:
        for begin in range(0, len(left), size):
            share = left[begin : begin + size]
            graded = grade(answerer, [questions[i] for i in share], options, among=questions)
            kept.add(share, graded)
            for number, one in zip(share, graded, strict=True):
                found[number] = one
            work.advance(len(share))
    return [one for one in found if one is not None]


def confidence(
    pairs: Sequence[tuple[float, float]], conversations: Sequence[Conversation]
) -> dict[str, Interval | None]:
    """Give the 95 % intervals of exact match and F1, or of differences of them, in percent.

    None stands for both where all questions are of one group: see `intervals`.
    """
    exact, overlap = intervals(pairs, [one.group for one in conversations]) or (None, None)
    return {"exact_match": exact, "f1": overlap}


def total_score(graded: Sequence[Graded]) -> Score:
    """Average graded questions."""
    return mean_score([g.exact_match for g in graded], [g.f1 for g in graded])


def scores_by(graded: Sequence[Graded], field: str) -> dict[str, Score]:
    """Average graded questions for each value of one of their fields (family, theme ...)."""
    groups: dict[str, list[Graded]] = defaultdict(list)
    for one in graded:
        groups[str(one.conversation.fields.get(field, ""))].append(one)
    return {key: total_score(group) for key, group in groups.items()}
