"""Refusals: what cannot be answered, as the error objects of OpenAI's API.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

Messages are of the catalogue, in the language of whoever asks. They show nothing long: what came
may be a megabyte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from quatrain.errors import DataError, QuatrainError
from quatrain.rules import Broken, why
from quatrain.words import Sentence, tell

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_TOO_LONG, _HALF = "Q340.long", "Q332.surrogate"


class Refusal(Exception):
    """A request that gets an error object."""

    def __init__(
        self,
        status: int,
        message: Sentence,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Say why.

        Args:
            status: of HTTP.
            message: for people.
            code: for programs.
            param: the field of the request that is wrong.
            headers: of the answer.
        """
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.param, self.headers = param, headers

    def body(self) -> dict[str, Any]:
        """Give the error object."""
        return {
            "error": {
                "message": tell(self.message),
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def refusal_of(error: QuatrainError, param: str = "messages") -> Refusal:
    """Refuse what a part of Quatrain refused: only what was asked can be at fault."""
    if not isinstance(error, DataError):
        return failure()
    if error.key == _TOO_LONG:
        values = {name: error.values[name] for name in ("tokens", "context")}
        return Refusal(400, Sentence.of("serve.long", **values), "context_length_exceeded", param)
    if error.key == _HALF:
        return Refusal(400, Sentence.of("serve.half"), "invalid_value", param)
    message = Sentence.of("serve.error", message=error.message, remedy=error.remedy)
    return Refusal(400, message, error.code, param)


def failure() -> Refusal:
    """Say that something went wrong here; what it was is in the log."""
    return Refusal(500, Sentence.of("serve.failure"), "internal_error")


def shutting_down() -> Refusal:
    """Say that the server is about to end."""
    return Refusal(503, Sentence.of("serve.closing"), "shutting_down", headers={"retry-after": "5"})


def broken_rule(errors: Sequence[Any], body: Any) -> Refusal:
    """Refuse a body for its first error, the one that is deepest inside it.

    Args:
        errors: as pydantic lists them.
        body: what came.
    """
    one = max(errors, key=lambda error: len(error["loc"]))
    if one["type"] == "json_invalid":
        return Refusal(400, Sentence.of("serve.json"), "invalid_json")
    place = place_in(body, one["loc"][1:])
    if not place:
        return Refusal(400, Sentence.of("serve.object"), "invalid_type")
    if one["type"] == "missing":
        message = Sentence.of("serve.missing", place=place)
        return Refusal(400, message, "missing_required_parameter", place)
    broken = one.get("ctx", {}).get("error")
    if isinstance(broken, Broken):
        message = Sentence.of("serve.at", place=place, why=broken.problems[0])
        return Refusal(400, message, "unsupported_parameter", place)
    message = Sentence.of("serve.at", place=place, why=why(one))
    return Refusal(400, message, "invalid_value", place)


def place_in(body: Any, path: Sequence[Any]) -> str:
    """Write a place as OpenAI does, messages[0].content; parts that name a type are left out."""
    place = ""
    for number, part in enumerate(path, start=1):
        if isinstance(part, int) and isinstance(body, list) and 0 <= part < len(body):
            place, body = f"{place}[{part}]", body[part]
        elif (
            isinstance(part, str)
            and isinstance(body, dict)
            and (part in body or number == len(path))
        ):
            place, body = f"{place}.{part}" if place else part, body.get(part)
    return place
