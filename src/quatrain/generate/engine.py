"""The decoding loop: prompt ids to answer ids, several prompts side by side, with a cache.

Knows ids only; answer.py handles text. Prompts of different lengths are padded on the left. The
padding is a document of its own, which the prompt cannot see, so each row gets the same tokens as
alone. A prompt with several candidates is read once; then its row is repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch

from quatrain.config import GenerateConfig
from quatrain.errors import DataError
from quatrain.generate.sampling import choose, generators
from quatrain.model.layout import pad_left
from quatrain.model.llama import LlamaModel
from quatrain.progress import working

_TOKENS_AT_ONCE = 8_192
"""Tokens of the prompts in a block, including padding: they and their cache take memory."""

FinishReason = Literal["stop", "length"]


class Step(NamedTuple):
    """One new token of one candidate of one prompt."""

    row: int
    """Index of the prompt times options.candidates, plus the index of the candidate."""
    token_id: int
    finish_reason: FinishReason | None
    """Why this row ends here, or None if it goes on. A stop token ends it and is not text."""


@dataclass
class Completion:
    """The tokens that answer one prompt, without the stop token."""

    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"


def complete(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    options: GenerateConfig,
    stop_ids: Collection[int],
) -> list[Completion]:
    """Answer every prompt, options.batch_size at a time, the longest first, to waste least.

    Returns:
        options.candidates completions for the first prompt, then for the second, and so on.
    """
    _check(prompts, model.config.max_position_embeddings)
    each = options.candidates
    completions = [Completion() for _ in prompts for _ in range(each)]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with working("progress.answers", total=len(completions)) as work:
        for block in _blocks(order, prompts, options.batch_size):
            for step in stream(model, [prompts[i] for i in block], options, stop_ids):
                completion = completions[block[step.row // each] * each + step.row % each]
                if step.finish_reason != "stop":
                    completion.ids.append(step.token_id)
                if step.finish_reason:
                    completion.finish_reason = step.finish_reason
                    work.advance()
    return completions


def _blocks(
    order: Sequence[int], prompts: Sequence[Sequence[int]], most: int
) -> Iterator[Sequence[int]]:
    """Divide prompts, the longest first, into blocks that do not take too much memory."""
    start = 0
    while start < len(order):
        fitting = max(1, _TOKENS_AT_ONCE // len(prompts[order[start]]))
        yield order[start : start + min(most, fitting)]
        start += min(most, fitting)


@torch.inference_mode()
def stream(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    options: GenerateConfig,
    stop_ids: Collection[int],
) -> Iterator[Step]:
    """Yield each new token as it is known; rows that have ended are dropped when half have ended.

    Until then they are computed in vain, which costs less than copying the cache each time.

    Raises:
        DataError: Q340 for an empty prompt or one that fills the model's context.
    """
    context = model.config.max_position_embeddings
    _check(prompts, context)
    history = [list(prompt) for prompt in prompts for _ in range(options.candidates)]
    rows, ended = list(range(len(history))), set[int]()
    draws = generators(options, len(prompts))
    cache = model.new_cache()
    ids_BT, segments = pad_left(prompts, model.device)
    states = model.model(ids_BT, segments, cache).states[:, -1:]
    if options.candidates > 1:
        of_prompt = (
            torch.arange(len(prompts)).repeat_interleave(options.candidates).to(ids_BT.device)
        )
        cache.select(of_prompt)
        states = states[of_prompt]
    for count in range(1, options.max_new_tokens + 1):
        logits_BV = model.lm_head(states[:, -1])
        chosen = choose(
            logits_BV, options, [history[i] for i in rows], [draws[i] for i in rows]
        ).tolist()
        for row, token_id in zip(rows, chosen, strict=True):
            if row in ended:
                continue
            history[row].append(token_id)
            reason: FinishReason | None = None
            if token_id in stop_ids:
                reason = "stop"
            elif count == options.max_new_tokens or len(history[row]) >= context:
                reason = "length"
            if reason:
                ended.add(row)
            yield Step(row, token_id, reason)
        going_on = [place for place, row in enumerate(rows) if row not in ended]
        if not going_on:
            return
        if 2 * len(going_on) <= len(rows):
            cache.select(torch.tensor(going_on, device=ids_BT.device))
            rows = [rows[place] for place in going_on]
        next_ids = torch.tensor([[history[i][-1]] for i in rows], device=ids_BT.device)
        states = model.model(next_ids, None, cache).states


def _check(prompts: Sequence[Sequence[int]], context: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise DataError("Q340.empty", number=number)
        if len(prompt) >= context:
            raise DataError("Q340.long", number=number, tokens=len(prompt), context=context)
