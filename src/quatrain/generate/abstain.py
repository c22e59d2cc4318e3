"""How likely a model is to say one given sentence after each of several prompts.

    prompt  <bos> ... Où ? <assistant>     sentence  Sans réponse . <eot>
    log p(Sans | prompt) + log p(réponse | prompt Sans) + ... + log p(<eot> | ...)

The sentence is the same for all prompts, so a mean over its tokens would give the same order.

Shapes: B prompts, T tokens, L tokens of the sentence, H model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from quatrain.model.llama import LlamaModel
from quatrain.progress import working

TOKENS_AT_ONCE = 4096
"""Tokens that are read together, padding included, unless one prompt is longer."""


def log_probabilities(
    model: LlamaModel, prompts: Sequence[Sequence[int]], sentence: Sequence[int]
) -> list[float | None]:
    """Sum, for each prompt, the log-probabilities of the sentence's tokens, in nats.

    Returns:
        None for a prompt after which the sentence does not fit.
    """
    most = model.config.max_position_embeddings - len(sentence)
    found: list[float | None] = [None] * len(prompts)
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= most]
    said = [sentence] * len(fitting)
    for place, log_p_LV in log_p_of(model, [prompts[i] for i in fitting], said):
        chosen_L = log_p_LV[range(len(sentence)), list(sentence)]
        found[fitting[place]] = float(chosen_L.double().sum())
    return found


@torch.inference_mode()
def log_p_of(
    model: LlamaModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Iterator[tuple[int, Tensor]]:
    """Yield log-probabilities [L, V] at each token of the answer to each prompt, shortest first.

    Yields:
        The number of the prompt, and the log-probabilities.
    """
    all_ids = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    order = sorted(range(len(all_ids)), key=lambda i: len(all_ids[i]))
    if not order:
        return
    with working("progress.prompts", total=len(order)) as work:
        while order:
            count = 1
            while count < len(order) and (count + 1) * len(all_ids[order[count]]) <= TOKENS_AT_ONCE:
                count += 1
            block, order = order[:count], order[count:]
            states_BTH = _states(model, [all_ids[i] for i in block])
            for states_TH, number in zip(states_BTH, block, strict=True):
                begin = len(prompts[number]) - 1
                states_LH = states_TH[begin : begin + len(answers[number])]
                yield number, model.lm_head(states_LH).float().log_softmax(-1)
            work.advance(count)


def _states(model: LlamaModel, all_ids: Sequence[Sequence[int]]) -> Tensor:
    """Read rows, padded on the right; give their hidden states."""
    device = model.device
    longest = max(map(len, all_ids))
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in all_ids], device=device)
    states_BTH: Tensor = model.model(ids_BT, [[len(ids)] for ids in all_ids]).states
    return states_BTH
