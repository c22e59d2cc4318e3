"""The periodic evaluation: held-out loss, and held-out questions answered and scored."""

from __future__ import annotations

import time
from typing import Any

from quatrain.config import Config
from quatrain.data.batches import in_order
from quatrain.data.prepare import PreparedData
from quatrain.evaluate.graded import Graded
from quatrain.evaluate.run import grade, of_abstention, total_score
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.progress import working
from quatrain.train.alone import ALONE, Alone
from quatrain.train.exam import asked
from quatrain.train.loop import Evaluation

_TRIED = (4, 16)
_QUICK = 4.0
"""Seconds for four answers beyond which no more are timed."""


class Judge:
    """Evaluates one run's model, always on the same rows and the same sample of questions."""

    def __init__(
        self, config: Config, data: PreparedData, model: LlamaModel, team: Alone = ALONE
    ) -> None:
        self.config, self.data, self.model, self.team = config, data, model, team
        self.answerer = Answerer.of(model, data.tokenizer, data.chat)
        self.questions, rows = asked(config, data), config.evaluate.rows
        self.num_rows = min(rows or len(data.eval), len(data.eval)) if data.eval is not None else 0

    def evaluate(self, step: int) -> Evaluation:
        """Measure, and keep the first answers as samples.

        The score is F1, then exact match, then the loss. Without held-out data nothing is
        measured: the row is None, and the later step counts as better.
        """
        if self.data.eval is None and not self.questions:
            return Evaluation(None, (float(step),))
        started = time.perf_counter()
        with working("progress.evaluation"):
            loss = self._loss(self.num_rows)
            graded = self.team.graded(self.answerer, self.questions, self.config.generate)
        samples = [_sample(step, one) for one in graded[: self.config.evaluate.samples]]
        score = total_score(graded) if graded else None
        row: dict[str, Any] = {
            "step": step,
            "eval_loss": loss,
            "exact_match": None if score is None else score.exact_match,
            "f1": None if score is None else score.f1,
            "seconds": time.perf_counter() - started,
        }
        if abstained := of_abstention(graded):
            row["abstention"] = abstained
        if score is not None:
            highest = (score.f1, score.exact_match, -(loss or 0.0))
            return Evaluation(row, highest, samples, tuple(one.f1 for one in graded))
        return Evaluation(row, (-(loss or 0.0),), samples)

    def trial(self) -> tuple[float, float]:
        """Measure the seconds of one row of the loss, and of one answered question.

        Four questions are answered side by side; where that is quick, sixteen, since an
        evaluation answers many at a time, each in a fraction of what one of four takes.
        """
        rows = min(self.num_rows, self.config.train.micro_batch_size or 1)
        begun = time.perf_counter()
        self._loss(rows)
        loss_row = (time.perf_counter() - begun) / max(1, rows)
        each = 0.0
        for wanted in _TRIED:
            count = min(len(self.questions), self.config.generate.batch_size, wanted)
            begun = time.perf_counter()
            grade(self.answerer, self.questions[:count], self.config.generate)
            seconds = time.perf_counter() - begun
            each = seconds / max(1, count)
            if self.team.any(count < wanted or seconds > _QUICK):  # all stop together
                break
        return loss_row, each

    def _loss(self, num_rows: int) -> float | None:
        if self.data.eval is None:
            return None
        at_once = self.config.train.micro_batch_size or 1
        batches = in_order(self.data.eval, at_once, num_rows)
        chunk = self.config.train.loss_chunk_size
        return self.team.loss(self.model, batches, -(-num_rows // at_once), chunk)


def _sample(step: int, graded: Graded) -> dict[str, Any]:
    return {
        "step": step,
        "question": graded.question,
        "answer": graded.answer,
        "gold": list(graded.conversation.answers),
        "exact_match": graded.exact_match,
        "f1": graded.f1,
        "finish_reason": graded.finish_reason,
        **({} if graded.said is None else {"abstained": graded.abstained}),
    }
