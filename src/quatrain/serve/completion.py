"""The form of /v1/completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quatrain.generate.voice import Answer, Piece, TokenLogprob
from quatrain.serve.forms import new_id, now, usage, written
from quatrain.serve.protocol import CompletionRequest
from quatrain.serve.refusal import Refusal


class CompletionForm:
    """Writes answers as text completions."""

    ends_with_done = True

    def __init__(self, asked: CompletionRequest, model: str, prompt_tokens: int) -> None:
        self._asked, self._prompt_tokens = asked, prompt_tokens
        self._head = {
            "id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": model,
        }  # fmt: skip
        self._given: dict[int, int] = {}
        """Characters of each answer that were sent."""

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """See Form."""
        choices = [
            self._choice(index, str(answer), self._logprobs(answer.logprobs, 0), answer)
            for index, answer in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": usage(self._prompt_tokens, answers)}

    def opening(self) -> Iterator[dict[str, Any]]:
        """See Form."""
        return iter(())

    def piece(self, choice: int, piece: Piece) -> Iterator[dict[str, Any]]:
        """See Form."""
        given = self._given.get(choice, 0)
        self._given[choice] = given + len(piece)
        yield self._chunk(choice, str(piece), self._logprobs(piece.logprobs, given), None)

    def end(self, choice: int, answer: Answer) -> Iterator[dict[str, Any]]:
        """See Form."""
        yield self._chunk(choice, "", None, answer)

    def closing(self, answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
        """See Form."""
        if self._asked.counts_usage:
            yield {**self._head, "choices": [], "usage": usage(self._prompt_tokens, answers)}

    def broken(self, refusal: Refusal) -> dict[str, Any]:
        """See Form."""
        return refusal.body()

    def _chunk(self, *choice: Any) -> dict[str, Any]:
        nothing_yet = {"usage": None} if self._asked.counts_usage else {}
        return {**self._head, "choices": [self._choice(*choice)], **nothing_yet}

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, answer: Answer | None
    ) -> dict[str, Any]:
        reason = None if answer is None else answer.finish_reason
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(
        self, tokens: Sequence[TokenLogprob] | None, offset: int
    ) -> dict[str, Any] | None:
        """Write likelihoods in four lists; offsets count characters of the answer."""
        if self._asked.logprobs is None:
            return None
        tokens, offsets = tokens or (), list[int]()
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [written(token.logprob) for token in tokens],
            "top_logprobs": [{one.text: written(one.logprob) for one in token.top}
                             for token in tokens],
            "text_offset": offsets,
        }  # fmt: skip
