"""Makes the FastAPI application: lifespan, routes, error shapes, the OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from api.envelope import App, Envelope, install_error_handlers
from api.exchange import Receive, Scope, Send
from api.gateway import open_gateway
from api.openapi import describe
from api.paths import PREFIXES, RESUME_PATH, both
from api.routes import admin, batches, completions, docs, files, health, index, metrics, models, requests, usage
from shared.catalogue import Catalogue
from shared.flower import PATH
from shared.kinds import KINDS, Kind
from shared.settings import Settings
from shared.version import VERSION

EXPOSED_HEADERS = (
    "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "x-aqueduct-queue-ms",
    "x-aqueduct-run-ms", "x-aqueduct-queue-position", "x-aqueduct-estimated-wait-ms", "x-aqueduct-structured-output",
    "x-aqueduct-held", "x-aqueduct-estimated-finish", "x-aqueduct-batch-status",
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
)  # fmt: skip
"""What a page's script may read; the SDKs in browsers decide by some of them whether and when to retry."""


def create_asgi(catalogue: Catalogue) -> tuple[FastAPI, App]:
    """Return the application, and what a server runs: the application inside its envelope.

    The envelope is not one of the application's middlewares, so that the paths of jobs pass none of them.
    """
    app, settings = create_app(catalogue), catalogue.settings
    direct: dict[str, App] = {}
    for kind in KINDS.values():
        direct |= dict.fromkeys(both(kind.path), _with_cors(_Endpoint(kind), settings))
    return app, Envelope(_with_cors(app, settings), direct=direct)


def _with_cors(app: App, settings: Settings) -> App:
    """Return the application behind the CORS rules, if any; inside the envelope, as preflights have ids too."""
    if not settings.api.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.api.cors_origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )


def create_app(catalogue: Catalogue) -> FastAPI:
    """Return the application; its lifespan opens Redis and closes it again."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_gateway(catalogue) as gateway:
            app.state.gateway = gateway
            yield {"gateway": gateway, "listeners": gateway.listeners, "traces": gateway.traces}

    app = FastAPI(
        title="Aqueduct",
        summary="An OpenAI-compatible gateway with a queue per model.",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # the framework's pages ask others for their scripts and fonts; `routes.docs` does not
        redoc_url=None,
        # Its own would tell what it refuses, word for word, to whom its variables name; ours is `api/traces.py`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for kind in KINDS.values():
        for path in both(kind.path):
            app.router.routes.append(Route(path, _Endpoint(kind), methods=["POST"]))  # answers 405 to other methods
    for prefix in PREFIXES:
        app.include_router(models.router, prefix=prefix, include_in_schema=not prefix)
        app.include_router(files.router, prefix=prefix, include_in_schema=not prefix)
        app.include_router(batches.router, prefix=prefix, include_in_schema=not prefix)
        app.router.routes.append(Route(f"{prefix}{RESUME_PATH}", _resume, methods=["GET"]))
        app.include_router(completions.router, prefix=prefix, include_in_schema=not prefix)
        app.include_router(usage.router, prefix=prefix, include_in_schema=not prefix)
        app.include_router(requests.router, prefix=prefix, include_in_schema=not prefix)
    app.include_router(admin.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(index.router)
    app.include_router(docs.router)
    if catalogue.settings.ui:
        _add_pages(app, catalogue.settings.flower.upstream)
    install_error_handlers(app)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


def _add_pages(app: FastAPI, upstream: str | None) -> None:
    """Add the status page, and Flower if it is there; where they are off nothing of them is even imported."""
    from api.ui.frame import Frame  # noqa: PLC0415

    frame = Frame()
    app.router.routes += [Route("/ui", frame), Route("/ui/{path:path}", frame)]
    if upstream:
        from api.flower import Flower  # noqa: PLC0415

        flower = Flower(upstream)
        app.router.routes += [Route(PATH, flower), Route(f"{PATH}/{{path:path}}", flower)]


class _Resume:
    """Hands a request to what reads stored streams on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["gateway"].resume(scope, receive, send)


_resume = _Resume()


class _Endpoint:
    """Hands a request to the process's endpoint of a kind, which exists once the lifespan has begun."""

    def __init__(self, kind: Kind) -> None:
        self._name = kind.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["gateway"].endpoints[self._name](scope, receive, send)
