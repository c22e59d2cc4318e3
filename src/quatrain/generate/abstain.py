"""How likely a model is to say one given sentence after each of several prompts.

    prompt  <bos> ... Où ? <assistant>     sentence  Sans réponse . <eot>
    log p(Sans | prompt) + log p(réponse | prompt Sans) + ... + log p(<eot> | ...)

The sentence is the same for all prompts, so a mean over its tokens would give the same order.

Shapes: B prompts, T tokens, L tokens of the sentence, H model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quatrain.model.llama import LlamaModel

_TOKENS_AT_ONCE = 4096


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
    order = sorted(fitting, key=lambda i: len(prompts[i]))
    while order:
        size = len(prompts[order[0]]) + len(sentence)
        count = 1
        while count < len(order):
            size = len(prompts[order[count]]) + len(sentence)
            if (count + 1) * size > _TOKENS_AT_ONCE:
                break
            count += 1
        block, order = order[:count], order[count:]
        scores = _scored(model, [[*prompts[i], *sentence] for i in block], len(sentence))
        for index, score in zip(block, scores, strict=True):
            found[index] = score
    return found


@torch.inference_mode()
def _scored(model: LlamaModel, all_ids: Sequence[Sequence[int]], last: int) -> list[float]:
    """Sum the log-probabilities of the last tokens of each row, padded on the right."""
    device = model.device
    longest = max(map(len, all_ids))
    ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in all_ids], device=device)
    states_BTH = model.model(ids_BT, [[len(ids)] for ids in all_ids]).states
    ends = torch.tensor([len(ids) for ids in all_ids], device=device)
    places_BL = ends[:, None] - last + torch.arange(last, device=device)
    rows = torch.arange(len(all_ids), device=device)[:, None]
    log_p = model.lm_head(states_BTH[rows, places_BL - 1]).float().log_softmax(-1)
    chosen_BL = log_p.gather(-1, ids_BT[rows, places_BL][..., None])[..., 0]
    scores: list[float] = chosen_BL.double().sum(-1).tolist()
    return scores
