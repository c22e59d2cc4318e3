"""The decoding loop: prompt ids to answer ids, several prompts side by side, with a cache.

Knows ids only; answer.py handles text. Prompts of different lengths are padded on the left. The
padding is a document of its own, which the prompt cannot see, so each row gets the same tokens as
alone. A prompt with several candidates is read once; then its row is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from quatrain.config import GenerateConfig
from quatrain.errors import DataError
from quatrain.generate.likelihood import Likelihood, likelihoods
from quatrain.generate.sampling import choose, generators
from quatrain.model.layout import pad_left
from quatrain.model.llama import LlamaModel
from quatrain.progress import working

_TOKENS_AT_ONCE = 8_192
"""Tokens of the prompts in a block, including padding: they and their cache take memory."""

FinishReason = Literal["stop", "length"]

Watch = Callable[[], Callable[[int], bool]]
"""Makes, for one answer, what takes its tokens in order and says whether the answer ends there."""


class Step(NamedTuple):
    """One new token of one candidate of one prompt."""

    row: int
    """Index of the prompt times options.candidates, plus the index of the candidate."""
    token_id: int
    finish_reason: FinishReason | None
    """Why this row ends here, or None if it goes on."""
    is_text: bool = True
    """False for a stop token, which is no part of the answer."""
    likelihood: Likelihood | None = None
    """Known if options.logprobs asks for it."""


@dataclass
class Completion:
    """The tokens that answer one prompt, without the stop token."""

    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    by_text: bool = False
    """Whether it stopped without a stop token: a Watch ended it."""
    likelihoods: list[Likelihood] = field(default_factory=list)
    """One for each id if options.logprobs asks for them."""

    def add(self, step: Step) -> None:
        """Take the next token."""
        if step.is_text:
            self.ids.append(step.token_id)
            if step.likelihood is not None:
                self.likelihoods.append(step.likelihood)
        if step.finish_reason:
            self.finish_reason = step.finish_reason
            self.by_text = step.is_text and step.finish_reason == "stop"

    @property
    def num_generated(self) -> int:
        """Count the tokens, including a stop token."""
        return len(self.ids) + (self.finish_reason == "stop" and not self.by_text)


@dataclass
class _Row:
    """One answer on its way."""

    history: list[int]
    answer: list[int]
    draw: torch.Generator
    ends_at: Callable[[int], bool] | None
    ended: bool = False

    def take(self, token_id: int, stop_ids: Collection[int], is_last: bool) -> FinishReason | None:
        """Take the next token; say why the answer ends with it, if it does."""
        self.history.append(token_id)
        self.answer.append(token_id)
        reason: FinishReason | None = "length" if is_last else None
        if token_id in stop_ids or (self.ends_at is not None and self.ends_at(token_id)):
            reason = "stop"
        self.ended = reason is not None
        return reason


def complete(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    options: GenerateConfig,
    stop_ids: Collection[int],
    watch: Watch | None = None,
    begun: int = 0,
) -> list[Completion]:
    """Answer every prompt, options.batch_size at a time, the longest first, to waste least.

    Args:
        model: the model.
        prompts: their ids.
        options: how answers are generated.
        stop_ids: the ids that end an answer.
        watch: ends answers by their tokens so far.
        begun: how many ids at the end of each prompt are the answer's already.

    Returns:
        options.candidates completions for the first prompt, then for the second, and so on.
    """
    _check(prompts, model.config.max_position_embeddings)
    each = options.candidates
    completions = [Completion() for _ in prompts for _ in range(each)]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with working("progress.answers", total=len(completions)) as work:
        for block in _blocks(order, prompts, options.batch_size):
            at_once = [prompts[i] for i in block]
            for step in stream(model, at_once, options, stop_ids, watch, begun):
                completions[block[step.row // each] * each + step.row % each].add(step)
                if step.finish_reason:
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
    watch: Watch | None = None,
    begun: int = 0,
) -> Iterator[Step]:
    """Yield each new token as it is known; rows that have ended are dropped when half have ended.

    Until then they are computed in vain, which costs less than copying the cache each time.
    Arguments are those of `complete`.

    Raises:
        DataError: Q340 for an empty prompt or one that fills the model's context.
    """
    context = model.config.max_position_embeddings
    _check(prompts, context)
    rows = _rows(prompts, options, watch, begun)
    places = list(range(len(rows)))
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
        for place, token_id, likelihood in _chosen(logits_BV, places, rows, options):
            row = rows[place]
            if row.ended:
                continue
            is_last = count == options.max_new_tokens or len(row.history) + 1 >= context
            reason = row.take(token_id, stop_ids, is_last)
            yield Step(place, token_id, reason, token_id not in stop_ids, likelihood)
        going_on = [number for number, place in enumerate(places) if not rows[place].ended]
        if not going_on:
            return
        if 2 * len(going_on) <= len(places):
            cache.select(torch.tensor(going_on, device=ids_BT.device))
            places = [places[number] for number in going_on]
        next_ids = torch.tensor([rows[i].history[-1:] for i in places], device=ids_BT.device)
        states = model.model(next_ids, None, cache).states


def _rows(
    prompts: Sequence[Sequence[int]], options: GenerateConfig, watch: Watch | None, begun: int
) -> list[_Row]:
    each = [prompt for prompt in prompts for _ in range(options.candidates)]
    rows = []
    for prompt, draw in zip(each, generators(options, len(prompts)), strict=True):
        answer = list(prompt[len(prompt) - begun :])
        ends_at = watch() if watch is not None else None
        if ends_at is not None:
            for token_id in answer:
                ends_at(token_id)
        rows.append(_Row(list(prompt), answer, draw, ends_at))
    return rows


def _chosen(
    logits_BV: Tensor, places: Sequence[int], rows: Sequence[_Row], options: GenerateConfig
) -> Iterator[tuple[int, int, Likelihood | None]]:
    """Choose a token for the row at each place, with its likelihood if that is asked for."""
    here = [rows[place] for place in places]
    histories, draws = [row.history for row in here], [row.draw for row in here]
    chosen_B = choose(logits_BV, options, histories, draws, [row.answer for row in here])
    likely: Sequence[Likelihood | None] = [None] * len(here)
    if options.logprobs is not None:
        likely = likelihoods(logits_BV, chosen_B, options.logprobs)
    return zip(places, chosen_B.tolist(), likely, strict=True)


def _check(prompts: Sequence[Sequence[int]], context: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise DataError("Q340.empty", number=number)
        if len(prompt) >= context:
            raise DataError("Q340.long", number=number, tokens=len(prompt), context=context)
