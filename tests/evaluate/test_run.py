"""Evaluation: the loss does not depend on the layout of rows, and nothing else changes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from quatrain.config import GenerateConfig
from quatrain.errors import NonFiniteError
from quatrain.evaluate.run import (
    examine,
    grade,
    held_out_loss,
    padded_batches,
    scores_by,
    total_score,
)
from quatrain.evaluate.score import Score
from quatrain.generate.answer import Answerer
from quatrain.text.chat import LLAMA4, Encoded
from quatrain.text.conversation import Conversation, Message
from quatrain.text.tokenizer import SimpleCharTokenizer
from tiny import random_ids, tiny_config, tiny_model


@dataclass
class Rows:
    ids: Any
    mask: Any
    segments: list[list[int]]


def encodings(lengths: tuple[int, ...] = (9, 30, 4, 17, 2)) -> list[Encoded]:
    """The last half of each is to be learnt."""
    return [
        Encoded(random_ids(1, n, seed=n)[0].tolist(), [i >= n // 2 and i > 0 for i in range(n)])
        for n in lengths
    ]


def packed(encoded: list[Encoded], padding: int = 5) -> Rows:
    """All in one row, with some padding."""
    ids = np.concatenate([one.ids for one in encoded] + [np.zeros(padding, np.int64)])
    mask = np.concatenate([one.mask for one in encoded] + [np.zeros(padding, bool)])
    return Rows(ids[None], mask[None], [[len(one.ids) for one in encoded]])


def test_padded_and_packed_rows_have_the_same_loss() -> None:
    model, encoded = tiny_model(), encodings()
    padded_loss, padded_count = held_out_loss(model, padded_batches(encoded))
    packed_loss, packed_count = held_out_loss(model, [packed(encoded)])
    assert padded_count == packed_count == sum(sum(one.mask) for one in encoded)
    assert padded_loss == pytest.approx(packed_loss, rel=1e-5)  # float32 sums in another order


def test_the_mean_is_over_tokens_and_not_over_batches() -> None:
    model, encoded = tiny_model(), encodings()
    whole = held_out_loss(model, padded_batches(encoded))
    parts = [held_out_loss(model, padded_batches([one])) for one in encoded]
    total, count = sum(loss * n for loss, n in parts), sum(n for _, n in parts)
    assert whole == (pytest.approx(total / count, rel=1e-5), count)


def test_nothing_to_judge_has_loss_0_of_0_tokens() -> None:
    assert held_out_loss(tiny_model(), []) == (0.0, 0)


def test_padded_batches_hold_each_encoding_once_and_some_4096_tokens() -> None:
    lengths = (50, 900, 1000, 3000, 4000, 5000)
    batches = list(padded_batches(encodings(lengths)))
    assert [n for b in batches for row in b.segments for n in row] == list(lengths)
    assert all(b.ids.size <= 4096 or len(b.ids) == 1 for b in batches)


SENTENCES = ["Où est Nîmes ?", "Qui est Molière ?", "Oui.", "Non."]


@functools.cache
def tokenizer() -> SimpleCharTokenizer:
    return SimpleCharTokenizer(SENTENCES)


def answerer(**changes: object) -> Answerer:
    model = tiny_model(tiny_config(vocab_size=tokenizer().vocab_size, **changes))
    return Answerer.of(model, tokenizer(), LLAMA4)


def asked() -> list[Conversation]:
    return [
        Conversation(
            messages=(Message("user", question), Message("assistant", "Oui.")),
            answers=("Oui.",),
            group=question,
            source="here:1",
            fields={"theme": theme},
        )
        for question, theme in (("Où est Nîmes ?", "lieux"), ("Qui est Molière ?", "gens"))
    ]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_no_weight_no_mode_no_gradient_and_no_global_generator(
    training: bool,
) -> None:
    judge = answerer()
    judge.model.train(training)
    before = {name: value.clone() for name, value in judge.model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    ids = tokenizer().encode("Où est Nîmes ?")
    held_out_loss(judge.model, padded_batches([Encoded(ids, [False] + [True] * (len(ids) - 1))]))
    grade(judge, asked(), GenerateConfig(max_new_tokens=4, temperature=1.0))
    assert judge.model.training is training
    assert all(torch.equal(value, before[name]) for name, value in judge.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in judge.model.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_the_mode_is_restored_when_evaluation_fails() -> None:
    model = tiny_model().train()
    seen = []

    def fail() -> Iterator[Rows]:
        seen.append((model.training, torch.is_grad_enabled()))
        raise RuntimeError("broken")
        yield

    with pytest.raises(RuntimeError, match="broken"):
        held_out_loss(model, fail())
    assert seen == [(False, False)]
    assert model.training
    assert torch.is_grad_enabled()


def with_a_long_question() -> list[Conversation]:
    """The gold answer has no token left after normalising, as has an empty answer."""
    messages = (Message("user", "Où est Nîmes ? " * 20), Message("assistant", "Oui."))
    long = Conversation(messages, ("?",), "long", "here:7", {"theme": "lieux"})
    return [asked()[0], long, asked()[1]]


def test_a_question_that_fills_the_context_scores_0_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = answerer(max_position_embeddings=64)
    options = GenerateConfig(max_new_tokens=4)
    graded = grade(small, with_a_long_question(), options)
    assert [g.finish_reason for g in graded] == ["length", "too_long", "length"]
    assert (graded[1].answer, graded[1].exact_match, graded[1].f1) == ("", 0.0, 0.0)
    assert [graded[0], graded[2]] == grade(small, asked(), options)
    assert total_score([graded[1]]) == scores_by([graded[1]], "theme")["lieux"] == Score(1, 0, 0)
    assert re.search(
        r"1 of 3 questions .* \(63 tokens at most\) .*: here:7 \(\d+ tokens\)", caplog.text
    )


def test_an_exam_leaves_what_fills_the_context_out_of_its_loss(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = answerer(max_position_embeddings=64)
    options = GenerateConfig(max_new_tokens=4)
    found = examine(small, with_a_long_question(), options, by="theme")
    assert (found["count"], found["too_long"]) == (3, 1)
    assert found["loss"] == examine(small, asked(), options)["loss"]
    assert found["by"]["lieux"]["count"] == 2
    assert "1 of 3 conversations" in caplog.text


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"held-out loss is nan .* must be finite") as caught:
        held_out_loss(model, padded_batches(encodings()))
    assert caught.value.code == "Q502"


def test_answers_are_graded_in_the_order_of_the_questions() -> None:
    graded = grade(answerer(), asked(), GenerateConfig(max_new_tokens=4))
    assert [g.question for g in graded] == ["Où est Nîmes ?", "Qui est Molière ?"]
    assert [g.finish_reason for g in graded] == ["length", "length"]
    assert total_score(graded).count == 2
    assert set(scores_by(graded, "theme")) == {"lieux", "gens"}
