"""The routes: the OpenAI API, health, metrics and the page."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import cd4lm_jax
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.serving.api import errors, guard, metrics, stream
from cd4lm_jax.serving.api.bodies import Bodies
from cd4lm_jax.serving.api.errors import ApiError
from cd4lm_jax.serving.api.prepare import Preparation, unknown_model
from cd4lm_jax.serving.api.schema import ChatRequest, CompletionRequest
from cd4lm_jax.serving.api.session import Session
from cd4lm_jax.serving.engine.engine import Engine
from cd4lm_jax.serving.page.page import render
from cd4lm_jax.serving.settings import Offer, ServeConfig

_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False, kw_only=True)
class Service:
    """What the routes need.

    Attributes:
        engine: started.
        tokenizer: of the model.
        offer: what requests may ask for.
        config: the operator's limits.
        name: of the model.
        draining: SIGTERM has come; new requests get status 503.
    """

    engine: Engine
    tokenizer: Tokenizer
    offer: Offer
    config: ServeConfig
    name: str
    draining: bool = False


def create(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="cd4lm_jax",
        version=cd4lm_jax.__version__,
        description="The OpenAI API over masked-diffusion language models.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    config, engine = service.config, service.engine
    counters = metrics.Metrics(engine)
    page, policy = render(service.name, service.offer)
    prepare = Preparation(engine.model.config, service.tokenizer, service.offer, config.max_choices)
    created = int(time.time())
    model = {"id": service.name, "object": "model", "created": created, "owned_by": "cd4lm_jax"}
    app.add_middleware(
        guard.Guard,
        keys=guard.read_keys(config.api_key_file),
        max_body_bytes=config.max_body_bytes,
        metrics=counters,
    )
    _handle_errors(app)

    async def answer(body: ChatRequest | CompletionRequest, request: Request) -> Response:
        if service.draining:
            raise ApiError(503, "the server stops; try again", code="stopping")
        if body.model != service.name:
            raise unknown_model(service.name)
        choices = prepare.choices(body)
        session = Session(engine, service.tokenizer, choices, config.timeout)
        bodies = Bodies(body, choices, session.answers)
        exchange = stream.Exchange(session, bodies, counters, request.state.notes)
        if body.stream:
            return stream.EventStream(exchange)
        return await stream.whole(exchange, request)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answers a conversation."""
        return await answer(body, request)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Goes on with a text, without a chat template."""
        return await answer(body, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """The model, if it has this name."""
        if name != service.name:
            raise unknown_model(service.name)
        return model

    @app.get("/health/live")
    async def live() -> Response:
        """Whether the engine runs; where it does not, a restart mends it."""
        return _state(engine.alive, "alive", "the engine has failed")

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> Response:
        """Whether new requests are taken."""
        return _state(engine.alive and not service.draining, "ready", "stopping")

    @app.get("/metrics")
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(counters.text(), media_type=metrics.CONTENT_TYPE)

    @app.get("/", response_class=HTMLResponse)
    async def home() -> HTMLResponse:
        """The page on which a question is asked and its answer fills in."""
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return app


def _handle_errors(app: FastAPI) -> None:
    async def api(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return errors.of_validation(error).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return errors.of_http(error).response()

    async def bug(request: Request, error: Exception) -> Response:
        _log.error(
            "bug", exc_info=error, extra={"fields": {"request_id": request.state.request_id}}
        )
        return ApiError(500, "the server failed on this request; its log has more").response()

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _state(good: bool, yes: str, no: str) -> JSONResponse:
    return JSONResponse({"status": yes if good else no}, status_code=200 if good else 503)
