"""How likely a model finds each token of an answer, and which tokens it finds likeliest there.

Log-probabilities are the model's own: of the logits as they are, before penalties, temperature,
top-k, top-p and min-p.

Shapes: B rows, L tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from quatrain.generate.abstain import log_p_of
from quatrain.model.llama import LlamaModel


class Likelihood(NamedTuple):
    """The log-probability of one token, in nats."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens there and their log-probabilities, the likeliest first."""


def likelihoods(logits_BV: Tensor, ids_B: Tensor, number: int) -> list[Likelihood]:
    """Describe one token of each row by the logits it was chosen from.

    Args:
        logits_BV: as the model gives them.
        ids_B: the tokens.
        number: how many of the likeliest tokens to name; 0 for none.
    """
    log_p_BV = logits_BV.float().log_softmax(-1)
    own = log_p_BV.gather(-1, ids_B[:, None])[:, 0].tolist()
    values, indices = log_p_BV.topk(min(number, log_p_BV.shape[-1]))
    top = [
        tuple(zip(ids, log_p, strict=True))
        for ids, log_p in zip(indices.tolist(), values.tolist(), strict=True)
    ]
    return [Likelihood(*one) for one in zip(ids_B.tolist(), own, top, strict=True)]


def likelihoods_of(
    model: LlamaModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    number: int,
) -> list[list[Likelihood]]:
    """Describe every token of answers that did not come from the decoding loop."""
    found: list[list[Likelihood]] = [[] for _ in prompts]
    for place, log_p_LV in log_p_of(model, prompts, answers):
        ids_L = log_p_LV.new_tensor(answers[place]).long()
        found[place] = likelihoods(log_p_LV, ids_L, number)
    return found
