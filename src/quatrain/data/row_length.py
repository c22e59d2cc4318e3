"""How long rows are where the recipe does not say: no longer than the conversations need.

    longest conversation    40    200    300    700 tokens
    row                    256    448    512    704

Short conversations share a row, and so fill it better; a long one fills a row alone. A conversation
that is longer than the longest row is set aside, as always. Not for packing them (pack.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from quatrain.text.chat import ChatFormat
from quatrain.text.conversation import Conversation
from quatrain.text.tokenizer import Tokenizer

SHORTEST = 256
"""Of rows for a base: short conversations share them."""

_SHARED, _LONGEST, _STEP = 512, 2048, 64
_SAMPLED, _UNSEEN = 2000, 1.1
"""Conversations that are encoded, and how much longer those may be that are not."""


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
    longest = max(chat.encode_block(sample, tokenizer).lengths, default=0)
    return fitted(round(longest * (_UNSEEN if every > 1 else 1)), shortest, context)


def fitted(longest: int, shortest: int, context: int) -> int:
    """Choose a row for a longest conversation."""
    needed = max(shortest, longest, min(_SHARED, 2 * longest))
    return min(-(-needed // _STEP) * _STEP, _LONGEST, context)
