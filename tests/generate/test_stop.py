"""Answers that end at a stop string, and the log-probabilities of their tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.config import GenerateConfig
from quatrain.generate.abstain import log_p_of
from quatrain.generate.answer import Answer, Answerer
from quatrain.generate.engine import Engine, complete
from quatrain.generate.lookup import Lookup
from quatrain.text.abstention import Abstention
from quatrain.text.chat import LLAMA4
from quatrain.text.conversation import Message
from quatrain.text.tokenizer import train_bpe
from tiny import random_ids, tiny_config, tiny_model

ASKED = [Message("user", "Où ?")]
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (5, 9, 1)]
NONE = "Sans réponse."


@functools.cache
def speaker() -> Answerer:
    tokenizer = train_bpe(["La fin. La suite.", NONE], 310)
    model = tiny_model(tiny_config(vocab_size=tokenizer.vocab_size))
    return Answerer.of(model, tokenizer, LLAMA4)


@contextmanager
def saying(text: str) -> Iterator[Answerer]:
    """Let the model say a text and the end of turn, whatever is asked, once."""
    one = speaker()
    said = iter([*one.tokenizer.encode(text), one.tokenizer.control_id("<|eot|>")])

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(states), one.tokenizer.vocab_size), -50.0)
        logits[:, next(said)] = 50.0
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.model.lm_head, "forward", head)
        patch.setattr(Lookup, "draft", lambda *_: [])  # a draft would take the next tokens at once
        yield one


def answered(text: str, **options: Any) -> Answer:
    """Answer at once and as a stream, and compare the two."""
    with saying(text) as one:
        whole = one.reply(ASKED, **options)
    with saying(text) as one:
        *pieces, last = one.stream(ASKED, **options)
    assert isinstance(last, Answer)
    assert "".join(map(str, pieces)) == last == whole
    assert vars(last) == vars(whole)
    return whole


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("fin",), "La "),
        ("i", "La f"),  # in the middle of a token
        (". La s", "La fin"),  # over several tokens
        (("suite", "fin"), "La "),
        (("La",), ""),
        (("jamais",), "La fin. La suite."),
    ],
)
def test_an_answer_ends_before_its_first_stop_string(stop: Any, expected: str) -> None:
    answer = answered("La fin. La suite.", stop=stop)
    assert answer == expected
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("stop", ["é", "👩", "漢"])
def test_a_character_of_several_tokens_may_stop_an_answer(stop: str) -> None:
    assert answered("à é漢 👩 ù", stop=stop) == "à é漢 👩 ù".split(stop)[0]
    assert answered("à é漢 👩 ù", stop="\u00c3") == "à é漢 👩 ù"


def test_what_was_generated_is_counted_and_nothing_more_is_generated() -> None:
    ids = speaker().tokenizer.encode("La fin")
    with saying("La fin. La suite.") as one:
        answer = one.reply(ASKED, stop="fin")
        assert answer.completion_tokens == len(ids)
        said = one.model.lm_head(torch.zeros(1, 1)).argmax().item()  # what would come next
    assert said == one.tokenizer.encode("La fin. La suite.")[len(ids)]


def test_what_only_looked_like_a_stop_string_is_let_go_at_the_end() -> None:
    with saying("La fin") as one:
        *pieces, last = one.stream(ASKED, stop="fini")
    assert "fin" in "".join(map(str, pieces[-1:]))
    assert (last, last.finish_reason) == ("La fin", "stop")  # type: ignore[union-attr]
    ids = speaker().tokenizer.encode("La fin")
    cut = answered("La fin. La suite.", stop="fini", max_new_tokens=len(ids))
    assert (cut, cut.finish_reason, cut.completion_tokens) == ("La fin", "length", len(ids))


def test_a_stop_string_that_another_might_precede_counts_at_the_end() -> None:
    answer = answered("La fin", stop=["a f", "La fini"], max_new_tokens=len("La fin"))
    assert (answer, answer.finish_reason) == ("L", "stop")


@given(
    st.text("La finé👩\n", max_size=8),
    st.lists(st.text("La finé👩\n", min_size=1, max_size=3), max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_streamed_or_not_an_answer_is_its_text_up_to_the_first_stop_string(
    text: str, stops: list[str]
) -> None:
    cut = text[: min((text.index(stop) for stop in stops if stop in text), default=None)]
    assert answered(text, stop=stops) == cut


def test_a_row_that_a_watch_ends_leaves_the_others_as_they_were() -> None:
    model, options = tiny_model(), GenerateConfig(max_new_tokens=12, temperature=1.0, seed=2)
    whole = complete(model, PROMPTS, options, [])
    last = {found.ids[number + 2] for number, found in enumerate(whole[:2])}
    ended = complete(model, PROMPTS, options, [], lambda: last.__contains__)
    for before, after in zip(whole, ended, strict=True):
        ends = next((i for i, one in enumerate(before.ids) if one in last), None)
        assert after.ids == before.ids[: None if ends is None else ends + 1]
        assert (after.finish_reason == "stop") == after.by_text == (ends is not None)
        assert after.num_generated == len(after.ids)


def test_what_has_begun_of_an_answer_is_watched_and_discouraged() -> None:
    model, options = tiny_model(), GenerateConfig(max_new_tokens=1)
    engine = Engine(model)
    [step] = engine.submit(PROMPTS[0], options)
    seen: list[int] = []
    prompt = [*PROMPTS[0], step.token_id, step.token_id]
    list(engine.submit(prompt, options, [], lambda: lambda i: bool(seen.append(i)), begun=2))
    assert seen[:2] == [step.token_id] * 2
    assert len(seen) == 3
    penalties = options.replace(max_new_tokens=30, frequency_penalty=2.0)
    repeated = complete(model, PROMPTS[:1], options.replace(max_new_tokens=30), [])[0]
    assert len(set(complete(model, PROMPTS[:1], penalties, [])[0].ids)) > len(set(repeated.ids))


def test_the_sentence_for_no_answer_and_its_alternatives_end_at_stop_strings() -> None:
    one = speaker()
    try:
        for threshold, abstained in ((-1e9, True), (1e9, False)):
            one.abstention = Abstention(no_answer=NONE, threshold=threshold)
            options = GenerateConfig(stop=("r", "e"), max_new_tokens=6, logprobs=1)
            [answer] = one.replies([ASKED], options)
            assert answer.abstained == abstained
            assert {*answer}.isdisjoint("re")
            assert abstained == (answer == "Sans ")
            assert answer.logprobs is not None
            [other] = one.alternatives([ASKED], options, one.abstention)
            assert {*other}.isdisjoint("re")
            assert len(other.logprobs or ()) <= other.completion_tokens
    finally:
        one.abstention = None


def _by_hand(one: Answerer, prompt: Sequence[int], ids: Sequence[int]) -> torch.Tensor:
    [(_, log_p_LV)] = log_p_of(one.model, [prompt], [ids])
    return log_p_LV


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 3.0, "top_k": 50, "repetition_penalty": 2.0, "seed": 1}]
)
def test_log_probabilities_are_the_models_own_whatever_the_options(options: dict[str, Any]) -> None:
    one = speaker()
    answer = one.reply(ASKED, max_new_tokens=8, logprobs=3, **options)
    assert answer.logprobs is not None
    ids = [token.id for token in answer.logprobs]
    prompt = one.chat.encode_prompt(ASKED, one.tokenizer)
    for token, log_p_V in zip(answer.logprobs, _by_hand(one, prompt, ids), strict=True):
        # the cache and the whole row add in different orders
        assert math.isclose(token.logprob, log_p_V[token.id], abs_tol=1e-4)
        expected = log_p_V.topk(3)
        assert [other.id for other in token.top] == expected.indices.tolist()
        assert [other.logprob for other in token.top] == pytest.approx(
            expected.values.tolist(), abs=1e-4
        )
    assert b"".join(t.bytes for t in answer.logprobs if t.id not in one.tokenizer.control_ids)
    plain = one.reply(ASKED, max_new_tokens=8, **options)
    assert (plain, plain.logprobs) == (answer, None)
    *_, streamed = one.stream(ASKED, max_new_tokens=8, logprobs=3, **options)
    assert isinstance(streamed, Answer)
    assert streamed.logprobs == answer.logprobs


def test_nothing_is_computed_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quatrain.generate.engine.likelihoods", None)
    [found] = complete(tiny_model(), PROMPTS[:1], GenerateConfig(max_new_tokens=3), [])
    assert found.likelihoods == []


def test_log_probabilities_are_of_the_tokens_of_the_text() -> None:
    answer = answered("La fin 👩. La suite.", stop=". ", logprobs=0)
    assert answer.logprobs is not None
    assert b"".join(token.bytes for token in answer.logprobs) == "La fin 👩".encode()
    assert "\ufffd" in {token.text for token in answer.logprobs}
    assert all(token.top == () for token in answer.logprobs)
    ended = answered("La", logprobs=2)
    assert [token.top[0].text for token in ended.logprobs or ()] == ["La"]


def test_candidates_keep_the_log_probabilities_of_the_chosen_one() -> None:
    options = dict(candidates=3, temperature=1.5, max_new_tokens=4)
    answer = speaker().reply(ASKED, logprobs=0, **options)
    assert len(answer.logprobs or ()) + (answer.finish_reason == "stop") == (
        answer.completion_tokens
    )


def test_one_conversation_at_a_time_may_have_its_own_seed() -> None:
    one, options = speaker(), GenerateConfig(temperature=1.5, max_new_tokens=6, seed=3)
    together = one.replies([ASKED, ASKED], options)
    alone = [one.replies([ASKED], options.replace(seed=seed))[0] for seed in (3, 4)]
    assert together[0] == together[1] == alone[0] != alone[1]
