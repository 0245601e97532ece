"""The outermost layer, plain ASGI: ids, standing headers and log lines for every request, and errors in one shape.

`x-request-id` is on every answer. The id is also the job's, Flower's and the backend call's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from api.exchange import Exchange, Message, Receive, Scope, Send, standing
from api.paths import meant, tidy
from api.record import Listener, RequestRecord, record_of, write_log
from api.store_errors import store_error
from shared.errors import AqueductError, InvalidRequest, MethodNotAllowed, RequestError, UnknownUrl
from shared.jobs import new_id, request_id
from shared.store import StoreError

log = logging.getLogger("aqueduct.api.requests")

App = Callable[[Scope, Receive, Send], Awaitable[None]]
_LISTENERS: tuple[Listener, ...] = (write_log,)
"""Before the process is open."""
_LIVE = ("now", "jobs", "batches")
_QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics", *(f"/ui/{page}/live" for page in _LIVE)})


class Envelope:
    """ASGI middleware: gives each request its id and start time, adds the standing headers, logs the end."""

    def __init__(self, app: App, *, direct: Mapping[str, App]) -> None:
        """Wrap an application; POSTs to the `direct` paths skip its routing and middleware, which cost 50 µs."""
        self._app = app
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        job_id = new_id()
        state = scope.setdefault("state", {})
        path: bytes = scope.get("raw_path") or scope["path"].encode()  # its escapes may stand for anything
        state["record"] = record = RequestRecord(
            job_id, request_id(job_id), method=scope["method"], path=path, client=(scope["client"] or "?")[0]
        )
        if (traces := state.get("traces")) is not None:
            record.trace = traces.begin(record, scope["headers"])

        def send_with_headers(message: Message) -> Awaitable[None]:  # no coroutine of its own: it waits for nothing
            if message["type"] == "http.response.start":
                record.answered = message["status"]
                message["headers"] = [*message.get("headers", ()), *standing(record)]
            return send(message)

        state["send"] = send_with_headers
        try:
            direct = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
            if direct is not None:
                await direct(scope, receive, send_with_headers)
            else:
                await self._app(_as_routed(scope), receive, send_with_headers)
        except Exception:
            log.exception("unexpected error", extra={"request_id": record.request_id})
            record.error_code = AqueductError.code
            if not record.answered:
                await Exchange(scope, receive, send_with_headers).fail(AqueductError())
        finally:
            # It leads to uvicorn's cycle, and that to this state: a ring, which only a garbage collection would free.
            del state["send"]
            if scope["path"] not in _QUIET_PATHS:
                record.ended()
                for listener in state.get("listeners", _LISTENERS):
                    listener(record)


def _as_routed(scope: Scope) -> Scope:
    """Return a request as the routes know it: a tidy path, and GET for HEAD, whose body the server leaves out."""
    path = "/" if scope["path"] == "*" else tidy(scope["path"])  # `*` is the server as a whole
    return {**scope, "path": path, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}


def error_response(request: Request, error: AqueductError) -> Response:
    """Return an error as a whole response, for handlers of the framework."""
    record_of(request.scope).error_code = error.code
    return Response(error.json(), error.status, error.response_headers(), "application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Give every failure, the framework's own included, the OpenAI shape."""

    async def known(request: Request, error: Exception) -> Response:
        return error_response(request, cast(AqueductError, error))

    async def framework(request: Request, error: Exception) -> Response:
        found = cast(HTTPException, error)
        if found.status_code == 405 and request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": f"{_methods(request)}, OPTIONS"})
        return error_response(request, _from_framework(request, found))

    async def invalid(request: Request, error: Exception) -> Response:
        first = cast(RequestValidationError, error).errors()[0]
        is_json = first["type"] != "json_invalid"  # else `loc` ends with a place in the text
        where = ".".join(str(part) for part in first["loc"][1:]) if is_json else ""
        what = f"'{where}'" if where else str(first["loc"][0])
        code = "invalid_value" if is_json else "invalid_json"
        return error_response(
            request, InvalidRequest(f"Invalid {what}: {first['msg']}.", param=where or None, code=code)
        )

    async def store(request: Request, error: Exception) -> Response:
        return error_response(request, store_error(cast(StoreError, error)))

    async def unexpected(request: Request, error: Exception) -> Response:
        return error_response(request, AqueductError())

    app.add_exception_handler(AqueductError, known)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(StoreError, store)
    app.add_exception_handler(Exception, unexpected)


def _methods(request: Request) -> str:
    """Return what a path can be asked with that was asked with something else, whichever route serves it."""
    asked = ({**request.scope, "method": name} for name in ("GET", "POST", "DELETE"))
    routes = request.app.routes
    found = {one["method"] for one in asked if any(route.matches(one)[0] is Match.FULL for route in routes)}
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(name for name in ("GET", "HEAD", "POST", "DELETE") if name in found)


def _from_framework(request: Request, error: HTTPException) -> AqueductError:
    path = request.url.path[:200]
    if error.status_code == 404:
        right = meant(path)
        hint = f"Did you mean {right}? Check the client's base URL." if right else "Please check the URL for typos."
        return UnknownUrl(f"Unknown request URL: {request.method} {path}. {hint}")
    if error.status_code == 405:
        methods = _methods(request)
        message = f"Not allowed to {request.method} on {path}. Use {methods}."
        return MethodNotAllowed(message, headers={"allow": f"{methods}, OPTIONS"})
    found = RequestError(str(error.detail)) if error.status_code < 500 else AqueductError()
    found.status = error.status_code
    return found
