"""The routes of the page, and those for whoever looks after the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from quatrain import __version__
from quatrain.errors import QuatrainError
from quatrain.generate.inspection import inspect
from quatrain.serve import feedback
from quatrain.serve.answering import Json, Service, computed, encoded
from quatrain.serve.exchange import GoneError
from quatrain.serve.forms import written
from quatrain.serve.measures import CONTENT_TYPE
from quatrain.serve.models import Served
from quatrain.serve.page_files import INDEX, REPORT_POLICY, File, policy
from quatrain.serve.protocol import FeedbackRequest, InspectRequest, TokensRequest
from quatrain.serve.refusal import Refusal, refusal_of, shutting_down
from quatrain.words import Sentence

_LIKELIEST = 5
"""Tokens that an inspection names in each place."""


def page_routes(service: Service, files: Mapping[str, File]) -> APIRouter:
    """Make the routes of the page's files and of what it asks."""
    router = APIRouter()
    _add_files(router, service, files)
    _add_questions(router, service)
    return router


def _add_files(router: APIRouter, service: Service, files: Mapping[str, File]) -> None:
    headers = {"content-security-policy": policy(files)} if files else {}

    @router.get("/")
    async def page() -> Response:
        """Give the page."""
        return _file(files, INDEX, headers)

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        """Give a file of the page."""
        return _file(files, name, {"cache-control": "no-cache"})

    @router.get("/report/{name:path}")
    async def report(name: str) -> Response:
        """Give the report of the run that a model comes from."""
        path = service.models.named(name).report
        if path is None or not path.is_file():
            raise Refusal(404, Sentence.of("serve.no_report"), "not_found")
        content = await run_in_threadpool(path.read_bytes)
        return Response(
            content, media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
        )


def _add_questions(router: APIRouter, service: Service) -> None:
    @router.get("/api/info")
    async def info() -> Response:
        """Describe the models, for the page."""
        return Json({
            "models": [one.info() for one in service.models.values()],
            "feedback": service.feedback is not None,
            "version": __version__,
        })  # fmt: skip

    @router.post("/api/tokens")
    async def tokens(body: TokensRequest) -> Response:
        """Count the tokens of a conversation that ends with a question, however many they are."""
        served = service.models.named(body.model)
        turns = [turn.message() for turn in body.messages]
        prompt = await encoded(served, turns, must_fit=False)
        return Json({"prompt_tokens": len(prompt), "context": served.context})

    @router.post("/api/inspect")
    async def inspection(body: InspectRequest, request: Request) -> Response:
        """Tell what a model makes of each token of an answer."""
        served = service.models.named(body.model)
        prompt = await encoded(served, [turn.message() for turn in body.messages])
        work = _inspected(served, prompt, body.answer)
        try:
            return Json(await computed(service, request, work, None))
        except GoneError:
            return Response(status_code=499)

    @router.post("/api/feedback")
    async def judged(body: FeedbackRequest) -> Response:
        """Keep an answer that somebody judged."""
        if service.feedback is None:
            raise Refusal(404, Sentence.of("serve.no_feedback"), "not_found")
        served = service.models.named(body.model)
        said = [turn.message() for turn in body.messages]
        try:
            await run_in_threadpool(
                feedback.keep, service.feedback, served.id, said, body.answer, body.rating
            )
        except QuatrainError as error:
            raise refusal_of(error) from None
        return Json({"kept": True})


def status_routes(service: Service) -> APIRouter:
    """Make the routes for whoever looks after the server."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        """Say whether questions are taken."""
        if not service.runner.is_open:
            raise shutting_down()
        runner = service.runner
        return Json({"status": "ok", "running": runner.running, "waiting": runner.waiting})

    @router.get("/metrics")
    async def metrics() -> Response:
        """Give the measures."""
        return Response(service.measures.text(), media_type=CONTENT_TYPE)

    return router


def _file(files: Mapping[str, File], name: str, headers: Mapping[str, str]) -> Response:
    if name not in files:
        raise Refusal(404, Sentence.of("serve.no_route"), "not_found")
    return Response(files[name].content, media_type=files[name].kind, headers=dict(headers))


def _inspected(served: Served, prompt: list[int], answer: str) -> Iterator[dict[str, Any]]:
    """Inspect the tokens of an answer; the texts of all of them are the answer."""
    voice, reader = served.answerer.voice, served.answerer.tokenizer.stream()
    ids = voice.tokenizer.encode(answer)
    found = inspect(served.answerer.model, prompt, ids, _LIKELIEST)
    texts = [reader.push(token_id) for token_id in ids]
    texts[-1] += reader.finish()
    tokens = []
    for text, (likelihood, experts) in zip(texts, found, strict=True):
        described = voice.described(likelihood)
        top = [{"text": one.text, "logprob": written(one.logprob)} for one in described.top]
        tokens.append({
            "id": described.id,
            "text": text,
            "logprob": written(described.logprob),
            "top": top,
            "experts": {str(layer): chosen for layer, chosen in experts.items()},
        })  # fmt: skip
    yield {"prompt_tokens": len(prompt), "tokens": tokens}
