"""Settle open fields of a recipe from the data's size, by the same rules for any number of rows.

    batch_size      a 32nd of the rows, from 1 to 32, a power of two; for a base, eight
                    conversations at least
    epochs          SFT: some 1000 steps, between 2 and 10 passes; pretraining: 1
    learning_rate   0.256 / d_model; for trained weights twice that (0.7 on text), 4 times for
                    adapters
    precision       bf16 for a large base where the processor multiplies it, else fp32
    eval_interval   a tenth of the steps

For weights from model.init the available time decides too (budget.py): batches that give some
hundred steps, and as many passes and questions as fit. The results are written to config.yaml;
nothing else reads these rules.
"""

from __future__ import annotations

import math
from typing import Literal

from quatrain.config import Config, TrainConfig
from quatrain.train.sizes import parameters

_SHARE_OF_ROWS, _LARGEST_BATCH = 32, 32
_FEWEST_CONVERSATIONS = 8
"""Of a step from trained weights: of fewer the gradient is mostly chance, and the rate is high."""
_USEFUL_STEPS, _FEWEST_PASSES, _MOST_PASSES = 1000, 2, 10
_TOKENS_AT_ONCE = 8192
_WORTH_BF16 = 50 * 10**6
"""Parameters above which products take most of a step, so that rounding them pays."""
_TRAINED, _TRAINED_ON_TEXT, _ADAPTERS = 2.0, 0.7, 4.0
"""Factors of the learning rate for trained weights that learn answers or text, and for adapters,
relative to new weights: from SmolLM2 on two files (docs/LOG.md); text forgets more."""


def settle(
    config: Config, num_rows: int, halves: bool = False, per_row: float | None = None
) -> Config:
    """Fill every open field of config.train except the intervals and, under a budget, max_steps.

    Args:
        config: with the row length settled.
        num_rows: of the training data.
        halves: whether the device multiplies bfloat16 natively.
        per_row: conversations in a row, on average; None where rows hold text.
    """
    train, pretraining = config.train, config.train.task == "pretrain"
    batch = train.batch_size or default_batch_size(num_rows)
    if not train.batch_size and per_row and config.model.init is not None:
        batch = max(batch, fewest_rows(per_row))
    if train.micro_batch_size and batch % train.micro_batch_size:
        batch = train.micro_batch_size * math.ceil(batch / train.micro_batch_size)
    steps_per_epoch = num_rows / batch
    epochs = train.epochs or (1.0 if pretraining else _default_epochs(steps_per_epoch))
    coefficient = train.balance_loss_coef
    return config.replace(
        train=train.replace(
            batch_size=batch,
            micro_batch_size=train.micro_batch_size or _micro(batch, config.row_length),
            epochs=epochs,
            max_steps=_limit(train, math.ceil(epochs * steps_per_epoch)),
            learning_rate=train.learning_rate or _default_rate(config),
            balance_loss_coef=0.01 * pretraining if coefficient is None else coefficient,
            precision=train.precision or _default_precision(config, halves),
        )
    )


def _limit(train: TrainConfig, steps_of_epochs: int) -> int | None:
    """Take the first limit of the recipe; None leaves the end to the budget alone."""
    limits = [train.max_steps] if train.max_steps else []
    if train.epochs or not (train.max_steps or train.budget):
        limits.append(steps_of_epochs)
    return min(limits, default=None)


def settle_intervals(config: Config) -> Config:
    """Fill the intervals, once the number of steps is known, and the number of questions."""
    train, questions = config.train, config.evaluate.questions
    assert train.max_steps is not None
    every = train.eval_interval or max(1, math.ceil(train.max_steps / 10))
    return config.replace(
        train=train.replace(eval_interval=every, save_interval=train.save_interval or every),
        evaluate=config.evaluate.replace(
            questions=MOST_QUESTIONS if questions is None else questions
        ),
    )


MOST_QUESTIONS = 200
"""Asked at an evaluation where the recipe gives no number."""


def default_batch_size(num_rows: int) -> int:
    """Take a 32nd of the rows, from 1 to 32, rounded down to a power of two."""
    return power_of_two(min(num_rows // _SHARE_OF_ROWS, _LARGEST_BATCH))


def fewest_rows(per_row: float) -> int:
    """Take as many rows as eight conversations need, rounded up to a power of two."""
    return 1 << math.ceil(math.log2(max(1.0, _FEWEST_CONVERSATIONS / per_row)))


def power_of_two(number: float) -> int:
    """Round down to a power of two, and at least to 1."""
    return 1 << (max(1, int(number)).bit_length() - 1)


def _default_epochs(steps_per_epoch: float) -> float:
    passes = math.ceil(_USEFUL_STEPS / steps_per_epoch)
    return float(min(max(passes, _FEWEST_PASSES), _MOST_PASSES))


def _default_rate(config: Config) -> float:
    fresh = 0.256 / config.model.d_model
    if config.train.adapter:
        return _ADAPTERS * fresh
    if config.model.init is None:
        return fresh
    return fresh * (_TRAINED_ON_TEXT if config.train.task == "pretrain" else _TRAINED)


def _default_precision(config: Config, halves: bool) -> Literal["fp32", "bf16"]:
    large = config.model.init is not None and parameters(config.model).active >= _WORTH_BF16
    return "bf16" if large and halves else "fp32"


def _micro(batch: int, length: int) -> int:
    """Take the largest divisor of the batch that keeps it within some 8192 tokens."""
    most = max(1, _TOKENS_AT_ONCE // length)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)
