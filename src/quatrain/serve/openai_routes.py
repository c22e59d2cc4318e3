"""The routes of OpenAI's API."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from quatrain.serve.answering import Asked, Json, Service, answer, encoded, raw, settled
from quatrain.serve.chat import ChatForm
from quatrain.serve.completion import CompletionForm
from quatrain.serve.forms import now
from quatrain.serve.models import Question, Served
from quatrain.serve.protocol import ChatRequest, CompletionRequest, ResponsesRequest
from quatrain.serve.refusal import Refusal
from quatrain.serve.responses import ResponsesForm
from quatrain.words import Sentence

_CONTINUED = 16
"""Tokens that follow a text where a request does not say how many, as OpenAI's API has it."""


def openai_routes(service: Service) -> APIRouter:
    """Make the routes under /v1."""
    router = APIRouter(prefix="/v1")
    _add_models(router, service)
    _add_answers(router, service)
    return router


def _add_models(router: APIRouter, service: Service) -> None:
    began = now()

    def described(one: Served) -> dict[str, Any]:
        return {"id": one.id, "object": "model", "created": began, "owned_by": "quatrain"}

    @router.get("/models")
    async def models() -> Response:
        """List the models."""
        return Json({"object": "list", "data": [described(one) for one in service.models.values()]})

    @router.get("/models/{name:path}")
    async def model(name: str) -> Response:
        """Describe one model."""
        return Json(described(service.models.named(name)))


def _add_answers(router: APIRouter, service: Service) -> None:
    @router.post("/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        if body.top_logprobs and not body.logprobs:
            message = Sentence.of("serve.top_logprobs")
            raise Refusal(400, message, "invalid_value", "top_logprobs")
        served = service.models.named(body.model)
        prompt = await encoded(served, [turn.message() for turn in body.messages])
        options = settled(
            served, prompt, body.most, lambda longest: body.sampled(longest, body.likeliest)
        )
        asked = Asked([Question(served, prompt)], [options], body.choices)
        form = ChatForm(body, served.id, asked.prompt_tokens)
        return await answer(service, request, asked, form, bool(body.stream))

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        served = service.models.named(body.model)
        prompts = [raw(served, prompt) for prompt in body.prompts]
        most = _CONTINUED if body.max_tokens is None else body.max_tokens
        options = [
            settled(served, one, most, lambda most: body.sampled(most, body.logprobs))
            for one in prompts
        ]
        questions = [Question(served, prompt, may_abstain=False) for prompt in prompts]
        asked = Asked(questions, options, body.choices)
        form = CompletionForm(body, served.id, asked.prompt_tokens)
        return await answer(service, request, asked, form, bool(body.stream))

    @router.post("/responses")
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer a conversation, in the newer form."""
        served = service.models.named(body.model)
        prompt = await encoded(served, body.messages())
        options = settled(
            served,
            prompt,
            body.max_output_tokens,
            lambda most: body.generation(most, logprobs=body.likeliest),
        )
        asked = Asked([Question(served, prompt)], [options])
        form = ResponsesForm(body, served.id, asked.prompt_tokens)
        return await answer(service, request, asked, form, bool(body.stream))
