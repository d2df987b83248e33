"""The HTTP API. Handlers are thin: `Service` does the work, and errors become answers here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tastemaker import __version__
from tastemaker.errors import ConfigError, RunError, TastemakerError
from tastemaker.serving.engine import BusyError, LateError
from tastemaker.serving.limits import Gate, fault
from tastemaker.serving.pages import add_pages
from tastemaker.serving.service import LimitError, Service, UnknownItemError
from tastemaker.serving.store import StoreUnavailableError
from tastemaker.serving.wire import (
    Answer,
    ErrorAnswer,
    EventsAnswer,
    EventsRequest,
    ExplainAnswer,
    ExplainRequest,
    ItemAnswer,
    ModelAnswer,
    ModelsAnswer,
    RecommendRequest,
    ReloadRequest,
    ScoreAnswer,
    ScoreRequest,
    SimilarRequest,
)

__all__ = ["create_app"]

# What an error is over HTTP: the first kind that fits.
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (StoreUnavailableError, 503, "store_down"),
    (BusyError, 429, "busy"),
    (LateError, 504, "late"),
    (UnknownItemError, 404, "unknown_item"),
    (LimitError, 422, "too_much"),
    (RunError, 409, "run_refused"),
    (ConfigError, 422, "wrong_request"),
    (TastemakerError, 422, "wrong_request"),
)
_SECONDS_BUSY = 1  # after which a caller may ask again

Documented = dict[int | str, dict[str, Any]]

ERRORS: Documented = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "The body is no JSON."),
        (401, "A key is needed."),
        (413, "The body is too large."),
        (422, "The request is wrong; the message says how."),
        (429, "Too many requests wait; see Retry-After."),
        (504, "The answer did not come in time."),
    )
}
NOT_THERE: Documented = {404: {**ERRORS[422], "description": "The run knows no such item."}}
REFUSED: Documented = {409: {**ERRORS[422], "description": "Refused; the old run stays."}}
STORE_DOWN: Documented = {503: {**ERRORS[422], "description": "Not kept; see Retry-After."}}


def create_app(service: Service) -> FastAPI:
    """The application of a service; closing it closes the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        service.close()

    app = FastAPI(
        title="Tastemaker",
        version=__version__,
        description="Recommendations from trained runs.",
        lifespan=lifespan,
        responses=ERRORS,
    )
    add_pages(app, service)  # first: an item's picture before an item whose id has slashes
    _add_asking(app, service)
    _add_telling(app, service)
    _add_errors(app)
    settings = service.settings
    app.add_middleware(Gate, settings=settings, meters=service.meters)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-api-key"],
        )
    return app


def _add_asking(app: FastAPI, service: Service) -> None:
    """Endpoints that ask a model."""

    @app.post("/recommend", response_model=Answer)
    async def recommend(request: RecommendRequest) -> Response:
        """The best items for a user or a history."""
        return JSONResponse(await service.recommend(request))

    @app.post("/similar", response_model=Answer, responses=NOT_THERE)
    async def similar(request: SimilarRequest) -> Response:
        """The items most like one."""
        return JSONResponse(await service.similar(request))

    @app.post("/score", response_model=ScoreAnswer)
    async def score(request: ScoreRequest) -> Response:
        """Scores of given items."""
        return JSONResponse(await service.score(request))

    @app.post("/explain", response_model=ExplainAnswer, responses=NOT_THERE)
    async def explain(request: ExplainRequest) -> Response:
        """Why an item scores as it does."""
        return JSONResponse(await service.explain(request))

    @app.get("/items/{item:path}", response_model=ItemAnswer, responses=NOT_THERE)
    async def item(
        item: str = Path(max_length=512), model: str | None = Query(None, max_length=128)
    ) -> Response:
        """What the data say of an item."""
        return JSONResponse(service.item(item, model))


def _add_telling(app: FastAPI, service: Service) -> None:
    """Endpoints that tell the server something, or ask about it."""

    @app.post("/events", response_model=EventsAnswer, responses=STORE_DOWN)
    async def events(request: EventsRequest) -> Response:
        """Keep events; they are safe when this answers, and part of the next lists."""
        return JSONResponse((await service.add(request))._asdict())

    @app.get("/models", response_model=ModelsAnswer)
    async def models() -> Response:
        """What is served."""
        return JSONResponse({"models": service.models()})

    @app.post("/models/{name}/reload", response_model=ModelAnswer, responses=REFUSED)
    async def reload(request: ReloadRequest, name: str = Path(max_length=128)) -> Response:
        """Serve a newer run; the old one answers until the new one is ready."""
        await service.reload(name, request.run)
        (found,) = (about for about in service.models() if about["name"] == name)
        return JSONResponse(found)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, Any]:
        """Whether models answer; a store that is down is said, but keeps nothing from asking."""
        return {"status": "ready", "store": "down" if service.live.is_waiting else "up"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        content, kind = service.meters.page()
        return Response(content, media_type=kind)


def _add_errors(app: FastAPI) -> None:
    """Every error has one shape."""

    async def ours(request: Request, error: Exception) -> Response:
        del request
        status, code = next(
            (status, code) for kind, status, code in _STATUS if isinstance(error, kind)
        )
        headers = {}
        if status in (429, 503):
            wait = error.retry_after if isinstance(error, StoreUnavailableError) else _SECONDS_BUSY
            headers["retry-after"] = str(wait)
        return JSONResponse(fault(code, str(error)), status, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, RequestValidationError)
        problems = [
            f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
            for problem in error.errors()
        ]
        status = 400 if any(p["type"] == "json_invalid" for p in error.errors()) else 422
        return JSONResponse(fault("wrong_request", "; ".join(problems)), status)

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}; see /docs"
        return JSONResponse(fault("not_there", message), error.status_code, error.headers)

    handlers: tuple[tuple[type[Exception], Callable[..., Awaitable[Response]]], ...] = (
        (TastemakerError, ours),
        (RequestValidationError, invalid),
        (HTTPException, other),
    )
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)
