"""The form of /v1/responses, for text; nothing is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quatrain.generate.voice import Answer, Piece
from quatrain.serve.forms import finite, new_id, now, usage
from quatrain.serve.protocol import ResponsesRequest
from quatrain.serve.refusal import Refusal


class ResponsesForm:
    """Writes an answer as a response, or as the events that lead to it."""

    ends_with_done = False

    def __init__(self, asked: ResponsesRequest, model: str, prompt_tokens: int) -> None:
        self._asked, self._model, self._prompt_tokens = asked, model, prompt_tokens
        self._id, self._item, self._created = new_id("resp_"), new_id("msg_"), now()
        self._number = 0

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """See Form."""
        [answer] = answers
        is_cut = answer.finish_reason == "length"
        counted = usage(self._prompt_tokens, answers)
        return self._response(
            "incomplete" if is_cut else "completed",
            [self._message(answer)],
            {
                "input_tokens": counted["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": counted["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counted["total_tokens"],
            },
            {"reason": "max_output_tokens"} if is_cut else None,
        )

    def opening(self) -> Iterator[dict[str, Any]]:
        """See Form."""
        for name in ("created", "in_progress"):
            response = self._response("in_progress", [], None, None)
            yield self._event(f"response.{name}", response=response)
        item = {"id": self._item, "type": "message", "status": "in_progress",
                "role": "assistant", "content": []}  # fmt: skip
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place, part=self._part("", ()))

    def piece(self, choice: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """See Form."""
        yield self._event(
            "response.output_text.delta", **self._place, delta=str(piece),
            logprobs=self._logprobs(piece.logprobs),
        )  # fmt: skip

    def end(self, choice: int, answer: Answer) -> Iterator[dict[str, Any]]:
        """See Form."""
        logprobs, message = self._logprobs(answer.logprobs), self._message(answer)
        yield self._event(
            "response.output_text.done", **self._place, text=str(answer), logprobs=logprobs
        )
        yield self._event("response.content_part.done", **self._place, part=message["content"][0])
        yield self._event("response.output_item.done", output_index=0, item=message)

    def closing(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        """See Form."""
        response = self.whole(answers)
        yield self._event(f"response.{response['status']}", response=response)

    def broken(self, refusal: Refusal) -> dict[str, Any]:
        """See Form."""
        error = refusal.body()["error"]
        return self._event("error", **{name: error[name] for name in ("code", "message", "param")})

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **values}

    def _message(self, answer: Answer) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "status": "incomplete" if answer.finish_reason == "length" else "completed",
            "role": "assistant",
            "content": [self._part(str(answer), answer.logprobs or ())],
        }

    def _part(self, text: str, tokens: Any) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [],
                "logprobs": self._logprobs(tokens)}  # fmt: skip

    def _logprobs(self, tokens: Any) -> list[dict[str, Any]]:
        return finite(tokens or ()) if self._asked.likeliest is not None else []

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        counted: dict[str, Any] | None,
        incomplete: dict[str, str] | None,
    ) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": output,
            "usage": counted,
            "incomplete_details": incomplete,
            "error": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature or 0.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
        }
