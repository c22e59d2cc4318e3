"""How the next token is drawn from logits.

In this order: repetition penalty (prompt and answer), presence and frequency penalties (answer),
temperature, top-k, top-p, min-p, then one draw. Temperature 0 takes the most likely token after the
penalties. Each row draws from its own generator, so the other rows of its batch change nothing.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quatrain.config import GenerateConfig

_COLDEST = 1e-6
"""Below this temperature the division could overflow; the most likely token is taken instead."""


def generator(options: GenerateConfig) -> torch.Generator:
    """Make the generator of one answer; who is answered beside it changes no draw."""
    return torch.Generator().manual_seed(options.seed)


def choose(
    logits_BV: Tensor,
    options: GenerateConfig,
    history: Sequence[Sequence[int]],
    draws: Sequence[torch.Generator],
    answers: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Choose a token for each row, [B] int64; temperature 0 takes the most likely one.

    Args:
        logits_BV: of the next token.
        options: temperature, top_k, top_p, min_p and the three penalties.
        history: the ids of each row so far, for the repetition penalty.
        draws: a generator for each row.
        answers: those of the ids that were generated, for the presence and frequency penalties.
    """
    logits_BV = logits_BV.float()
    if options.repetition_penalty != 1:
        logits_BV = penalise(logits_BV, history, options.repetition_penalty)
    if options.presence_penalty or options.frequency_penalty:
        logits_BV = discourage(
            logits_BV, answers, options.presence_penalty, options.frequency_penalty
        )
    if options.temperature < _COLDEST:
        return logits_BV.argmax(-1)
    probabilities = keep_likely(
        logits_BV / options.temperature, options.top_k, options.top_p, options.min_p
    )
    return _draw(probabilities, draws)


def penalise(logits_BV: Tensor, history: Sequence[Sequence[int]], penalty: float) -> Tensor:
    """Divide the positive logits of ids already there by the penalty, multiply the negative ones.

    Keskar et al., 2019, section 4.1, adapted to negative logits.
    """
    logits_BV = logits_BV.clone()
    for row, ids in enumerate(history):
        seen = torch.tensor(sorted(set(ids)), device=logits_BV.device, dtype=torch.int64)
        values = logits_BV[row, seen]
        logits_BV[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_BV


def discourage(
    logits_BV: Tensor, answers: Sequence[Sequence[int]], presence: float, frequency: float
) -> Tensor:
    """Lower the logit of each id that an answer has n times by presence + n x frequency.

    The formula of OpenAI's API; negative penalties encourage.
    """
    logits_BV = logits_BV.clone()
    for logits_V, ids in zip(logits_BV, answers, strict=True):
        seen = torch.tensor(ids, device=logits_V.device, dtype=torch.int64)
        distinct, counts = seen.unique(return_counts=True)
        logits_V[distinct] -= presence + counts * frequency
    return logits_BV


def keep_likely(logits_BV: Tensor, top_k: int | None, top_p: float, min_p: float = 0.0) -> Tensor:
    """Turn logits into probabilities [B, V] that are 0 outside top-k, the nucleus and min-p.

    The nucleus is the smallest set of most likely tokens whose probabilities reach top_p
    (Holtzman et al., 2020); it holds at least one token. Ties beyond k are left out. Then tokens
    less likely than min_p times the likeliest one are left out (Nguyen et al., 2024).
    """
    probabilities = _nucleus(logits_BV, top_k, top_p)
    if min_p > 0:
        least = min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def _nucleus(logits_BV: Tensor, top_k: int | None, top_p: float) -> Tensor:
    if top_k is None and top_p >= 1:
        return logits_BV.softmax(-1)
    ordered, order = logits_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    probabilities = ordered.softmax(-1)
    if top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, order, probabilities)


def _draw(probabilities_BV: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    """Draw by the inverse of the cumulative distribution, on the CPU in float64."""
    cumulative = probabilities_BV.double().cpu().cumsum(-1)
    uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in draws])
    reached = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return reached[:, 0].clamp(max=probabilities_BV.shape[1] - 1).to(probabilities_BV.device)
