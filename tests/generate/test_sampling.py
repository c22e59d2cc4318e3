"""How a token is drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from quatrain.config import GenerateConfig
from quatrain.generate.sampling import choose, discourage, generator, keep_likely, penalise

LOG = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None]
"""Logits whose probabilities are 0.5, 0.3, 0.15, 0.05."""


def draws_of(config: GenerateConfig, rows: int) -> list[torch.Generator]:
    return [generator(config) for _ in range(rows)]


def drawn(logits: Tensor, times: int = 1, **options: object) -> list[int]:
    config = GenerateConfig(**options)
    draws = [generator(config) for _ in logits]
    return [int(choose(logits, config, [[]] * len(logits), draws)[0]) for _ in range(times)]


def test_temperature_0_takes_the_most_likely() -> None:
    assert drawn(torch.tensor([[0.1, 3.0, 2.9]])) == [1]


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [(1, [1, 0, 0, 0]), (2, [0.625, 0.375, 0, 0]), (4, [0.5, 0.3, 0.15, 0.05]), (9, None)],
)
def test_top_k_keeps_the_k_best_and_shares_the_rest_among_them(
    top_k: int, expected: list[float] | None
) -> None:
    found = keep_likely(LOG, top_k, 1.0)[0]
    assert_close(found, torch.tensor(expected or [0.5, 0.3, 0.15, 0.05], dtype=torch.float32))


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [1, 0, 0, 0]),  # one token at least
        (0.49, [1, 0, 0, 0]),
        (0.51, [0.625, 0.375, 0, 0]),
        (0.81, [0.5263, 0.3158, 0.1579, 0]),
        (1.0, [0.5, 0.3, 0.15, 0.05]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: list[float]) -> None:
    found = keep_likely(LOG, None, top_p)[0]
    assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


def test_top_k_is_applied_before_top_p() -> None:
    # of 0.625 and 0.375 the first alone reaches 0.6; of all four it would take two
    assert_close(keep_likely(LOG, 2, 0.6)[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_the_order_of_the_vocabulary_does_not_matter() -> None:
    shuffled = LOG[:, [2, 0, 3, 1]]
    assert_close(keep_likely(shuffled, None, 0.51)[0], torch.tensor([0.0, 0.625, 0.0, 0.375]))


def test_a_tie_beyond_k_is_left_out() -> None:
    assert_close(keep_likely(torch.zeros(1, 3), 2, 1.0)[0], torch.tensor([0.5, 0.5, 0.0]))


def test_the_penalty_lowers_positive_and_negative_logits_of_ids_already_there() -> None:
    logits = torch.tensor([[2.0, -2.0, 4.0, 0.0]])
    assert penalise(logits, [[0, 1, 3, 1]], 2.0).tolist() == [[1.0, -4.0, 4.0, 0.0]]
    assert logits.tolist() == [[2.0, -2.0, 4.0, 0.0]]


def test_the_penalty_is_of_each_row() -> None:
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    config = GenerateConfig(repetition_penalty=4.0)
    assert choose(logits, config, [[0], [1]], draws_of(config, 2)).tolist() == [1, 0]


def test_frequencies_of_draws_are_the_probabilities() -> None:
    found = torch.tensor(drawn(LOG, 4000, temperature=1.0)).bincount(minlength=4) / 4000
    # four standard deviations of a share near a half among 4000 draws
    assert_close(found, LOG.exp()[0], atol=0.032, rtol=0)


def test_a_token_that_was_sorted_out_is_never_drawn() -> None:
    assert set(drawn(LOG, 300, temperature=1.0, top_k=2)) == {0, 1}


def test_temperature_divides_the_logits() -> None:
    # at 0.5 probabilities are squared: 0.25 against 0.09 gives 0.735
    logits = torch.tensor([[0.5, 0.3]]).log()
    share = drawn(logits, 4000, temperature=0.5).count(0) / 4000
    assert abs(share - 0.735) < 0.028  # four standard deviations


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-45, 5e-324])
def test_a_temperature_next_to_0_is_greedy(temperature: float) -> None:
    assert drawn(torch.tensor([[90.0, 100.0, -100.0]]), temperature=temperature) == [1]


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    flat = torch.zeros(1, 1000)
    first, again, other = (drawn(flat, 5, temperature=1.0, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_row_draws_what_it_would_draw_alone() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    config = GenerateConfig(temperature=1.0, seed=5)
    together = choose(logits, config, [[]] * 3, draws_of(config, 3)).tolist()
    alone = [drawn(row[None], temperature=1.0, seed=5)[0] for row in logits]
    assert together == alone


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    drawn(LOG, 5, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_logits_are_widened() -> None:
    assert drawn(LOG.bfloat16(), temperature=1.0, top_k=1) == [0]


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [
        (0.0, [0.5, 0.3, 0.15, 0.05]),
        (0.25, [0.5263, 0.3158, 0.1579, 0]),  # at least 0.125
        (0.5, [0.625, 0.375, 0, 0]),
        (1.0, [1, 0, 0, 0]),
    ],
)
def test_min_p_keeps_what_is_likely_beside_the_likeliest(
    min_p: float, expected: list[float]
) -> None:
    found = keep_likely(LOG, None, 1.0, min_p)[0]
    assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 7])
@pytest.mark.parametrize("top_p", [0.8, 1.0])
@pytest.mark.parametrize("min_p", [0.05, 0.3])
def test_top_k_top_p_and_min_p_agree_with_transformers(
    temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = 3 * torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    theirs = process.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        theirs = process.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = process.TopPLogitsWarper(top_p)(None, theirs)
    theirs = process.MinPLogitsWarper(min_p)(None, theirs)
    ours = keep_likely(logits / temperature, top_k, top_p, min_p)
    assert_close(ours, theirs.softmax(-1))


def test_min_p_is_applied_after_temperature() -> None:
    # 0.3 is 0.6 of 0.5, but at temperature 0.5 only 0.36 of it
    assert set(drawn(LOG, 200, temperature=1.0, min_p=0.5)) == {0, 1}
    assert set(drawn(LOG, 200, temperature=0.5, min_p=0.5)) == {0}


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    found = discourage(logits, [[3, 1, 3, 3], []], presence=0.5, frequency=0.25)
    assert found.tolist() == [[1.0, 1.25, 3.0, 2.75], [1.0, 2.0, 3.0, 4.0]]
    assert logits.tolist() == [[1.0, 2.0, 3.0, 4.0]] * 2


@pytest.mark.parametrize(
    ("name", "expected"), [("presence_penalty", [1, 0]), ("frequency_penalty", [1, 0])]
)
def test_only_the_answer_is_discouraged_not_the_prompt(name: str, expected: list[int]) -> None:
    logits = torch.tensor([[2.0, 1.5], [2.0, 1.5]])
    config = GenerateConfig(**{name: 1.0})
    draws = draws_of(config, 2)
    assert choose(logits, config, [[0], [0]], draws, [[0], []]).tolist() == expected


def test_a_negative_penalty_encourages() -> None:
    config = GenerateConfig(frequency_penalty=-1.0)
    logits = torch.tensor([[2.0, 1.5]])
    assert choose(logits, config, [[1]], draws_of(config, 1), [[1]]).tolist() == [1]


@pytest.mark.parametrize(
    "wrong",
    [{"min_p": -0.1}, {"min_p": 1.1}, {"presence_penalty": 2.1}, {"frequency_penalty": -2.1},
     {"logprobs": -1}, {"logprobs": 21}],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=name):
        GenerateConfig(**wrong)
