"""Several candidates, and the one that agrees best."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from quatrain.config import GenerateConfig
from quatrain.generate.consensus import most_agreed
from quatrain.generate.engine import complete
from tiny import random_ids, tiny_model

PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 33, 12)]


def test_the_answer_that_most_others_share_words_with_is_given() -> None:
    assert most_agreed(["Lyon", "à Paris", "Paris", "Paris"]) == 2
    assert most_agreed(["la ville de Nantes", "Brest", "Nantes", "le port de Nantes"]) == 0
    assert most_agreed(["Brest", "Nantes"]) == 0
    assert most_agreed(["", "L'eau", "l’eau"]) == 1


def test_a_prompt_read_once_gives_the_candidates_it_would_give_read_often() -> None:
    model = tiny_model()
    options = GenerateConfig(temperature=1.3, seed=5, candidates=3, max_new_tokens=20)
    together = complete(model, PROMPTS, options, [7])
    apart = [
        complete(model, [prompt], options.replace(seed=5 + number, candidates=1), [7])[0]
        for prompt in PROMPTS
        for number in range(3)
    ]
    assert together == apart
    assert len({tuple(one.ids) for one in together}) > 3


def test_the_batch_size_changes_no_candidate() -> None:
    model = tiny_model()
    options = GenerateConfig(temperature=1.0, candidates=2, max_new_tokens=9)
    with torch.no_grad():
        one, all_ = (complete(model, PROMPTS, options.replace(batch_size=n), []) for n in (1, 3))
    assert one == all_


def test_candidates_without_a_temperature_are_refused() -> None:
    with pytest.raises(ValidationError, match="always gives the same answer"):
        GenerateConfig(candidates=4)
