"""What may be asked: the bodies of requests, as OpenAI's API and the page write them.

Unknown fields are ignored. A known field of a wrong type or beyond its bounds is refused, and so is
one that would change the answer in a way that is not possible here. Not for what is answered
(chat.py, completion.py, responses.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quatrain.config import GenerateConfig
from quatrain.rules import Broken
from quatrain.text.conversation import Message, Role
from quatrain.words import Sentence

MOST_CHOICES = 8
_MOST_TURNS = 4096
_STOP = Annotated[str, Field(min_length=1, max_length=128)]
_SEEDS = 2**63


def _only(*neutral: Any) -> AfterValidator:
    """Refuse everything else in a field that is known and not possible."""

    def refuse(value: Any) -> Any:
        if any(type(value) is type(one) and value == one for one in neutral):
            return value
        raise Broken([Sentence.of("serve.unsupported")])

    return AfterValidator(refuse)


class Body(BaseModel):
    """A request."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class TextPart(Body):
    """A part of a turn's content."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Turn(Body):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    tool_calls: Annotated[Any, _only(None, [])] = None
    function_call: Annotated[Any, _only(None)] = None

    def message(self) -> Message:
        """Read it as a message; parts are joined as they are."""
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, content)


Turns = Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=_MOST_TURNS)]


class Asking(Body):
    """What all requests for an answer have."""

    model: str | None = Field(None, max_length=1024)
    """The name of a model that is served; without one, the first."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0, which is also the default, takes the likeliest token."""
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None

    def generation(self, most: int, **more: Any) -> GenerateConfig:
        """Say how the answer is generated.

        Args:
            most: tokens that it may have.
            more: further fields of GenerateConfig; None leaves the default.
        """
        values = {"temperature": self.temperature, "top_p": self.top_p, **more}
        given = {name: value for name, value in values.items() if value is not None}
        return GenerateConfig(max_new_tokens=most, **given)


class StreamOptions(Body):
    """What a stream holds besides."""

    include_usage: bool | None = None


class Sampling(Asking):
    """What the two older routes have besides."""

    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-_SEEDS, lt=_SEEDS)
    stop: _STOP | Annotated[list[_STOP], Field(max_length=8)] | None = None
    max_tokens: int | None = Field(None, ge=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    """Not OpenAI's; as in `quatrain ask`."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Not OpenAI's; as in `quatrain ask`."""
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    """Not OpenAI's; as in `quatrain ask`."""
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[Any, _only(None, {})] = None

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def counts_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampled(self, most: int, logprobs: int | None) -> GenerateConfig:
        """Say how the first answer is generated; the next ones have the next seeds."""
        return self.generation(
            most,
            logprobs=logprobs,
            stop=self.stops,
            seed=None if self.seed is None else self.seed % _SEEDS,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
        )


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Turns
    max_completion_tokens: int | None = Field(None, ge=1)
    """Goes before `max_tokens`."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[Any, _only(None, [])] = None
    tool_choice: Annotated[Any, _only(None, "none", "auto")] = None
    functions: Annotated[Any, _only(None, [])] = None
    function_call: Annotated[Any, _only(None, "none", "auto")] = None
    response_format: Annotated[Any, _only(None, {"type": "text"})] = None
    modalities: Annotated[Any, _only(None, ["text"])] = None
    audio: Annotated[Any, _only(None)] = None

    @property
    def most(self) -> int | None:
        """The most tokens of an answer, if the request says it."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to name; None for no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


_Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True, min_length=1)]
_Texts = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MOST_CHOICES)]
_ManyIds = Annotated[list[_Ids], Field(fail_fast=True, min_length=1, max_length=MOST_CHOICES)]


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: str | _Ids | _Texts | _ManyIds
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Annotated[Any, _only(None, False)] = None
    suffix: Annotated[Any, _only(None, "")] = None
    best_of: Annotated[Any, _only(None, 1)] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, as a text or as ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class InputTurn(Turn):
    """An item of /v1/responses' input."""

    type: Literal["message"] = "message"


InputTurns = Annotated[list[InputTurn], Field(fail_fast=True, min_length=1, max_length=_MOST_TURNS)]


class TextFormat(Body):
    """How an answer of /v1/responses is written."""

    format: Annotated[Any, _only(None, {"type": "text"})] = None


class ResponsesRequest(Asking):
    """POST /v1/responses."""

    input: str | InputTurns
    instructions: str | None = None
    """Said as the system message."""
    max_output_tokens: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: Annotated[list[str], Field(max_length=16)] | None = None
    text: TextFormat | None = None
    truncation: Annotated[Any, _only(None, "disabled")] = None
    tools: Annotated[Any, _only(None, [])] = None
    tool_choice: Annotated[Any, _only(None, "none", "auto")] = None
    previous_response_id: Annotated[Any, _only(None)] = None
    conversation: Annotated[Any, _only(None)] = None
    background: Annotated[Any, _only(None, False)] = None
    prompt: Annotated[Any, _only(None)] = None

    def messages(self) -> list[Message]:
        """Read the conversation."""
        said = [Message("user", self.input)] if isinstance(self.input, str) else [
            turn.message() for turn in self.input]  # fmt: skip
        return [Message("system", self.instructions), *said] if self.instructions else said

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to name; None for no log-probabilities at all."""
        asked = "message.output_text.logprobs" in (self.include or ())
        return (self.top_logprobs or 0) if asked else None


class TokensRequest(Body):
    """POST /api/tokens."""

    model: str | None = Field(None, max_length=1024)
    messages: Turns


class InspectRequest(TokensRequest):
    """POST /api/inspect."""

    answer: str = Field(min_length=1)


class FeedbackRequest(InspectRequest):
    """POST /api/feedback."""

    rating: Literal[1, -1]
