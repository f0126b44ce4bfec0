"""The API's routes, and what OpenAPI says about them."""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from pocketdet import __version__
from pocketdet.runtime.predictor import IOU_THRESHOLD, SCORE_THRESHOLD, Predictor
from pocketdet.web import page, schema
from pocketdet.web.limits import RETRY_AFTER, AddHeaders, LimitBody, Observe
from pocketdet.web.metrics import CONTENT_TYPE
from pocketdet.web.service import Service
from pocketdet.web.settings import ServeSettings

DESCRIPTION = "Finds objects in pictures. Pictures are read into memory, answered and forgotten."


def create_app(
    predictors: Mapping[str, Predictor],
    settings: ServeSettings | None = None,
    api_key: str | None = None,
    page_models: Mapping[str, Path] | None = None,
) -> FastAPI:
    """The API as an ASGI application.

    Args:
        predictors: By the name that clients give; the first one is the default.
        settings: Bounds.
        api_key: Where given, /v1 and /metrics want it as ``Authorization: Bearer KEY``.
        page_models: Exported ``.onnx`` files that the page offers, by name; without this there is no page.
    """
    settings = settings or ServeSettings()
    service = Service(predictors, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="pocketdet",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(LimitBody, max_body=settings.max_body, time_limit=settings.time_limit)
    app.add_middleware(Observe, observe=service.metrics.request)
    app.add_middleware(AddHeaders)
    app.add_exception_handler(RequestValidationError, _explain_parameters)
    app.add_exception_handler(ClientDisconnect, _note_gone_client)
    guard = [] if api_key is None else [Depends(_key_check(api_key))]
    _add_health(app, service)
    _add_metrics(app, service, guard)
    _add_models(app, service, guard)
    _add_detect(app, service, guard)
    if page_models is not None:
        _add_page(app, page_models)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], responses={200: schema.health("ok")})
    async def is_alive() -> JSONResponse:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", tags=["health"], responses={200: schema.health("ready"), 503: schema.health("not ready")})
    async def is_ready() -> JSONResponse:
        """The detectors are loaded and have run once."""
        if service.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, {"retry-after": RETRY_AFTER})


def _add_metrics(app: FastAPI, service: Service, guard: Sequence[Any]) -> None:
    @app.get("/metrics", tags=["health"], dependencies=guard, response_class=Response, responses=schema.metrics(guard))
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_models(app: FastAPI, service: Service, guard: Sequence[Any]) -> None:
    models = [schema.Model.of(name, predictor.metadata) for name, predictor in service.predictors.items()]

    @app.get("/v1/models", tags=["detect"], dependencies=guard, responses=schema.errors(guard))
    async def list_models() -> schema.Models:
        """The detectors of this server; the first one is the default."""
        return schema.Models(models=models)


def _add_detect(app: FastAPI, service: Service, guard: Sequence[Any]) -> None:
    names = list(service.predictors)
    model_query = Query(names[0], description="Name of a detector.", json_schema_extra={"enum": names})

    @app.post(
        "/v1/detect",
        tags=["detect"],
        dependencies=guard,
        response_model=schema.Document,
        responses=schema.errors(guard, 400, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": schema.PICTURE_BODY},
    )
    async def detect(
        request: Request,
        model: str = model_query,
        score_threshold: Annotated[float, Query(ge=0, le=1, description=schema.SCORE_HELP)] = SCORE_THRESHOLD,
        iou_threshold: Annotated[float, Query(ge=0, le=1, description=schema.IOU_HELP)] = IOU_THRESHOLD,
        classes: Annotated[list[str] | None, Query(description=schema.CLASSES_HELP)] = None,
    ) -> JSONResponse:
        """Find the objects of one picture, best score first.

        The answer is what `pocketdet predict --json` prints; boxes are left, top, right, bottom in pixels of the
        upright picture.
        """
        if model not in service.predictors:
            raise HTTPException(422, f"model is {model!r}; this server has {', '.join(names)}")
        known = service.predictors[model].class_names
        for name in classes or ():
            if name not in known:
                raise HTTPException(422, f"classes has {name!r}; {model} knows {', '.join(known)}")
        found = await service.detect(request, model, (score_threshold, iou_threshold), classes or [])
        return JSONResponse({"pictures": [found.to_dict()], "errors": []})


def _add_page(app: FastAPI, models: Mapping[str, Path]) -> None:
    """A route for every file, so that no path from a client is ever looked for on the disk."""

    def add(address: str, answer: Callable[[], Response]) -> None:
        async def give() -> Response:
            return answer()

        app.add_api_route(address, give, include_in_schema=False)

    for address, path in page.page_files(models).items():
        add(f"/{address}", partial(FileResponse, path, media_type=page.MEDIA_TYPES[path.suffix]))
    add("/", partial(FileResponse, page.STATIC / "index.html", media_type="text/html"))
    add("/models.json", partial(Response, page.list_models(models), media_type="application/json"))


def _key_check(api_key: str) -> Any:
    """A dependency that refuses whoever has not the key."""
    expected = api_key.encode()

    async def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        # Latin-1 is how Starlette makes text of a header's bytes.
        given = credentials.credentials.encode("latin-1") if credentials else b""
        if not secrets.compare_digest(given, expected):
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise HTTPException(401, message, {"www-authenticate": "Bearer"})

    return check


async def _explain_parameters(_: Request, error: Exception) -> JSONResponse:
    """FastAPI's list of findings as one sentence, as all other errors are."""
    assert isinstance(error, RequestValidationError)
    found = [f"{finding['loc'][-1]} is {finding['input']!r}: {finding['msg']}" for finding in error.errors()]
    return JSONResponse({"detail": "; ".join(found)}, 422)


async def _note_gone_client(_: Request, __: Exception) -> Response:
    """Nobody reads it; the figures count it. 499 is nginx's number for this."""
    return Response(status_code=499)
