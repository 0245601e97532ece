"""Makes the FastAPI application: lifespan, routes, error shapes, the OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from api.envelope import Envelope, install_error_handlers
from api.exchange import Receive, Scope, Send
from api.gateway import open_gateway
from api.openapi import describe
from api.routes import health, models
from shared.settings import Settings

CHAT_PATHS = ("/chat/completions", "/v1/chat/completions")


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan opens Redis and closes it again."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with open_gateway(settings) as gateway:
            app.state.gateway = gateway
            yield {"gateway": gateway}

    app = FastAPI(
        title="Aqueduct",
        summary="An OpenAI-compatible chat completions gateway with a queue per model.",
        version="0.1.0",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    chat = _Chat()
    for path in CHAT_PATHS:
        app.router.routes.append(Route(path, chat, methods=["POST"]))  # for its 405s
    app.include_router(models.router)
    app.include_router(health.router)
    install_error_handlers(app)
    if settings.api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.api.cors_origins,
            allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "openai-processing-ms"],
        )
    app.add_middleware(Envelope, direct=dict.fromkeys(CHAT_PATHS, chat))
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


class _Chat:
    """Hands a request to the process's chat endpoint, which exists once the lifespan has begun."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["gateway"].chat(scope, receive, send)
