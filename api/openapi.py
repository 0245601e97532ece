"""The OpenAPI description: the framework's, and the chat endpoint's, which speaks bare ASGI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.components import openapi_components

_ERRORS = {
    400: "Bad request: the message names the parameter",
    401: "No or bad token",
    403: "The token may not do that",
    404: "The model does not exist or the token may not use it",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The backend found the request unprocessable",
    429: "A limit of the token, or the model's queue is full; see Retry-After",
    500: "Internal or backend error",
    503: "No worker, draining, or the queue is unavailable; see Retry-After",
    504: "Waited or ran too long",
}
_EVENT = {
    "type": "object",
    "description": "One server-sent event.",
    "required": ["data"],
    "properties": {
        "data": {
            "type": "string",
            "description": "A `chat.completion.chunk` or an error object as JSON; at last `[DONE]`.",
        }
    },
}
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(openapi_components())
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        operation = _chat_operation()
        for path in ("/chat/completions", "/v1/chat/completions"):
            suffix = "" if path.startswith("/chat") else "V1"
            document["paths"][path] = {"post": {**operation, "operationId": "createChatCompletion" + suffix}}
        for path, item in document["paths"].items():
            if path.startswith("/models"):
                for method in item.values():
                    method["security"] = [{"bearer": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _chat_operation() -> dict[str, Any]:
    return {
        "tags": ["Chat"],
        "summary": "Create a chat completion, streamed as server-sent events when `stream` is true.",
        "security": [{"bearer": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateChatCompletionRequest"}}},
        },
        "responses": {
            "200": {
                "description": "The completion, or a stream of `chat.completion.chunk` events",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletion"}},
                    "text/event-stream": {"schema": _EVENT},
                },
            },
            **{str(status): {"description": text, "content": _ERROR_CONTENT} for status, text in _ERRORS.items()},
        },
    }
