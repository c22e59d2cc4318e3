"""The decoding loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from quatrain.config import GenerateConfig
from quatrain.errors import DataError
from quatrain.generate.engine import Engine, complete
from quatrain.generate.request import Completion
from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_config, tiny_model

PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 33, 1, 20, 12)]


def answers(
    prompts: Sequence[Sequence[int]] = PROMPTS,
    stop: Sequence[int] = (),
    model: LlamaModel | None = None,
    **options: object,
) -> list[Completion]:
    return complete(model or tiny_model(), prompts, GenerateConfig(**options), stop)


def test_greedy_is_the_argmax_of_the_full_forward_over_two_chunk_boundaries() -> None:
    model, ids = tiny_model(), PROMPTS[3]
    (found,) = answers([ids], model=model, max_new_tokens=50)
    with torch.no_grad():
        logits = model(torch.tensor([ids + found.ids]))[0]
    assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == found.ids


@pytest.mark.parametrize("name", ["base", "top_2", "small_chunk", "sixteen_experts"])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "seed": 7, "repetition_penalty": 1.3}]
)
def test_neighbours_in_the_batch_change_no_answer(name: str, options: dict[str, float]) -> None:
    model = tiny_model(tiny_config(name))
    together = answers(model=model, max_new_tokens=30, **options)
    alone = [answers([p], model=model, max_new_tokens=30, **options)[0] for p in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_batch_size_changes_no_answer(size: int) -> None:
    options = dict(max_new_tokens=12, temperature=1.0, seed=1)
    assert answers(batch_size=size, **options) == answers(**options)


def test_a_stop_id_ends_an_answer_and_is_no_part_of_it() -> None:
    (whole,) = answers(PROMPTS[:1], max_new_tokens=10, temperature=1.0)
    place = next(i for i in range(1, 10) if whole.ids[i] not in whole.ids[:i])
    (cut,) = answers(PROMPTS[:1], [whole.ids[place]], max_new_tokens=10, temperature=1.0)
    assert (cut.ids, cut.finish_reason) == (whole.ids[:place], "stop")
    assert whole.finish_reason == "length"


def test_rows_that_end_leave_the_others_as_they_were() -> None:
    whole = answers(max_new_tokens=20)
    stop = {whole[1].ids[4]}
    for before, after in zip(whole, answers(stop=stop, max_new_tokens=20), strict=True):
        ends = [i for i, token in enumerate(before.ids) if token in stop]
        assert after.ids == before.ids[: ends[0] if ends else None]


def test_a_stop_id_as_last_token_is_a_stop() -> None:
    (whole,) = answers(PROMPTS[:1], max_new_tokens=1)
    (found,) = answers(PROMPTS[:1], stop=whole.ids, max_new_tokens=1)
    assert found == Completion([], "stop")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_max_new_tokens_is_kept(count: int) -> None:
    assert [len(a.ids) for a in answers(max_new_tokens=count)] == [count] * 5


def test_a_full_context_ends_an_answer_by_length() -> None:
    model = tiny_model(tiny_config(max_position_embeddings=24))
    (found,) = answers([PROMPTS[3]], model=model, max_new_tokens=100)
    assert (len(found.ids), found.finish_reason) == (4, "length")


def test_a_row_that_fills_the_context_changes_no_row_that_goes_on() -> None:
    model = tiny_model(tiny_config(max_position_embeddings=40))
    together = answers(model=model, max_new_tokens=30)
    assert [len(found.ids) for found in together] == [30, 7, 30, 20, 28]
    assert together == [answers([p], model=model, max_new_tokens=30)[0] for p in PROMPTS]


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    model = tiny_model(tiny_config(max_position_embeddings=20))
    with pytest.raises(
        DataError, match=r"prompt 0 has 20 tokens. The context of the model is 20"
    ) as e:
        answers([PROMPTS[3]], model=model)
    assert e.value.code == "Q340"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match=r"Q340.*prompt 0 is empty"):
        answers([[]])


def test_a_refused_prompt_is_named_by_the_callers_number() -> None:
    with pytest.raises(DataError, match="prompt 1 is empty"):
        answers([[1, 2], [], [1, 2, 3]], batch_size=1)


def test_no_prompt_has_no_answer() -> None:
    assert answers([]) == []


def test_a_request_gives_the_tokens_of_its_answer_one_by_one() -> None:
    engine, options = Engine(tiny_model()), GenerateConfig(max_new_tokens=6)
    for prompt, answer in zip(PROMPTS, answers(max_new_tokens=6), strict=True):
        steps = list(engine.submit(prompt, options))
        assert [step.token_id for step in steps] == answer.ids
        assert [step.finish_reason for step in steps] == [None] * 5 + ["length"]
    assert engine.is_idle


def test_a_penalty_stops_an_answer_from_repeating_itself() -> None:
    (found,) = answers(PROMPTS[:1], max_new_tokens=30, repetition_penalty=10.0)
    assert len(set(found.ids)) > len(set(answers(PROMPTS[:1], max_new_tokens=30)[0].ids))


def test_answering_leaves_no_gradient_and_no_mode_behind() -> None:
    model = tiny_model().train()
    answers(model=model, max_new_tokens=3)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
