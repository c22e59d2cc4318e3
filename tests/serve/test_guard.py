"""Who may ask: keys on every route, hosts and origins, and what is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from live import Live, by_rule, serving, soon
from quatrain.errors import ConfigError
from quatrain.serve.guard import Rules, hashed, name_of
from quatrain.serve.keys import is_loopback, read_keys, refuse_open_door
from quatrain.serve.page_files import File

KEY, OTHER = "sk-très-secret", "sk-other"
PAGE = {"index.html": File(b"<p>page</p>", "text/html"), "a.js": File(b"1", "text/javascript")}
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Où est le secret ?"}]}
PUBLIC = {"/", "/health", "/static/{name}"}


@pytest.fixture(scope="module")
def locked() -> Iterator[Live]:
    keys = frozenset({hashed(KEY.encode()), hashed(OTHER.encode())})
    rules = Rules(keys=keys, hosts=frozenset({"my.example"}))
    with serving(by_rule(lambda prompt: "Là."), rules=rules, files=PAGE) as live:
        yield live


@pytest.fixture(scope="module")
def opened() -> Iterator[Live]:
    with serving(by_rule(lambda prompt: "Là."), files=PAGE) as live:
        yield live


def routes(live: Live) -> list[tuple[str, str]]:
    """Every method and path that the application has, by its own table."""
    schema = live.http.get("/openapi.json", headers={"authorization": f"Bearer {OTHER}"}).json()
    found = [(method.upper(), path) for path, one in schema["paths"].items() for method in one]
    assert len(found) >= 13
    return [*found, ("GET", "/openapi.json"), ("GET", "/nothing"), ("POST", "/v1/nothing")]


def test_every_route_needs_a_key_but_the_page_and_the_health(locked: Live) -> None:
    wrong: list[dict[str, str]] = [
        {}, {"authorization": "Bearer wrong"}, {"authorization": OTHER},
        {"authorization": "Basic " + OTHER}, {"x-api-key": OTHER},
    ]  # fmt: skip
    with httpx2.Client(base_url=locked.address) as client:
        for method, path in routes(locked):
            for verb in (method, "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"):
                for headers in wrong:
                    answer = client.request(verb, path.replace("{name}", "a.js"), headers=headers)
                    assert (answer.status_code == 401) == (path not in PUBLIC), (verb, path)
                    if answer.status_code == 401 and verb != "HEAD":
                        assert answer.json()["error"]["code"] == "invalid_api_key"
                        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_each_key_opens(locked: Live, key: str) -> None:
    headers = {b"authorization": b"bearer " + key.encode()}
    answer = locked.http.post("/v1/chat/completions", json=QUESTION, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "Là."


NOT_OURS = ["evil.example", "evil.example:8000", "", "localhost.evil.example", "[::1", "0x7f000001",
            "127.0.0.1.evil.example", "localhost:x"]  # fmt: skip


@pytest.mark.parametrize("host", NOT_OURS)
def test_a_host_of_another_name_is_refused(opened: Live, locked: Live, host: str) -> None:
    for live in (opened, locked):
        for path in ("/", "/health", "/v1/models", "/metrics"):
            answer = live.http.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "10.0.0.7"])
def test_this_machine_and_addresses_are_no_name_of_somebody_else(opened: Live, host: str) -> None:
    assert opened.http.get("/health", headers={"host": host}).status_code == 200


def test_a_name_can_be_allowed(locked: Live, opened: Live) -> None:
    headers = {"host": "My.Example:443"}
    assert locked.http.get("/health", headers=headers).status_code == 200
    assert opened.http.get("/health", headers=headers).status_code == 403
    assert [name_of(host) for host in ("a.b:80", "A.b.", "[::1]:8", "[::1]")] == [
        "a.b", "a.b", "[::1]", "[::1]",
    ]  # fmt: skip


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_a_page_of_another_origin_is_refused(opened: Live, origin: str) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        answer = opened.http.request(
            method, "/v1/chat/completions", json=QUESTION, headers={"origin": origin}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert not [name for name in answer.headers if name.startswith("access-control")]
    own = {"origin": opened.address}
    answer = opened.http.post("/v1/chat/completions", json=QUESTION, headers=own)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded",
                                  "multipart/form-data; boundary=x", None])  # fmt: skip
def test_a_form_of_another_page_is_not_json(opened: Live, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    content = json.dumps(QUESTION).encode()
    answer = opened.http.post("/v1/chat/completions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_every_answer_has_strict_headers_and_an_id(opened: Live) -> None:
    for path in ("/", "/health", "/v1/models", "/nothing", "/static/a.js"):
        headers = opened.http.get(path).headers
        assert headers["x-request-id"].startswith("req_")
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_the_log_is_lines_of_json_without_keys_prompts_or_answers(
    locked: Live, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hostile = '\n{"event": "forged"}\x1b[31m %s {}'
    authorized = {b"authorization": b"Bearer " + KEY.encode()}
    said = {"messages": [{"role": "user", "content": f"secret {hostile}"}], "model": hostile}
    with httpx2.Client(base_url=locked.address) as client:
        for body in (said, {**said, "model": "rule"}, {**said, "n": hostile}):
            client.post("/v1/chat/completions", json=body, headers=authorized)
        client.get("/v1/models/secret%0aforged", headers=authorized)
        client.get("/" + KEY.encode().hex(), params={"key": KEY}, headers={"user-agent": "secret"})

    def ours() -> list[str]:
        names = [(one.name, one.getMessage()) for one in caplog.records]
        return [text for name, text in names if name.startswith("quatrain")]

    assert soon(lambda: len(ours()) >= 5)  # a line follows its answer, which may be here before it
    for text in ours():
        assert "\n" not in text
        assert text.isascii()
        assert json.loads(text)["event"] == "request"
        for word in ("secret", "forged", KEY, KEY.encode().hex(), "Là"):
            assert word not in text


def test_an_error_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(prompt: str) -> str:
        raise KeyError(prompt)

    with serving(by_rule(wrong)) as live:
        answer = live.http.post("/v1/chat/completions", json=QUESTION)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
    [line] = [r.getMessage() for r in caplog.records if "KeyError" in r.getMessage()]
    assert "secret" not in line
    assert "live.py" in line


def test_other_machines_need_a_key(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org"):
        with pytest.raises(ConfigError, match="lets other machines ask"):
            refuse_open_door(host, has_key=False)
        refuse_open_door(host, has_key=True)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"):
        assert is_loopback(host)
        refuse_open_door(host, has_key=False)


def test_keys_are_the_lines_of_a_file_or_of_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# people\n\n  {KEY} \n{OTHER}\n", encoding="utf-8")
    assert read_keys(path) == [KEY, OTHER]
    assert read_keys(None, {"QUATRAIN_API_KEY": f" {KEY}\n"}) == [KEY]
    assert read_keys(None, {}) == read_keys(None, {"QUATRAIN_API_KEY": "  "}) == []
    path.write_text("# none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no key"):
        read_keys(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent")
