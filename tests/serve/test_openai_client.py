"""The official client of OpenAI, synchronous and asynchronous, against the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from live import Live, by_rule, by_weights, serving, small
from quatrain.text.conversation import Message

QUESTION = [{"role": "user", "content": "Où est l'été ?"}]
TEXT = "L'été 👩 est là-bas. La suite."


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(by_weights(small()), by_rule(lambda prompt: TEXT)) as one:
        yield one


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.api, api_key="none", max_retries=0) as one:
        yield one


def asked(client: OpenAI, model: str = "rule", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=QUESTION, **options)  # type: ignore


def test_models_are_listed_by_name(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["small", "rule"]
    assert client.models.retrieve("rule").owned_by == "quatrain"


def test_a_chat_is_answered_whole_and_counted(client: OpenAI) -> None:
    found = asked(client)
    assert found.choices[0].message.content == TEXT
    assert (found.choices[0].finish_reason, found.model) == ("stop", "rule")
    said = len(small().tokenizer.encode(TEXT)) + 1
    prompt = small().prompt_size([Message("user", "Où est l'été ?")])
    usage = found.usage
    counted = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    assert counted == (prompt, said, prompt + said)


def test_a_stream_is_the_same_text_in_pieces(client: OpenAI) -> None:
    chunks = list(asked(client, stream=True, stream_options={"include_usage": True}))
    *said, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in said) == TEXT
    assert said[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in said][-1] == "stop"
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in said)
    assert last.choices == []
    assert last.usage == asked(client).usage
    assert {c.id for c in chunks} == {last.id}
    assert asked(client, stream=True).__class__.__name__ == "Stream"
    assert all(c.usage is None for c in asked(client, stream=True))


@pytest.mark.parametrize("stop", ["là", [". La s", "jamais"], ["é"], "L'", " "])
def test_an_answer_ends_before_a_stop_string_of_which_nothing_is_shown(
    client: OpenAI, stop: Any
) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    expected = min((TEXT.partition(one)[0] for one in stops), key=len)
    whole = asked(client, stop=stop, logprobs=True).choices[0]
    chunks = list(asked(client, stop=stop, stream=True, logprobs=True))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert whole.message.content == streamed == expected
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "stop"
    tokens = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert tokens == whole.logprobs.content


def test_log_probabilities_name_each_token_of_the_text(client: OpenAI) -> None:
    found = asked(client, "small", logprobs=True, top_logprobs=3, max_tokens=6).choices[0]
    answer = small().reply([Message("user", "Où est l'été ?")], max_new_tokens=6, logprobs=3)
    assert answer.logprobs is not None
    for token, ours in zip(found.logprobs.content, answer.logprobs, strict=True):
        assert (token.token, bytes(token.bytes)) == (ours.text, ours.bytes)
        assert token.logprob == pytest.approx(ours.logprob, abs=1e-4)
        assert [t.token for t in token.top_logprobs] == [t.text for t in ours.top]


def test_answers_are_those_of_ask(client: OpenAI) -> None:
    for number in range(5):
        content = f"Combien font {number} et 30 ?"
        found = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": content}], max_tokens=12
        )
        ours = small().answer(content, max_new_tokens=12)
        assert found.choices[0].message.content == ours
        assert found.usage
        assert found.usage.completion_tokens == ours.completion_tokens


def test_a_seed_repeats_an_answer_and_several_have_the_next_seeds(client: OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "max_tokens": 8}
    found = asked(client, "small", seed=3, n=3, **options)
    said = [one.message.content for one in found.choices]
    ours = [
        small().reply(
            [Message("user", "Où est l'été ?")], max_new_tokens=8, temperature=1.5, seed=s
        )
        for s in (3, 4, 5)
    ]
    assert said == ours
    assert len(set(said)) == 3
    assert [one.index for one in found.choices] == [0, 1, 2]
    texts = {0: "", 1: "", 2: ""}
    for chunk in asked(client, "small", seed=3, n=3, stream=True, **options):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == said
    without = {asked(client, "small", **options).choices[0].message.content for _ in range(4)}
    assert len(without) > 1
    assert asked(client, "small", seed=-1, **options).choices[0].message.content


def test_max_tokens_ends_an_answer_and_says_so(client: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        found = asked(client, **{name: 3})
        assert found.choices[0].finish_reason == "length"
        assert found.usage.completion_tokens == 3


def test_roles_and_parts_of_text_are_read(client: OpenAI, live: Live) -> None:
    parts = [{"type": "text", "text": "Où "}, {"type": "text", "text": "est l'été ?"}]
    said: Any = [
        {"role": "developer", "content": "Sois bref."},
        {"role": "user", "content": "Combien ?"},
        {"role": "assistant", "content": "12"},
        {"role": "user", "content": parts},
    ]
    found = client.chat.completions.create(model="rule", messages=said)
    expected = small().prompt_size([
        Message("system", "Sois bref."), Message("user", "Combien ?"), Message("assistant", "12"),
        Message("user", "Où est l'été ?"),
    ])  # fmt: skip
    assert found.usage
    assert found.usage.prompt_tokens == expected


def test_texts_are_continued(client: OpenAI) -> None:
    found = client.completions.create(
        model="small", prompt="Le mot secret", max_tokens=5, logprobs=2
    )
    assert len(found.choices[0].logprobs.tokens) == 5  # type: ignore[union-attr]
    unsaid = client.completions.create(model="small", prompt="Le mot secret")
    longer = client.completions.create(model="small", prompt="Le mot secret", max_tokens=17)
    assert longer.choices[0].text.startswith(unsaid.choices[0].text)
    assert (unsaid.usage.completion_tokens, longer.usage.completion_tokens) == (16, 17)
    both = client.completions.create(model="small", prompt=["Le mot secret", "Où"], max_tokens=5)
    assert both.choices[0].text == found.choices[0].text
    assert [one.index for one in both.choices] == [0, 1]
    ids = [small().tokenizer.control_id("<|begin_of_text|>"), *small().tokenizer.encode("Où")]
    as_ids = client.completions.create(model="small", prompt=ids, max_tokens=5)
    assert as_ids.choices[0].text == both.choices[1].text
    chunks = client.completions.create(model="small", prompt="Où", max_tokens=5, stream=True)
    assert "".join(c.choices[0].text for c in chunks) == both.choices[1].text


def test_responses_are_given_whole_and_as_events(client: OpenAI) -> None:
    whole = client.responses.create(model="rule", input="Où ?", instructions="Sois bref.")
    assert (whole.output_text, whole.status) == (TEXT, "completed")
    cut = client.responses.create(model="rule", input=QUESTION, max_output_tokens=3)  # type: ignore
    assert cut.status == "incomplete"
    assert cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model="rule", input="Où ?", stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == TEXT
    with client.responses.stream(model="rule", input="Où ?") as stream:
        assert stream.get_final_response().output_text == TEXT
    likely = client.responses.create(
        model="rule", input="Où ?", top_logprobs=2, include=["message.output_text.logprobs"]
    )
    assert likely.output[0].content[0].logprobs  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("options", "error", "param", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": -1}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"temperature": "warm"}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"n": 9}, openai.BadRequestError, "n", "invalid_value"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**30}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"stop": ["a"] * 9}, openai.BadRequestError, "stop", "invalid_value"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs", "invalid_value"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools",
         "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format",
         "unsupported_parameter"),
        ({"logit_bias": {"5": 10}}, openai.BadRequestError, "logit_bias", "unsupported_parameter"),
        ({"messages": []}, openai.BadRequestError, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "a"}]}, openai.BadRequestError,
         "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         openai.BadRequestError, "messages[0].content[0].type", "invalid_value"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "a"}]}, openai.BadRequestError,
         "messages", "Q309"),
        ({"messages": [{"role": "user", "content": "mot " * 600}]}, openai.BadRequestError,
         "messages", "context_length_exceeded"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streams", [False, True])
def test_what_cannot_be_answered_is_refused_with_its_field(
    client: OpenAI, options: dict[str, Any], error: Any, param: str, code: str, streams: bool
) -> None:
    asking: Any = {"model": "rule", "messages": QUESTION, "stream": streams, **options}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**asking)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id.startswith("req_")
    assert len(caught.value.message) < 500


def test_unknown_fields_are_ignored(client: OpenAI) -> None:
    more = {"user": "me", "store": True, "metadata": {"a": "b"}, "nothing_known": [1, {}]}
    assert asked(client, extra_body=more).choices[0].message.content == TEXT


def test_an_error_speaks_the_language_that_is_asked_for(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Aucun modèle de ce nom"):
        asked(client, "other", extra_headers={"accept-language": "fr-CA,fr;q=0.9,en;q=0.8"})
    with pytest.raises(openai.NotFoundError, match="No model of that name"):
        asked(client, "other")


def test_a_client_that_loses_patience_frees_its_place() -> None:
    with serving(by_rule(lambda prompt: TEXT, seconds=0.25)) as slow:
        with OpenAI(base_url=slow.api, api_key="none", max_retries=0, timeout=0.1) as client:
            for streams in (False, True):
                with pytest.raises(openai.APITimeoutError):
                    asked(client, stream=streams)
                assert slow.quiet(5)
            stream = asked(client, stream=True, timeout=5)
            next(iter(stream))
            stream.close()
            assert slow.quiet(5)


def test_an_error_in_a_stream_reaches_the_client(live: Live) -> None:
    with serving(by_rule(lambda prompt: TEXT, seconds=0.02)) as broken:
        with OpenAI(base_url=broken.api, api_key="none", max_retries=0) as client:
            stream = iter(asked(client, stream=True))
            next(stream)
            broken.service.models["rule"].engine.rows[0].steps.clear()  # the next step fails
            with pytest.raises(openai.APIError, match="Something went wrong on the server"):
                list(stream)
            assert asked(client).choices[0].message.content == TEXT


def test_many_ask_at_once_from_one_loop(live: Live) -> None:
    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=live.api, api_key="none") as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(
                    model="small", stream=True, max_tokens=6,
                    messages=[{"role": "user", "content": f"Combien font {number} ?"}],
                )  # fmt: skip
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, range(20)))

    expected = [str(small().answer(f"Combien font {n} ?", max_new_tokens=6)) for n in range(20)]
    assert asyncio.run(all_of_them()) == expected


def test_the_raw_answer_is_utf8_and_ends_with_done(live: Live, client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="rule",
        messages=QUESTION,
        stream=True,  # type: ignore[arg-type]
    ) as response:
        raw = b"".join(response.iter_bytes())
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert raw.endswith(b"\n\ndata: [DONE]\n\n")
    assert "été".encode() in raw
    assert all(json.loads(line[6:]) for line in raw.split(b"\n\n")[:-2])
