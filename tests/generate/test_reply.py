"""Replies: the same answers whoever drives the engine, side by side and with abstention."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from quatrain.config import GenerateConfig
from quatrain.generate.answer import Answer, Answerer, Piece
from quatrain.generate.engine import Engine
from quatrain.generate.reply import Said
from quatrain.text.abstention import Abstention
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Message
from quatrain.text.tokenizer import train_bpe
from tiny import tiny_config, tiny_model

NONE = "Sans réponse."
ASKED = [[Message("user", text)] for text in ("Où ?", "Qui est là ?", "Combien font 3 et 4 ?")]


@functools.cache
def speaker() -> Answerer:
    tokenizer = train_bpe(["Où est la fin. Combien ?", NONE], 310)
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size)).eval()
    return Answerer.of(model, tokenizer, LLAMA4)


@pytest.fixture(params=["none", "model", "always", "never", "between"])
def abstaining(request: pytest.FixtureRequest) -> Iterator[Answerer]:
    one = speaker()
    scores = sorted(s for s in one.abstention_scores(ASKED, NONE) if s is not None)
    threshold = {"always": -1e9, "never": 1e9, "between": (scores[0] + scores[1]) / 2}
    if request.param != "none":
        one.abstention = Abstention(no_answer=NONE, threshold=threshold.get(request.param))
    yield one
    one.abstention = None


def side_by_side(one: Answerer, options: GenerateConfig) -> tuple[list[list[Piece]], list[Answer]]:
    """Answer all questions on one engine, as a server does."""
    engine, replier = Engine(one.model, most_rows=2), one.replier()
    prompts = list(map(one.voice.prompt, ASKED))
    going: dict[int, Iterator[Said]] = {
        number: replier.reply(engine, prompt, options, replier.score(prompt))
        for number, prompt in enumerate(prompts)
    }
    pieces, answers = [list[Piece]() for _ in prompts], dict[int, Answer]()
    while going:
        for number, reply in list(going.items()):
            for said in reply:
                if said is None:
                    break
                if isinstance(said, Answer):
                    answers[number] = said
                else:
                    pieces[number].append(said)
            else:
                del going[number]
        engine.step()
    assert engine.is_idle
    return pieces, [answers[number] for number in range(len(prompts))]


@pytest.mark.parametrize("options", [
    {}, {"stop": ("e", "é")}, {"logprobs": 2}, {"temperature": 1.5, "seed": 3},
    {"stop": ("n", ". L"), "logprobs": 0, "temperature": 1.2, "top_k": 40},
])  # fmt: skip
def test_replies_side_by_side_are_those_of_a_batch(
    abstaining: Answerer, options: dict[str, Any]
) -> None:
    settings = GenerateConfig(max_new_tokens=12, **options)
    expected = abstaining.replies(ASKED, settings)
    pieces, answers = side_by_side(abstaining, settings)
    assert answers == expected
    for said, answer, ours in zip(pieces, answers, expected, strict=True):
        assert "".join(said) == answer
        assert (answer.finish_reason, answer.completion_tokens, answer.abstained) == (
            ours.finish_reason, ours.completion_tokens, ours.abstained,
        )  # fmt: skip
        tokens = [token for piece in said for token in piece.logprobs]
        assert tokens == (answer.logprobs or [])
        assert [token.id for token in tokens] == [token.id for token in ours.logprobs or []]


def test_a_sentence_that_is_forbidden_is_never_shown_in_part() -> None:
    one = speaker()
    one.abstention = Abstention(no_answer=NONE, threshold=1e9)
    try:
        _, plain = side_by_side(one, GenerateConfig(max_new_tokens=12))
        # Whatever it says is now its sentence for no answer: something else must be said.
        one.abstention = Abstention(no_answer=str(plain[0]).strip(), threshold=1e9)
        pieces, answers = side_by_side(one, GenerateConfig(max_new_tokens=12))
        assert answers[0] != plain[0]
        assert pieces[0] == [answers[0]]
    finally:
        one.abstention = None


def test_a_reply_that_is_given_up_frees_its_place() -> None:
    one, engine = speaker(), Engine(speaker().model)
    reply = one.replier().reply(engine, one.voice.prompt(ASKED[0]), GenerateConfig())
    assert next(reply) is None
    engine.step()
    assert engine.running == 1
    reply.close()  # type: ignore[attr-defined]
    engine.step()
    assert engine.is_idle


def test_pieces_added_keep_their_tokens() -> None:
    one = speaker()
    answer = one.reply(ASKED[0], max_new_tokens=3, logprobs=1)
    assert answer.logprobs is not None
    whole = functools.reduce(
        lambda left, right: left + right,
        [Piece.of(token.text, [token]) for token in answer.logprobs],
    )
    assert isinstance(whole, Piece)
    assert list(whole.logprobs) == answer.logprobs
