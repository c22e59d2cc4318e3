"""Requests that come, go and share: each answer is its answer alone, and nothing stays behind."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quatrain.config import GenerateConfig
from quatrain.errors import DataError, ResourceError
from quatrain.generate import engine as module
from quatrain.generate import request as requests_module
from quatrain.generate.engine import Engine, complete
from quatrain.generate.request import Request
from quatrain.model.llama import LlamaModel
from tiny import random_ids, tiny_config, tiny_model

OPTIONS = GenerateConfig(max_new_tokens=12)


def ids_of(length: int, seed: int = 0) -> list[int]:
    found: list[int] = random_ids(1, length, seed=seed)[0].tolist()
    return found


def finish(engine: Engine) -> None:
    while not engine.is_idle:
        engine.step()


def ids_said(request: Request) -> list[int]:
    return [step.token_id for step in request.take() if step.is_text]


def alone(model: LlamaModel, prompt: Sequence[int], options: GenerateConfig) -> list[int]:
    """Answer by full forward passes: the slow, obvious way."""
    room = min(options.max_new_tokens, model.config.max_position_embeddings - len(prompt))
    return said_alone(model, tuple(prompt), room)


@functools.cache
def said_alone(model: LlamaModel, prompt: tuple[int, ...], new: int) -> list[int]:
    if not new:
        return []
    before = said_alone(model, prompt, new - 1)
    with torch.no_grad():
        return [*before, int(model(torch.tensor([[*prompt, *before]]))[0, -1].argmax())]


def test_a_request_joins_while_others_are_answered() -> None:
    model = tiny_model()
    engine = Engine(model)
    first = engine.submit(ids_of(20), OPTIONS)
    for _ in range(3):
        engine.step()
    second = engine.submit(ids_of(9, seed=1), OPTIONS)
    finish(engine)
    assert ids_said(first) == alone(model, ids_of(20), OPTIONS)
    assert ids_said(second) == alone(model, ids_of(9, seed=1), OPTIONS)
    assert engine.store.held == 0


def test_a_long_prompt_is_read_in_pieces_while_another_one_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PIECE", 10)
    model = tiny_model()
    engine = Engine(model)
    quick = engine.submit(ids_of(4), OPTIONS)
    engine.step()
    long = engine.submit(ids_of(75, seed=1), OPTIONS)
    between = 0
    while not long.has_news:
        engine.step()
        between += 1
    assert between == 8
    assert len(ids_said(quick)) >= 8
    finish(engine)
    assert ids_said(long) == alone(model, ids_of(75, seed=1), OPTIONS)


def test_a_prompt_that_many_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = tiny_model(), ids_of(70)
    engine = Engine(model)
    read: list[int] = []
    forward = engine._forward

    def counted(pieces: Sequence[module._Piece]) -> object:
        read.extend(len(piece.ids) for piece in pieces if len(piece.ids) > 1)
        return forward(pieces)

    monkeypatch.setattr(engine, "_forward", counted)
    monkeypatch.setattr(requests_module, "Lookup", NoLookup)
    requests = [engine.submit([*prompt, number], OPTIONS) for number in range(5)]
    finish(engine)
    assert read[0] == 71
    assert all(count <= 16 for count in read[1:])
    for number, request in enumerate(requests):
        assert ids_said(request) == alone(model, [*prompt, number], OPTIONS)


class NoLookup:
    """No drafts."""

    def __init__(self, history: Sequence[int]) -> None: ...

    def draft(self, most: int) -> list[int]:
        return []

    def judge(self, drafted: int, right: int) -> None: ...


def test_candidates_read_their_prompt_once_and_differ_by_their_seed() -> None:
    options = GenerateConfig(max_new_tokens=8, temperature=2.0, candidates=3, seed=5)
    found = complete(tiny_model(), [ids_of(40)], options, [])
    one_by_one = [
        complete(tiny_model(), [ids_of(40)], options.replace(candidates=1, seed=seed), [])[0]
        for seed in (5, 6, 7)
    ]
    assert found == one_by_one
    assert len({tuple(one.ids) for one in found}) == 3


def test_a_request_gets_a_place_once_there_is_room_for_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, options, read = tiny_model(), GenerateConfig(max_new_tokens=40), list[int]()
    engine = Engine(model, kv_memory=Engine(model).store.bytes_for(250))
    forward = engine._forward

    def counted(pieces: Sequence[module._Piece]) -> object:
        read.extend(len(piece.ids) for piece in pieces)
        return forward(pieces)

    monkeypatch.setattr(engine, "_forward", counted)
    monkeypatch.setattr(requests_module, "Lookup", NoLookup)
    requests = [engine.submit(ids_of(30, seed=number), options) for number in range(4)]
    finish(engine)
    assert all(len(ids_said(request)) == 40 for request in requests)
    assert sum(read) == 4 * (30 + 39)  # nobody reads anything twice


def test_where_blocks_run_out_the_last_one_waits_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quatrain.generate.engine._TO_COME", 0)
    model = tiny_model()
    options = GenerateConfig(max_new_tokens=40)
    engine = Engine(model, kv_memory=Engine(model).store.bytes_for(150))
    prompts = [ids_of(30, seed=number) for number in range(4)]
    requests = [engine.submit(prompt, options) for prompt in prompts]
    most = 0
    while not engine.is_idle:
        engine.step()
        assert engine.store.used_bytes <= engine.kv_memory  # type: ignore[operator]
        most = max(most, engine.running)
    assert 2 <= most < 4
    for request, prompt in zip(requests, prompts, strict=True):
        assert ids_said(request) == alone(model, prompt, options)
    assert engine.store.held == 0


def test_the_bound_of_answers_side_by_side_is_an_option() -> None:
    model, prompts = tiny_model(), [ids_of(30, seed=number) for number in range(4)]
    options = GenerateConfig(max_new_tokens=40)
    need = Engine(model).store.bytes_for(30 + 40 + 1)
    bounded = complete(model, prompts, options.replace(kv_memory=f"{need}B"), ())
    assert bounded == complete(model, prompts, options, ())
    with pytest.raises(ResourceError, match=r"(?s)Q605.*Raise kv_memory"):
        complete(model, prompts, options.replace(kv_memory=f"{need - 1}B"), ())


def test_what_can_never_fit_is_refused_at_once() -> None:
    model = tiny_model()
    small = Engine(model).store.bytes_for(32)
    with pytest.raises(ResourceError, match=r"(?s)Q605.*--kv-memory"):
        Engine(model, kv_memory=small).submit(ids_of(30), OPTIONS)
    engine = Engine(model)
    engine.store.most_bytes = small
    assert len(list(engine.submit(ids_of(30), OPTIONS))) == 12


def test_a_cancelled_request_leaves_its_place_whether_it_runs_or_waits() -> None:
    model = tiny_model()
    engine = Engine(model, most_rows=1)
    running, waiting, last = (engine.submit(ids_of(9, seed=i), OPTIONS) for i in range(3))
    engine.step()
    running.cancel()
    waiting.cancel()
    told = engine.step()
    assert running in told
    assert waiting in told
    finish(engine)
    assert ids_said(last) == alone(model, ids_of(9, seed=2), OPTIONS)
    assert not ids_said(waiting)
    assert engine.store.held == 0


def test_iterating_a_cancelled_request_ends() -> None:
    request = Engine(tiny_model()).submit(ids_of(9), OPTIONS)
    next(request)
    request.cancel()
    assert list(request) == []


def test_other_threads_may_submit_and_cancel() -> None:
    model = tiny_model()
    engine, requests = Engine(model, most_rows=4), list[Request]()
    done = threading.Event()

    def ask(seed: int) -> None:
        for number in range(5):
            request = engine.submit(ids_of(5 + seed, seed=seed), OPTIONS)
            requests.append(request)
            if number % 2:
                request.cancel()

    def work() -> None:
        while not (done.is_set() and engine.is_idle):
            engine.step()

    worker = threading.Thread(target=work)
    worker.start()
    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    done.set()
    worker.join()
    assert all(request.is_finished for request in requests)
    assert engine.store.held == 0


@pytest.mark.parametrize("ids", [[], ids_of(512)])
def test_what_cannot_be_answered_is_refused(ids: list[int]) -> None:
    engine = Engine(tiny_model())
    with pytest.raises(DataError, match="Q340"):
        engine.submit(ids, OPTIONS)
    assert engine.is_idle


def test_a_first_token_waits_for_nothing_but_its_prompt() -> None:
    model = tiny_model()
    engine = Engine(model)
    first = engine.submit(ids_of(20), OPTIONS)
    engine.step()
    assert len(first.take()) == 1  # though the next one could be said in the same step
    second = engine.submit(ids_of(30), OPTIONS)
    engine.step()
    assert (len(first.take()), len(second.take())) == (1, 2)  # here the first one goes on anyway


@pytest.mark.parametrize("right", [True, False])
def test_a_draft_that_is_right_saves_steps_and_a_wrong_one_changes_nothing(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt, options = tiny_model(), ids_of(20), GenerateConfig(max_new_tokens=40)
    expected = alone(model, prompt, options)

    class Foreseeing(NoLookup):
        def __init__(self, history: list[int]) -> None:
            self.history = history

        def draft(self, most: int) -> list[int]:
            said = len(self.history) - len(prompt)
            coming = expected[said : said + min(most, 3)]
            return coming if right else [(one + 1) % 96 for one in coming]

    monkeypatch.setattr(requests_module, "Lookup", Foreseeing)
    engine, steps = Engine(model), 0
    request = engine.submit(prompt, options)
    while not engine.is_idle:
        engine.step()
        steps += 1
    assert ids_said(request) == expected
    assert steps == (11 if right else 40)  # the first step reads the prompt and says one


@pytest.mark.parametrize("options", [
    {}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.4}, {"frequency_penalty": 0.7},
    {"logprobs": 2},
])  # fmt: skip
def test_drafts_change_no_answer_whatever_the_options(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerateConfig(max_new_tokens=50, **options)
    prompts = [[5, 6, 7, 5, 6] * 6, ids_of(30), ids_of(12, seed=4) * 3]
    with_drafts = complete(tiny_model(), prompts, settings, [11, 12])
    monkeypatch.setattr(requests_module, "Lookup", NoLookup)
    without = complete(tiny_model(), prompts, settings, [11, 12])
    for one, other in zip(with_drafts, without, strict=True):
        assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
        for found, expected in zip(one.likelihoods, other.likelihoods, strict=True):
            assert found.token_id == expected.token_id
            assert found.logprob == pytest.approx(expected.logprob, abs=1e-3)


asked = st.tuples(
    st.sampled_from([1, 2, 15, 16, 17, 33, 60]),  # tokens of the prompt
    st.integers(0, 3),  # which beginning
    st.integers(1, 25),  # new tokens
    st.integers(0, 6),  # steps before the next one comes
    st.none() | st.integers(0, 20),  # steps after which it is cancelled
)


@given(st.lists(asked, min_size=1, max_size=20), st.integers(1, 8), st.booleans())
@settings(max_examples=50, deadline=None)
def test_whoever_comes_and_goes_each_answer_is_its_answer_alone(
    asked: list[tuple[int, int, int, int, int | None]], most_rows: int, scarce: bool
) -> None:
    model = MODEL
    memory = Engine(model).store.bytes_for(96) if scarce else None
    engine = Engine(model, most_rows=most_rows, kv_memory=memory)
    going: list[tuple[Request, list[int], GenerateConfig]] = []
    leaving: list[tuple[int, Request]] = []
    now = 0

    def steps(number: int) -> None:
        nonlocal now
        for _ in range(number):
            engine.step()
            now += 1
            for at, request in leaving:
                if at == now:
                    request.cancel()

    for length, beginning, new, pause, patience in asked:
        prompt, options = ids_of(64, seed=beginning)[:length], GenerateConfig(max_new_tokens=new)
        request = engine.submit(prompt, options)
        going.append((request, prompt, options))
        if patience is not None:
            leaving.append((now + patience + 1, request))
        steps(pause)
    steps(1)
    while not engine.is_idle:
        steps(1)
    for request, prompt, options in going:
        expected, said = alone(model, prompt, options), ids_said(request)
        assert said == (expected[: len(said)] if request.is_cancelled else expected)
    assert engine.store.held == 0


MODEL = tiny_model(tiny_config(n_layers=2, moe_layers=(1,), rope_layers=(1, 0)))
