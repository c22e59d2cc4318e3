"""convert --push: a checked model goes to the Hub, private by default, or the error says why."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from adapted import adapted_model
from foreign import text_tools
from quatrain.errors import QuatrainError
from quatrain.hub.push import push, refuse_unready
from tiny import tiny_config, tiny_model


def refused(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    response = MagicMock(status_code=status)
    return kind(f"{status} for this\n\nmore", response=response)


class Hub:
    """HfApi's public methods, as far as they are used, with what was asked of them."""

    def __init__(self, *, private: bool = True, fails: Exception | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.private, self.fails = private, fails

    def create_repo(self, **given: Any) -> str:
        self.asked.append(("create_repo", given))
        if self.fails:
            raise self.fails
        return f"https://huggingface.co/{given['repo_id']}"

    def repo_info(self, **given: Any) -> Any:
        return SimpleNamespace(private=self.private)

    def update_repo_settings(self, **given: Any) -> None:
        self.asked.append(("update_repo_settings", given))

    def upload_folder(self, **given: Any) -> None:
        self.asked.append(("upload_folder", given))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    def make(**how: Any) -> Hub:
        made = Hub(**how)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda *_, **__: made)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        return made

    return make


def model_in(directory: Path) -> Path:
    tiny_model(tiny_config(vocab_size=512)).save_pretrained(directory)
    text_tools(directory)
    return directory


def test_a_repository_is_made_private_and_the_manifest_stays(
    hub: Callable[..., Hub], tmp_path: Path
) -> None:
    made = hub()
    assert push(tmp_path, "org/name", public=False) == "https://huggingface.co/org/name"
    (created, uploaded) = made.asked
    assert created == ("create_repo", {"repo_id": "org/name", "private": True, "exist_ok": True})
    assert uploaded[0] == "upload_folder"
    assert uploaded[1]["folder_path"] == tmp_path
    assert uploaded[1]["ignore_patterns"] == ["manifest.json"]


def test_public_opens_it_last_and_a_public_one_is_not_written_to_unasked(
    hub: Callable[..., Hub], tmp_path: Path
) -> None:
    made = hub(private=True)
    push(tmp_path, "org/name", public=True)
    assert [name for name, _ in made.asked][-2:] == ["upload_folder", "update_repo_settings"]
    assert made.asked[-1][1] == {"repo_id": "org/name", "private": False}
    made = hub(private=False)
    push(tmp_path, "org/name", public=True)
    assert [name for name, _ in made.asked] == ["create_repo", "upload_folder"]
    made = hub(private=False)
    with pytest.raises(QuatrainError, match=r"Q416.*org/name is already public") as caught:
        push(tmp_path, "org/name", public=False)
    assert "--public" in caught.value.remedy
    assert [name for name, _ in made.asked] == ["create_repo"]


@pytest.mark.parametrize(
    ("error", "what", "remedy"),
    [
        (refused(401), "rejected the token", "hf auth login"),
        (refused(403), "has no write access to org/name", "write"),
        (refused(404, RepositoryNotFoundError), "has no write access to org/name", "write"),
        (refused(500), "500 for this", "hf upload org/name"),
        (OfflineModeIsEnabled("offline"), "to org/name failed: offline", "hf upload org/name"),
        (TimeoutError(), "to org/name failed: TimeoutError", "hf upload org/name"),
    ],
)
def test_what_the_hub_refuses_is_told_and_the_directory_stays(
    error: Exception, what: str, remedy: str, hub: Callable[..., Hub], tmp_path: Path
) -> None:
    hub(fails=error)
    with pytest.raises(QuatrainError, match=rf"Q416.*{what}") as caught:
        push(tmp_path, "org/name", public=False)
    assert remedy in caught.value.remedy
    again = f"hf upload org/name {tmp_path} --exclude manifest.json --private"
    assert caught.value.remedy.endswith(again)
    assert "\n\nmore" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "org/na me", "-org/x..y", "", "https://hf.co/a/b"]
)
def test_a_name_that_the_hub_cannot_have_is_refused_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(QuatrainError, match=r"Q416.*ORG/NAME"):
        refuse_unready(name)


def test_no_token_is_told_before_anything_is_converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quatrain: Callable[..., Any]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    model = model_in(tmp_path / "model")
    found = quatrain("convert", model, tmp_path / "made", "--to", "hf", "--push", "org/name")
    assert found.code == 4
    assert "[Q416]" in found.err
    assert "hf auth login" in found.err
    assert not (tmp_path / "made").exists()


def test_public_needs_push(tmp_path: Path, quatrain: Callable[..., Any]) -> None:
    found = quatrain("convert", tmp_path, tmp_path / "made", "--to", "hf", "--public")
    assert found.code == 2
    assert "--push ORG/NAME" in found.err


def test_an_adapter_that_names_a_path_is_not_pushed(
    hub: Callable[..., Hub], tmp_path: Path
) -> None:
    model = adapted_model(tiny_model(tiny_config(vocab_size=512)))
    for name, pushed in ((str(tmp_path / "base"), False), ("org/base", True)):
        made, model.base = hub(), name
        model.save_pretrained(tmp_path / "adapter")
        if pushed:
            push(tmp_path / "adapter", "org/name", public=False)
        else:
            with pytest.raises(QuatrainError, match="a local path") as caught:
                push(tmp_path / "adapter", "org/name", public=False)
            assert "--base ORG/NAME" in caught.value.remedy
        assert bool(made.asked) is pushed


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_the_verb_pushes_what_it_checked_and_says_where(
    words: list[str], hub: Callable[..., Hub], tmp_path: Path, quatrain: Callable[..., Any]
) -> None:
    made, model = hub(), model_in(tmp_path / "model")
    found = quatrain(
        "convert", model, tmp_path / "made", "--to", "hf", "--push", "org/name", *words
    )
    assert found.code == 0, found.err
    assert made.asked[-1][1]["folder_path"] == tmp_path / "made"
    if words:
        assert found.json["pushed"] == "https://huggingface.co/org/name"
    else:
        assert "https://huggingface.co/org/name" in found.out
        assert "private" in found.out


def test_without_push_nothing_of_it_is_imported(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    program = (
        "import sys\n"
        "from quatrain.cli.main import app\n"
        f"app(['convert', {str(model)!r}, {str(tmp_path / 'made')!r}, '--to', 'hf'],"
        " standalone_mode=False)\n"
        "assert not {'quatrain.hub.push', 'huggingface_hub.hf_api'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class _Endpoint(BaseHTTPRequestHandler):
    """As much of the Hub's HTTP as an upload of small files needs."""

    files: dict[str, bytes]
    created: list[dict[str, Any]]
    status = 200

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer({"id": "org/name", "private": True, "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/repos/create"):
            self.created.append(json.loads(body))
            self._answer({"url": "http://127.0.0.1/org/name", "id": "org/name"})
        elif "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            files = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    self.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            self._answer({"commitUrl": "http://127.0.0.1/org/name/commit/0", "commitOid": "0" * 40,
                          "success": True})  # fmt: skip
        else:
            self._answer({})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[tuple[type[_Endpoint], str]]:
    handler = type("Handler", (_Endpoint,), {"files": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.enable_socket
def test_over_http_every_file_arrives_and_a_refusal_is_told(
    endpoint: tuple[type[_Endpoint], str], tmp_path: Path
) -> None:
    handler, url = endpoint
    model, made = model_in(tmp_path / "model"), tmp_path / "made"
    environment = os.environ | {"HF_ENDPOINT": url, "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)

    def convert(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "quatrain", "convert", str(model), str(made), "--to", "hf",
                   "--force", "--push", "org/name", *words]  # fmt: skip
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    done = convert("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pushed"] == "http://127.0.0.1/org/name"
    (created,) = handler.created
    assert created.get("private") is True or created.get("visibility") == "private"  # by version
    written = {path.name: path.read_bytes() for path in made.iterdir()}
    written.pop("manifest.json")
    assert handler.files == written
    handler.status = 403
    again = convert()
    assert again.returncode == 4, again.stderr
    assert "[Q416]" in again.stderr
    assert "Traceback" not in again.stderr
    assert f"hf upload org/name {made}" in again.stderr
