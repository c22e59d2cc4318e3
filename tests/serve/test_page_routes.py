"""What the page asks: models, tokens, the insides of an answer, feedback, the report."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from live import Live, by_rule, by_weights, serving, small
from quatrain import __version__
from quatrain.config import DataConfig
from quatrain.data.records import load_records
from quatrain.serve.models import report_of
from quatrain.serve.page_files import File, policy, read_page
from quatrain.text.conversation import Message

SAID = [{"role": "user", "content": "Où est l'été ?"}]
INDEX = b"<style>p {}</style><script>let a = 1;</script><script src='/static/a.js'></script>"
FILES = {"index.html": File(INDEX, "text/html; charset=utf-8"),
         "a.js": File(b"'\xc3\xa9'", "text/javascript; charset=utf-8")}  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("served")
    report = folder / "report.html"
    report.write_text("<!doctype html><p>été</p>", encoding="utf-8")
    with serving(
        by_weights(small(), "org/small", report=report), by_rule(lambda prompt: "Là."),
        feedback=folder / "judged.jsonl", files=FILES,
    ) as one:  # fmt: skip
        yield one


def test_models_are_described(live: Live) -> None:
    found = live.http.get("/api/info").json()
    assert (found["version"], found["feedback"]) == (__version__, True)
    first, second = found["models"]
    assert first == {"id": "org/small", "base": None, "context": 512, "vocab": 330, "experts": 4,
                     "layers": 4, "report": True, "abstains": False,
                     "single_questions": False}  # fmt: skip
    assert (second["id"], second["report"]) == ("rule", False)


def test_tokens_are_counted_as_a_prompt_has_them(live: Live) -> None:
    found = live.http.post("/api/tokens", json={"messages": SAID}).json()
    expected = small().prompt_size([Message("user", "Où est l'été ?")])
    assert found == {"prompt_tokens": expected, "context": 512}
    long = [{"role": "user", "content": "mot " * 600}]
    found = live.http.post("/api/tokens", json={"messages": long}).json()
    assert found == {"prompt_tokens": small().prompt_size([Message("user", "mot " * 600)]),
                     "context": 512}  # fmt: skip
    assert found["prompt_tokens"] > 512
    body = {"model": "org/small", "messages": long, "answer": "Oui."}
    refused = live.http.post("/api/inspect", json=body)
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_an_inspection_is_one_forward_pass_of_the_model(live: Live) -> None:
    answer = "Là-bas 👩 été."
    body = {"model": "org/small", "messages": SAID, "answer": answer}
    found = live.http.post("/api/inspect", json=body).json()
    one = small()
    prompt, ids = (
        one.voice.prompt([Message("user", "Où est l'été ?")]),
        one.tokenizer.encode(answer),
    )
    with torch.inference_mode():
        row = torch.tensor([prompt + ids])
        hidden = one.model.model(row)
        log_p = one.model.lm_head(hidden.states)[0].log_softmax(-1)
    assert found["prompt_tokens"] == len(prompt)
    assert [token["id"] for token in found["tokens"]] == ids
    assert "".join(token["text"] for token in found["tokens"]) == answer
    for place, token in enumerate(found["tokens"], start=len(prompt)):
        assert math.isclose(token["logprob"], log_p[place - 1, row[0, place]], abs_tol=1e-4)
        values = log_p[place - 1].topk(5).values.tolist()
        assert [one["logprob"] for one in token["top"]] == pytest.approx(values, abs=1e-4)
        experts = {
            str(layer): r.experts_BTK[0, place].tolist() for layer, r in hidden.routing.items()
        }
        assert token["experts"] == experts
        assert list(experts) == ["1", "3"]
    counted = [0] * 4
    for place in range(len(row[0])):
        counted[int(hidden.routing[1].experts_BTK[0, place, 0])] += 1
    assert counted == hidden.routing[1].load_E.tolist()


def test_an_inspection_beyond_the_context_is_refused(live: Live) -> None:
    body = {"messages": SAID, "answer": "mot " * 600}
    answer = live.http.post("/api/inspect", json=body)
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    for empty in ({"messages": SAID}, {"messages": SAID, "answer": ""}):
        assert live.http.post("/api/inspect", json=empty).status_code == 400


def judged(live: Live, **changes: Any) -> httpx2.Response:
    body = {"model": "rule", "messages": SAID, "answer": "Là-bas.", "rating": 1, **changes}
    return live.http.post("/api/feedback", json=body)


def test_feedback_up_is_trained_on_and_feedback_down_is_not(live: Live) -> None:
    path = live.service.feedback
    assert path is not None
    system = {"role": "developer", "content": "Sois bref."}
    assert judged(live).json() == {"kept": True}
    assert judged(live, messages=[system, *SAID], answer="L'été.\n«\u2028»").status_code == 200
    for _ in range(3):
        assert judged(live, rating=-1, answer="Faux.").status_code == 200
    found = load_records((str(path),), DataConfig())
    first, second = found.conversations
    assert [first.messages[-1].content, second.messages[-1].content] == [
        "Là-bas.",
        "L'été.\n«\u2028»",
    ]
    assert [one.role for one in second.messages] == ["system", "user", "assistant"]
    assert not found.rejected
    down = path.with_name("judged.down.jsonl")
    lines = [json.loads(line) for line in down.read_text(encoding="utf-8").splitlines()]
    assert [(one["rejected"], one["rating"]) for one in lines] == [("Faux.", -1)] * 3
    assert all(one["messages"][-1]["role"] == "user" for one in lines)
    assert path.stat().st_mode & 0o077 == down.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("changes", [
    {"rating": 0}, {"rating": "1"}, {"rating": 2}, {"answer": ""}, {"answer": "  "},
    {"messages": []}, {"messages": [*SAID, {"role": "assistant", "content": "a"}]},
    {"model": "other"},
])  # fmt: skip
def test_feedback_from_which_nothing_could_be_learnt_is_refused(
    live: Live, changes: dict[str, Any]
) -> None:
    path = live.service.feedback
    assert path is not None
    before = path.read_bytes() if path.exists() else b""
    assert judged(live, **changes).status_code in (400, 404)
    assert (path.read_bytes() if path.exists() else b"") == before


def test_without_a_file_feedback_is_refused() -> None:
    with serving(by_rule(lambda prompt: "Là.")) as live:
        assert judged(live).status_code == 404
        assert live.http.get("/api/info").json()["feedback"] is False


def test_the_report_of_a_run_is_shown_without_scripts(live: Live) -> None:
    answer = live.http.get("/report/org/small")
    assert (answer.status_code, answer.text) == (200, "<!doctype html><p>été</p>")
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert live.http.get("/report/rule").status_code == 404
    for name in ("other", "../../secret", "%2e%2e/secret"):
        assert live.http.get(f"/report/{name}").status_code == 404


def test_a_report_is_looked_for_in_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    expected = run / "report.html"
    assert report_of(run) == report_of(run / "checkpoints" / "best") == expected
    assert report_of(Path("org/name")) is None


def test_the_page_may_load_its_own_files_and_scripts_of_known_hashes(live: Live) -> None:
    answer = live.http.get("/")
    assert answer.content == INDEX
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    digest = base64.b64encode(hashlib.sha256(b"let a = 1;").digest()).decode()
    assert rules["script-src"] == f"'self' 'sha256-{digest}'"
    assert "unsafe" not in str(rules)
    assert rules["default-src"] == rules["frame-ancestors"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    script = live.http.get("/static/a.js")
    assert (script.content, script.headers["content-type"]) == (
        b"'\xc3\xa9'", "text/javascript; charset=utf-8",
    )  # fmt: skip
    for name in ("b.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "index.html/"):
        assert live.http.get(f"/static/{name}").status_code == 404


def test_files_of_a_page_are_those_of_known_kinds(tmp_path: Path) -> None:
    for name in ("index.html", "a.css", "b.js", "c.svg", "secret.py", "d.txt"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert list(read_page(tmp_path)) == ["a.css", "b.js", "c.svg", "index.html"]
    assert "sha256" not in policy(read_page(tmp_path))
    assert read_page(tmp_path / "absent") == {}


def test_measures_count_requests_and_tokens(live: Live) -> None:
    def value(name: str) -> float:
        lines = live.http.get("/metrics").text.splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(name)), 0))

    route = 'quatrain_requests_total{route="/v1/chat/completions",status="200"}'
    generated = 'quatrain_generated_tokens_total{model="rule"}'
    before = value(route), value(generated)
    body = {"model": "rule", "messages": SAID}
    assert live.http.post("/v1/chat/completions", json=body).status_code == 200
    tokens = len(small().tokenizer.encode("Là.")) + 1
    assert (value(route), value(generated)) == (before[0] + 1, before[1] + tokens)
    assert value("quatrain_running") == value("quatrain_waiting") == 0
    assert value('quatrain_first_token_seconds_count{model="rule"}') >= 1
