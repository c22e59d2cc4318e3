"""Programs that people have already: LangChain, LiteLLM, llm, curl, and what Open WebUI sends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from live import Live, by_rule, serving
from quatrain.serve.guard import Rules, hashed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs
]
KEY, TEXT = "sk-key", "L'été 👩 est là-bas."
CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    rules = Rules(keys=frozenset({hashed(KEY.encode())}))
    with serving(by_rule(lambda prompt: TEXT), rules=rules) as one:
        yield one


def test_langchain_asks_and_streams(live: Live) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(base_url=live.api, api_key=KEY, model="rule", temperature=0)
    asked = [("system", "Sois bref."), ("human", "Où ?"), ("ai", "Là."), ("human", "Et l'été ?")]
    answer = model.invoke(asked)
    assert answer.content == TEXT
    assert answer.usage_metadata["output_tokens"] > 5
    assert "".join(chunk.content for chunk in model.stream(asked)) == TEXT
    assert asyncio.run(model.ainvoke("Où ?")).content == TEXT
    both = model.batch(["Où ?", "Et l'été ?"])
    assert [one.content for one in both] == [TEXT] * 2
    bounded = langchain.ChatOpenAI(
        base_url=live.api, api_key=KEY, model="rule", max_tokens=3, logprobs=True, seed=1
    )
    cut = bounded.invoke("Où ?")
    assert cut.response_metadata["finish_reason"] == "length"
    assert len(cut.response_metadata["logprobs"]["content"]) == 3


def test_litellm_asks_and_streams(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    options = {"model": "openai/rule", "api_base": live.api, "api_key": KEY,
               "messages": [{"role": "user", "content": "Où ?"}]}  # fmt: skip
    answer = litellm.completion(**options)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.completion_tokens > 5
    chunks = litellm.completion(stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**options, "model": "openai/other"})
    asking = litellm.acompletion(**options)
    assert asyncio.run(asking).choices[0].message.content == TEXT


def test_llm_asks_by_its_file_of_models(live: Live, tmp_path: Path) -> None:
    pytest.importorskip("llm", reason="llm is not installed")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: quatrain\n  model_name: rule\n  api_base: "{live.api}"\n'
        "  api_key_name: quatrain\n",
        encoding="utf-8",
    )
    (tmp_path / "keys.json").write_text(json.dumps({"quatrain": KEY}), encoding="utf-8")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    for options in ([], ["--no-stream"]):
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "quatrain", *options, "-s", "Sois bref.", "Où ?"],
            env=environment, capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip
        assert done.stdout.strip() == TEXT, done.stderr


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_asks_as_documented(live: Live) -> None:
    assert CURL is not None
    body = '{"messages": [{"role": "user", "content": "Où ?"}], "stream": true}'
    words = [CURL, "-sN", f"{live.api}/chat/completions", "-H", f"Authorization: Bearer {KEY}",
             "-H", "Content-Type: application/json", "-d", body]  # fmt: skip
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=30)
    assert "été" in done.stdout
    assert done.stdout.endswith("data: [DONE]\n\n")


def test_what_open_webui_sends_is_answered(live: Live) -> None:
    """By its routers/openai.py: a list of models, then a stream with what it adds to a body."""
    headers = {"authorization": f"Bearer {KEY}", "x-openwebui-user-name": "Zo%C3%A9",
               "x-openwebui-chat-id": "1"}  # fmt: skip
    listed = live.http.get("/v1/models", headers=headers)
    assert listed.headers["content-type"].startswith("application/json")
    assert [model["id"] for model in listed.json()["data"]] == ["rule"]
    part = {"type": "text", "text": "Où ?", "cache_control": {"type": "ephemeral"}}
    body = {
        "model": "rule", "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Sois bref."},
                     {"role": "user", "content": [part]}],
        "temperature": 0.8, "top_p": 0.9, "max_tokens": 100, "seed": 42, "stop": ["###"],
        "frequency_penalty": 0.1, "presence_penalty": 0.1, "logit_bias": {}, "tools": [],
        "reasoning": {"effort": "low"}, "metadata": {"chat_id": "1"}, "user": {"id": "1"},
    }  # fmt: skip
    with httpx2.stream(
        "POST", f"{live.api}/chat/completions", json=body, headers=headers
    ) as answer:
        assert "text/event-stream" in answer.headers["content-type"]
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    said = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(said) == TEXT
    assert chunks[-1]["usage"]["completion_tokens"] > 5
    no_key = live.http.post("/v1/chat/completions", json=body)
    assert no_key.status_code == 401
    assert no_key.json()["error"]["message"]
