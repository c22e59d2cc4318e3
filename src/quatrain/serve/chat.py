"""The form of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quatrain.generate.voice import Answer, Piece
from quatrain.serve.forms import finite, new_id, now, usage
from quatrain.serve.protocol import ChatRequest
from quatrain.serve.refusal import Refusal


class ChatForm:
    """Writes answers as chat completions."""

    ends_with_done = True

    def __init__(self, asked: ChatRequest, model: str, prompt_tokens: int) -> None:
        self._asked, self._prompt_tokens = asked, prompt_tokens
        self._head = {"id": new_id("chatcmpl-"), "created": now(), "model": model}

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """See Form."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": str(answer), "refusal": None},
                "logprobs": self._logprobs(answer.logprobs),
                **_end(answer),
            }
            for index, answer in enumerate(answers)
        ]
        return {
            "object": "chat.completion",
            **self._head,
            "choices": choices,
            "usage": usage(self._prompt_tokens, answers),
        }

    def opening(self) -> Iterator[dict[str, Any]]:
        """See Form."""
        for choice in range(self._asked.choices):
            delta = {"role": "assistant", "content": ""}
            yield self._chunk(choice, delta, {"logprobs": None, "finish_reason": None})

    def piece(self, choice: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """See Form."""
        rest = {"logprobs": self._logprobs(piece.logprobs), "finish_reason": None}
        yield self._chunk(choice, {"content": str(piece)}, rest)

    def end(self, choice: int, answer: Answer) -> Iterator[dict[str, Any]]:
        """See Form."""
        yield self._chunk(choice, {}, {"logprobs": None, **_end(answer)})

    def closing(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        """See Form."""
        if self._asked.counts_usage:
            yield {
                **self._chunk_head(),
                "choices": [],
                "usage": usage(self._prompt_tokens, answers),
            }

    def broken(self, refusal: Refusal) -> dict[str, Any]:
        """See Form."""
        return refusal.body()

    def _chunk(self, choice: int, delta: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        choices = [{"index": choice, "delta": delta, **rest}]
        nothing_yet = {"usage": None} if self._asked.counts_usage else {}
        return {**self._chunk_head(), "choices": choices, **nothing_yet}

    def _chunk_head(self) -> dict[str, Any]:
        return {"object": "chat.completion.chunk", **self._head}

    def _logprobs(self, tokens: Any) -> dict[str, Any] | None:
        return {"content": finite(tokens or ()), "refusal": None} if self._asked.logprobs else None


def _end(answer: Answer) -> dict[str, Any]:
    """Say why an answer ended; `abstained` is not OpenAI's."""
    abstained = {"abstained": True} if answer.abstained else {}
    return {"finish_reason": answer.finish_reason, **abstained}
