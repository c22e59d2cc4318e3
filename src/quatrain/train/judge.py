"""The periodic evaluation: held-out loss, and held-out questions answered and scored."""

from __future__ import annotations

import random
import time
from typing import Any

from quatrain.config import Config
from quatrain.data.batches import in_order
from quatrain.data.prepare import HOLDOUT_SEED, PreparedData
from quatrain.evaluate.run import Graded, grade, held_out_loss, total_score
from quatrain.generate.answer import Answerer
from quatrain.model.llama import LlamaModel
from quatrain.train.log import Journal
from quatrain.train.loop import Evaluation


class Judge:
    """Evaluates one run's model, always on the same rows and the same sample of questions."""

    def __init__(self, config: Config, data: PreparedData, model: LlamaModel) -> None:
        self.config, self.data, self.model = config, data, model
        self.answerer = Answerer.of(model, data.tokenizer, data.chat)
        count = min(config.evaluate.questions, len(data.questions))
        self.questions = random.Random(HOLDOUT_SEED).sample(data.questions, count)

    def evaluate(self, step: int, journal: Journal | None = None) -> Evaluation:
        """Measure; write the first answers to the journal, where there is one.

        The score is F1, then exact match, then the loss. Without held-out data nothing is
        measured: the row is None, and a later step is better.
        """
        if self.data.eval is None and not self.questions:
            return Evaluation(None, (float(step),))
        started = time.perf_counter()
        loss = self._loss()
        graded = grade(self.answerer, self.questions, self.config.generate)
        if journal is not None:
            for one in graded[: self.config.evaluate.samples]:
                journal.sample(_sample(step, one))
        score = total_score(graded) if graded else None
        row: dict[str, Any] = {
            "step": step,
            "eval_loss": loss,
            "exact_match": None if score is None else score.exact_match,
            "f1": None if score is None else score.f1,
            "seconds": time.perf_counter() - started,
        }
        if score is not None:
            return Evaluation(row, (score.f1, score.exact_match, -(loss or 0.0)))
        return Evaluation(row, (-(loss or 0.0),))

    def _loss(self) -> float | None:
        if self.data.eval is None:
            return None
        rows_at_once = self.config.train.micro_batch_size or 1
        return held_out_loss(self.model, in_order(self.data.eval, rows_at_once))[0]


def _sample(step: int, graded: Graded) -> dict[str, Any]:
    return {
        "step": step,
        "question": graded.question,
        "answer": graded.answer,
        "gold": list(graded.conversation.answers),
        "exact_match": graded.exact_match,
        "f1": graded.f1,
        "finish_reason": graded.finish_reason,
    }
