"""The application: routes, the guard around them, and errors as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from quatrain import __version__
from quatrain.serve.answering import Json, Service
from quatrain.serve.guard import App, Guard, Rules
from quatrain.serve.openai_routes import openai_routes
from quatrain.serve.page_files import File, read_page
from quatrain.serve.page_routes import page_routes, status_routes
from quatrain.serve.refusal import Refusal, broken_rule, failure
from quatrain.words import Sentence


def make_app(service: Service, rules: Rules, files: Mapping[str, File] | None = None) -> App:
    """Make the application.

    Args:
        service: the models, and what computes their answers.
        rules: of the guard.
        files: of the page; None reads those of the package.
    """
    app = FastAPI(
        title="Quatrain",
        version=__version__,
        docs_url=None,  # their pages load from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (
        openai_routes(service),
        page_routes(service, read_page() if files is None else files),
        status_routes(service),
    ):
        app.include_router(router)
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    app.add_exception_handler(HTTPException, _refuse_route)
    return Guard(app, rules, service.measures.request)


async def _refuse(request: Request, error: Any) -> Response:
    return Json(error.body(), status_code=error.status, headers=dict(error.headers))


async def _refuse_body(request: Request, error: Any) -> Response:
    return await _refuse(request, broken_rule(error.errors(), error.body))


async def _refuse_route(request: Request, error: Any) -> Response:
    """Refuse what no route takes, and bodies that are not JSON."""
    if error.status_code == 404:
        refusal = Refusal(404, Sentence.of("serve.no_route"), "not_found")
    elif error.status_code == 405:
        refusal = Refusal(405, Sentence.of("serve.method"), "method_not_allowed",
                          headers=error.headers or {})  # fmt: skip
    elif error.status_code == 400:
        refusal = Refusal(400, Sentence.of("serve.json"), "invalid_json")
    else:
        refusal = failure()
    return await _refuse(request, refusal)
