"""Bodies of requests that a server must not fall over: for the tests, and for the bench."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_SAID = [{"role": "user", "content": "Où ?"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": _SAID, "max_tokens": 2},
    "/v1/completions": {"prompt": "Où ?", "max_tokens": 2},
    "/v1/responses": {"input": "Où ?", "max_output_tokens": 2},
    "/api/tokens": {"messages": _SAID},
    "/api/inspect": {"messages": _SAID, "answer": "Là."},
    "/api/feedback": {"messages": _SAID, "answer": "Là.", "rating": 1},
}
"""Routes, each with a body that is answered."""
FIELDS = [
    "model", "messages", "prompt", "input", "instructions", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stream",
    "stream_options", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "tools", "response_format", "echo", "suffix", "best_of",
    "answer", "rating", "text", "include", "truncation", "user", "",
]  # fmt: skip
_DEEP: Any = {}
for _ in range(60):
    _DEEP = [_DEEP, {"a": _DEEP}] if len(str(_DEEP)) < 2_000 else [_DEEP]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 8, 9, 21, 2**31, 2**63, -(2**63), 10**30, -(10**30), 0.5, 1.5,
    -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), "", " ", "a", "0",
    "1e3",
    "\x00", "\ud800", "\udfff\ud800", "\ufffe", "\U0010ffff", "e\u0301" * 50, "\u202e<script>",
    "👩‍👩‍👧",
    "<|eot|>", "<|begin_of_text|>" * 20, "../../etc/passwd", "{{7*7}}", "%s%n", "a" * 3_000, [], {},
    [[]], [{}], [None], [""], ["a"] * 9, ["a"] * 3, [1], [0, 1], [-1], [10**9], [[0]], [["a"]],
    [True],
    {"a": 1}, {"type": "text"}, {"include_usage": 1}, {"include_usage": True}, {"5": 100}, _DEEP,
    _SAID, _SAID * 2, [{"role": "tool", "content": "a"}], [{"role": "user"}], [{"content": "a"}],
    [{"role": "user", "content": None}], [{"role": "user", "content": ""}],
    [{"role": "user", "content": 5}], [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}],
    [{"role": "system", "content": "a"}], [{"role": "assistant", "content": "a"}],
    [{"role": "user", "content": "\ud800"}], [{"role": ["user"], "content": "a"}],
    [*_SAID, {"role": "assistant", "content": "a"}], ["a", {"role": "user", "content": "a"}],
]  # fmt: skip
TEXTS = st.text(st.characters(codec=None), max_size=60)


def hand_made(route: str) -> Iterator[bytes]:
    """Write bodies: a whole one with one field of a strange value, and what is no body at all."""
    whole = ROUTES[route]
    for field in whole:
        yield _json({name: value for name, value in whole.items() if name != field})
        for value in VALUES:
            yield _json({**whole, field: value})
    for field in FIELDS:
        for value in (None, -1, 10**30, float("nan"), "\ud800", [], {}, _DEEP, "a" * 2_000):
            yield _json({**whole, field: value})
    for value in VALUES:
        yield _json(value)
    good = json.dumps(whole).encode()
    yield from (
        b"", b"{", b"}", b"null", b"[]", b"\x00", b"\xff\xfe{}", b"\xef\xbb\xbf" + good, good[:-1],
        good + b"x", good * 2, good.replace(b'"', b"'"), b"[" * 100_000, b'{"a":' * 20_000,
        b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}", b"1" * 100_000, b"-", b"1e999",
        b'{"max_tokens": 1e309}', b'{"max_tokens": ' + b"9" * 5_000 + b"}", b'{"a": NaN}',
        b'{"model": "\xc3\x28"}', b'"\xed\xa0\x80"', good.decode().encode("utf-16"),
        b'{"' + b"k" * 200_000 + b'": 1}', b'{"messages": [' + b"{}," * 50_000 + b"{}]}",
        b"{" + b",".join(b'"%d":%d' % (i, i) for i in range(20_000)) + b"}",
        json.dumps({**whole, "messages": [_SAID[0]] * 5_000}).encode(),
    )  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
