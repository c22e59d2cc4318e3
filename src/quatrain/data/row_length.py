"""How long rows are where the recipe does not say: no longer than the conversations need.

    longest conversation    40    200    300    700 tokens
    row                    256    448    512    704

Short conversations share a row, and so fill it better; a long one fills a row alone. A conversation
that is longer than the longest row is set aside, as always. Not for packing them (pack.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quatrain.data.pack import Lengths, pack, used_fraction
from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import Tokenizer

SHORTEST = 256
"""Of rows for a base: short conversations share them."""

_SHARED, _LONGEST, _STEP = 512, 2048, 64
_SAMPLED, _UNSEEN = 2000, 1.1
"""Conversations that are encoded, and how much longer those may be that are not."""
_FULLER = 0.05
"""The share of positions for which shorter rows are worth having."""


def row_length(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    chat: ChatFormat,
    shortest: int,
    context: int,
) -> int:
    """Settle the length of rows, in tokens, from an even sample of the conversations.

    Args:
        conversations: those to be learnt.
        tokenizer: the model's.
        chat: the model's.
        shortest: the least that is worth having.
        context: the most that the model takes.
    """
    every = -(-len(conversations) // _SAMPLED)
    sample = [conversations[index] for index in range(0, len(conversations), max(1, every))]
    lengths = np.array(chat.encode_block(sample, tokenizer).lengths, dtype=np.int64)
    longest = round(int(lengths.max(initial=0)) * (_UNSEEN if every > 1 else 1))
    shared, alone = (fitted(longest, shortest, context, shares) for shares in (True, False))
    return alone if _filled(lengths, alone) > _filled(lengths, shared) + _FULLER else shared


def fitted(longest: int, shortest: int, context: int, shares: bool = True) -> int:
    """Choose a row for a longest conversation, with room for another one or just for it."""
    needed = max(shortest, longest, min(_SHARED, 2 * longest) if shares else 0)
    return min(-(-needed // _STEP) * _STEP, _LONGEST, context)


def _filled(lengths: Lengths, row: int) -> float:
    """Say which share of the positions of rows would hold a token; longer ones are set aside."""
    fitting = lengths[lengths <= row]
    return used_fraction(fitting, pack(fitting, row), row)
