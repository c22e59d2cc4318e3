"""Settle what a recipe leaves open, from the data's size: the same rules for 300 rows and 300,000.

    batch_size      a 32nd of the rows, from 1 to 32, a power of two
    epochs          SFT: some 1000 steps, between 2 and 10 passes; pretraining: 1
    learning_rate   0.256 / d_model; 0.4 of that on weights that were trained already, 4 times
                    that for adapters
    eval_interval   a tenth of the steps

What was settled is written to config.yaml; nothing else reads these rules.
"""

from __future__ import annotations

import math

from quatrain.config import Config, TrainConfig

_SHARE_OF_ROWS, _LARGEST_BATCH = 32, 32
_USEFUL_STEPS, _FEWEST_PASSES, _MOST_PASSES = 1000, 2, 10
_TOKENS_AT_ONCE = 8192


def settle(config: Config, num_rows: int) -> Config:
    """Fill every open field of config.train but the intervals, and max_steps under a budget."""
    train, pretraining = config.train, config.train.task == "pretrain"
    batch = train.batch_size or default_batch_size(num_rows)
    if train.micro_batch_size and batch % train.micro_batch_size:
        batch = train.micro_batch_size * math.ceil(batch / train.micro_batch_size)
    steps_per_epoch = num_rows / batch
    epochs = train.epochs or (1.0 if pretraining else _default_epochs(steps_per_epoch))
    coefficient = train.balance_loss_coef
    return config.replace(
        train=train.replace(
            batch_size=batch,
            micro_batch_size=train.micro_batch_size or _micro(batch, config.data.block_size),
            epochs=epochs,
            max_steps=_limit(train, math.ceil(epochs * steps_per_epoch)),
            learning_rate=train.learning_rate or _default_rate(config),
            balance_loss_coef=0.01 * pretraining if coefficient is None else coefficient,
        )
    )


def _limit(train: TrainConfig, steps_of_epochs: int) -> int | None:
    """Take the first limit that the recipe gives; None leaves the end to the budget alone."""
    limits = [train.max_steps] if train.max_steps else []
    if train.epochs or not (train.max_steps or train.budget):
        limits.append(steps_of_epochs)
    return min(limits, default=None)


def settle_intervals(config: Config) -> Config:
    """Fill the intervals, once the number of steps is known."""
    train = config.train
    assert train.max_steps is not None
    every = train.eval_interval or max(1, math.ceil(train.max_steps / 10))
    return config.replace(
        train=train.replace(eval_interval=every, save_interval=train.save_interval or every)
    )


def default_batch_size(num_rows: int) -> int:
    """Take a 32nd of the rows, from 1 to 32, rounded down to a power of two."""
    wanted = min(max(num_rows // _SHARE_OF_ROWS, 1), _LARGEST_BATCH)
    return 1 << (wanted.bit_length() - 1)


def _default_epochs(steps_per_epoch: float) -> float:
    passes = math.ceil(_USEFUL_STEPS / steps_per_epoch)
    return float(min(max(passes, _FEWEST_PASSES), _MOST_PASSES))


def _default_rate(config: Config) -> float:
    fresh = 0.256 / config.model.d_model
    if config.train.adapter:
        return 4 * fresh
    return fresh if config.model.init is None else 0.4 * fresh


def _micro(batch: int, block_size: int) -> int:
    """Take the largest divisor of the batch that keeps some 8192 tokens in flight."""
    most = max(1, _TOKENS_AT_ONCE // block_size)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)
