"""Render untrusted chat templates, as transformers does, in a process that can do no harm.

`render` starts this file as a program, without the package. Jinja's sandbox keeps a template from
attributes and calls that it does not need; process limits bound time and memory. A template that
asks for the date always gets the same day, so a prompt does not depend on when it was made.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY = datetime.datetime(2024, 7, 26)
"""The day that templates get: the default of Llama 3's own templates."""

_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # what Python needs to start; no secrets
_MAX_SECONDS = 5  # CPU seconds for all renderings together; a template takes milliseconds
_PATIENCE = 60  # seconds of wall time, on a busy machine
_MAX_BYTES = 2**30  # address space, of which Python and Jinja take some 50 MB
_MAX_CHARACTERS = 2**16  # of one rendering; the longest templates write some 20,000


@dataclass(frozen=True)
class Rendering:
    """The output of a template for one conversation."""

    text: str
    """Empty if it failed."""
    error: str = ""
    """Why it failed, or empty."""


@dataclass(frozen=True)
class Renderings:
    """The output of a template for several conversations."""

    each: list[Rendering]
    dated: bool
    """Whether it asked for the date."""


def render(
    template: str,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    names: Mapping[str, str],
) -> Renderings:
    """Render a template for conversations; those ending with the user get an answer's header.

    Args:
        template: in Jinja, as chat_template.jinja has it.
        conversations: turns with `role` and `content`.
        names: control tokens that templates refer to by name, such as `bos_token`.
    """
    job = {"template": template, "conversations": [list(c) for c in conversations]}
    command = [sys.executable, "-I", str(Path(__file__).resolve())]
    try:
        done = subprocess.run(
            command,
            input=json.dumps({**job, "names": dict(names)}),
            capture_output=True,
            encoding="utf-8",
            timeout=_PATIENCE,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            check=False,
        )
        given = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        given = None
    if given is None:
        failed = f"more than {_MAX_SECONDS} s or {_MAX_BYTES >> 20} MB"
        return Renderings([Rendering("", failed)] * len(conversations), dated=False)
    return Renderings([Rendering(**one) for one in given["each"]], given["dated"])


def _main() -> None:
    job = json.load(sys.stdin)
    _limit()
    dates: list[str] = []
    each = _render_all(job, dates)
    sys.stdout.buffer.write(json.dumps({"each": each, "dated": bool(dates)}).encode())


def _limit() -> None:
    """Limit this process; where the system cannot, the parent's timeout remains."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _render_all(job: dict[str, Any], dates: list[str]) -> list[dict[str, str]]:
    try:
        template = _environment(dates).from_string(job["template"])
    except Exception as error:  # whatever an untrusted template does is its failure
        return [_failed(error) for _ in job["conversations"]]
    return [_render_one(template, messages, job["names"]) for messages in job["conversations"]]


def _render_one(template: Any, messages: list[dict[str, str]], names: Any) -> dict[str, str]:
    prompt = messages[-1]["role"] == "user"
    try:
        text = template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **names
        )
    except Exception as error:
        return _failed(error)
    if len(text) > _MAX_CHARACTERS:
        return {"text": "", "error": f"{len(text)} characters"}
    return {"text": text, "error": ""}


def _failed(error: Exception) -> dict[str, str]:
    return {"text": "", "error": (str(error) or type(error).__name__)[:200]}


def _environment(dates: list[str]) -> Any:
    """Set Jinja up as transformers does: its blocks, its loop controls, and three functions."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """The block that marks an assistant's words for a trainer: here, its content."""

        tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

        def parse(self, parser: Any) -> Any:
            number = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(number)

    class PlainNamespace(Namespace):
        """Jinja's own, without names that reach into Python."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"the name {name} is not allowed")
            super().__setitem__(name, value)

    def namespace(**values: Any) -> PlainNamespace:
        made = PlainNamespace()
        for name, value in values.items():
            made[name] = value
        return made

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        dates.append(form)
        return DAY.strftime(form)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "namespace": namespace,
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }
    return environment


if __name__ == "__main__":
    _main()
