"""Inspection: what a model makes of each token of a given answer, in one forward pass.

How likely it finds the token there, which others it finds likelier, and which experts the token
went to.

Shapes: T tokens of prompt and answer, L of the answer, K experts a token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from quatrain.errors import DataError
from quatrain.generate.likelihood import Likelihood, likelihoods
from quatrain.model.llama import LlamaModel

_AT_ONCE = 256
"""Tokens whose logits are in memory together."""


class Inspected(NamedTuple):
    """One token of an answer."""

    likelihood: Likelihood
    experts: dict[int, list[int]]
    """The experts that it went to, by the index of the layer, the likeliest first."""


@torch.inference_mode()
def inspect(
    model: LlamaModel, prompt: Sequence[int], answer: Sequence[int], number: int
) -> list[Inspected]:
    """Inspect each token of an answer.

    Args:
        model: the model.
        prompt: its ids.
        answer: its ids.
        number: how many of the likeliest tokens to name in each place.

    Raises:
        DataError: Q340 where prompt and answer are longer than the context.
    """
    ids, context = [*prompt, *answer], model.config.max_position_embeddings
    if len(ids) > context:
        raise DataError("Q340.long", number=0, tokens=len(ids), context=context)
    hidden = model.model(torch.tensor([ids], device=model.device))
    begin = len(prompt)
    experts = {
        layer: routing.experts_BTK[0, begin:].tolist() for layer, routing in hidden.routing.items()
    }
    before_LH = hidden.states[0, begin - 1 : -1]
    found = list[Likelihood]()
    for start in range(0, len(answer), _AT_ONCE):
        states = before_LH[start : start + _AT_ONCE]
        here = torch.tensor(answer[start : start + _AT_ONCE], device=model.device)
        found += likelihoods(model.lm_head(states), here, number)
    return [
        Inspected(one, {layer: chosen[place] for layer, chosen in experts.items()})
        for place, one in enumerate(found)
    ]
