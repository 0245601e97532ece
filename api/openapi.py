"""The OpenAPI description: the framework's, and the endpoints of jobs, which speak bare ASGI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.components import openapi_components, reference
from api.paths import RESUME_PATH, both
from shared.kinds import KINDS
from shared.kinds.chat import CHAT
from shared.kinds.kind import Description

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
_RESUME_ERRORS = {
    400: "Bad request: the message names the parameter, or it is no stream",
    401: "No or bad token",
    404: "No such stored completion of this token, or no store is set up",
    503: "Temporarily unavailable; see Retry-After",
}
_ERROR_CONTENT = {"application/json": {"schema": reference("ErrorResponse")}}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        document["servers"] = [{"url": "/", "description": "This gateway; each path also stands behind /v1."}]
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(openapi_components())
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the gateway, such as `sk-aq-…`."}
        }
        for kind in KINDS.values():
            for path, suffix in zip(both(kind.path), ("", "V1"), strict=True):
                document["paths"].setdefault(path, {})["post"] = _operation(kind.description, suffix)
        document["paths"][RESUME_PATH] = {"get": _resume()}
        _without_framework_errors(document)
        for path, item in document["paths"].items():
            if path.startswith(
                ("/models", "/files", "/uploads", "/batches", "/requests", "/organization", "/chat", "/admin")
            ):
                for method in item.values():
                    method["security"] = [{"bearer": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _without_framework_errors(document: dict[str, Any]) -> None:
    """Take out the framework's own 422: what is wrong with a path or a query is told as 400 with our error object."""
    for item in document["paths"].values():
        for operation in item.values():
            if "HTTPValidationError" in str(operation.get("responses", {}).get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _operation(described: Description, suffix: str) -> dict[str, Any]:
    answer, *chunks = (kind.__name__ for kind in described.answers())
    content: dict[str, Any] = {"application/json": {"schema": reference(answer)}}
    if chunks:
        content["text/event-stream"] = {"schema": _event(chunks[0])}
    return {
        "tags": [described.tag],
        "operationId": described.operation_id + suffix,
        "summary": described.summary,
        "security": [{"bearer": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference(described.request)}},
        },
        "responses": {
            "200": {"description": "The answer" + (", or its chunks as events" if chunks else ""), "content": content},
            **_failures(_ERRORS),
        },
    }


def _failures(texts: dict[int, str]) -> dict[str, Any]:
    return {str(status): {"description": text, "content": _ERROR_CONTENT} for status, text in texts.items()}


def _resume() -> dict[str, Any]:
    numbers = {"type": "integer", "minimum": 0}
    about = "The number of the last event that the reader has; without it the stream begins anew."
    return {
        "tags": [CHAT.description.tag],
        "operationId": "resumeChatCompletion",
        "summary": "Read a stored stream on, while it runs or after its end.",
        "parameters": [
            {"name": "completion_id", "in": "path", "required": True, "schema": {"type": "string"}},
            {"name": "after", "in": "query", "required": False, "schema": numbers, "description": about},
            {"name": "Last-Event-ID", "in": "header", "required": False, "schema": numbers, "description": about},
        ],
        "responses": {
            "200": {
                "description": "The events behind that one, to the last",
                "content": {"text/event-stream": {"schema": _event("ChatCompletionChunk")}},
            },
            **_failures(_RESUME_ERRORS),
        },
    }


def _event(chunk: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "One server-sent event.",
        "required": ["data"],
        "properties": {
            "data": {
                "type": "string",
                "description": f"A `{chunk}` or an error object as JSON; at last `[DONE]`.",
            }
        },
    }
