"""`quatrain ask`: one question, or a conversation."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from quatrain.cli.usage import of_answering
from quatrain.errors import ConfigError, DataError
from quatrain.recipe import load_config
from quatrain.words import say

_LEAVE = {"/quit", "/exit", "/q"}


def run_asking(
    model: str,
    question: str | None,
    context_file: str | None,
    options: list[str],
    as_json: bool,
    never_abstain: bool = False,
    quantize: str | None = None,
) -> None:
    """Answer a question as a stream, or converse until the input ends."""
    if as_json and question is None:
        raise ConfigError("Q208.json_without_a_question")
    settings = load_config(None, of_answering("ask", options)).generate.model_dump(
        exclude_unset=True
    )
    context = _read(context_file) if context_file else None
    if settings.get("logprobs") is not None and not as_json:
        raise ConfigError("Q208.logprobs", number=settings["logprobs"])
    # Spinning threads take cores from other processes while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    from quatrain.model.kinds_native import in_haste

    with in_haste():
        _ask(model, question, context, settings, as_json, never_abstain, quantize)


def _ask(
    model: str,
    question: str | None,
    context: str | None,
    settings: dict[str, Any],
    as_json: bool,
    never_abstain: bool,
    quantize: str | None,
) -> None:
    from quatrain.generate.answer import Answer, Answerer

    answerer = Answerer(model, quantize=quantize)
    if never_abstain and answerer.abstention is not None:
        answerer.abstention = answerer.abstention.never()
    if question is None:
        _talk(answerer, context, settings)
        return
    if as_json:
        answer = answerer.answer(question, context, **settings)
        print(json.dumps(_described(answer), ensure_ascii=False))
        return
    from quatrain.text.chat import user_content
    from quatrain.text.conversation import Message

    for piece in answerer.stream([Message("user", user_content(question, context))], **settings):
        if not isinstance(piece, Answer):
            print(piece, end="", flush=True)
    print()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("Q301.unreadable_context", path=path, error=error) from None


def _described(answer: Any) -> dict[str, Any]:
    return {
        "answer": str(answer),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        **({"abstained": True} if answer.abstained else {}),
        **(
            {}
            if answer.logprobs is None
            else {"logprobs": [t.as_openai() for t in answer.logprobs]}
        ),
    }


def _talk(answerer: Any, context: str | None, settings: dict[str, Any]) -> None:
    """Hold a conversation; the context belongs to the first question.

    A model that learnt single questions is asked each by itself, with the context.
    """
    from quatrain.generate.answer import Answer
    from quatrain.text.chat import user_content
    from quatrain.text.conversation import Message

    messages: list[Message] = []
    interactive = sys.stdin.isatty()
    if interactive:
        print(say("cli.ask.keys"), file=sys.stderr)
    if answerer.single_questions:
        print(say("cli.ask.single"), file=sys.stderr)
    while (line := _next_line(interactive)) is not None and line not in _LEAVE:
        if line == "/new":
            messages = []
        if not line or line == "/new":
            continue
        content = user_content(line, context if not messages else None)
        asked = [*messages, Message("user", content)]
        try:
            for piece in answerer.stream(asked, **settings):
                if isinstance(piece, Answer):
                    said = str(piece)
                else:
                    print(piece, end="", flush=True)
        except DataError as error:
            print(say("cli.ask.again", error=str(error)), file=sys.stderr)
            continue
        print()
        if said.strip() and not answerer.single_questions:
            messages = [*asked, Message("assistant", said)]


def _next_line(interactive: bool) -> str | None:
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None
