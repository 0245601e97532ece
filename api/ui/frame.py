"""What stands around every page of `/ui`: who asks, what they may do, where a form came from, headers, and errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import FormData, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from api.exchange import Receive, Scope, Send
from api.gateway import Gateway
from api.record import record_of
from api.small_bodies import read_within
from api.store_errors import store_error
from api.ui import session as sessions
from api.ui.login import COOKIE_PATH, FIRST, LoginDesk, cookie_name, is_secure
from api.ui.origin import require_same_origin
from api.ui.page import Action, Page, Visit
from api.ui.pages import PAGES
from api.ui.rendering import environment, rendered, static_files
from shared.errors import (
    AqueductError,
    InvalidRequest,
    MethodNotAllowed,
    PermissionDenied,
    Unauthenticated,
    UnknownUrl,
)
from shared.redis import RedisRefused, RedisUnavailable
from shared.roles import is_allowed
from shared.room.admission import broker_error
from shared.store import StoreError
from shared.token_settings import TokenSettings

log = logging.getLogger("aqueduct.ui")

CAME: Final = "came"
"""Stands in an address that a page of ours has led to from a link on another site."""
MAX_FIELDS: Final = 1000
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # With `no-referrer` browsers would send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
NO_STORE: Final = "no-store"


class Frame:
    """The ASGI application of `/ui` and all that is below it."""

    def __init__(self) -> None:
        environment().globals["pages"] = list(PAGES.values())
        static_files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await serve(scope, receive, send, _answer)


async def serve(
    scope: Scope, receive: Receive, send: Send, answer: Callable[[Request, Gateway], Awaitable[Response]]
) -> None:
    """Answer one request with the headers of all pages; what fails becomes a page too."""
    request = Request(scope, receive)
    try:
        response = await answer(request, cast(Gateway, scope["state"]["gateway"]))
    except Exception as error:  # every failure becomes a page here, before anything is sent
        response = failed(request, error)
    headers = MutableHeaders(raw=response.raw_headers)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", NO_STORE)
    await response(scope, receive, send)


async def _answer(request: Request, gateway: Gateway) -> Response:
    if request.method == "OPTIONS":  # as at every other path
        return Response(status_code=204, headers={"allow": "GET, HEAD, POST, OPTIONS"})
    match _path(request):
        case []:
            return RedirectResponse(FIRST, 303)
        case ["static", name]:
            return _static(request, name)
        case ["login"]:
            return await _login(request, gateway)
        case ["logout"]:
            return await _logout(request, gateway)
        case [name] if name in PAGES:
            return await _read(request, gateway, PAGES[name], PAGES[name].view, is_page=True)
        case [name, part] if name in PAGES:
            page = PAGES[name]
            if request.method == "POST" and part in page.actions:
                return await _act(request, gateway, page, page.actions[part])
            if part in page.parts:
                return await _read(request, gateway, page, page.parts[part], is_page=False)
            if part in page.actions:  # where a login leads back to after a form whose session had ended
                return RedirectResponse(f"/ui/{name}", 303)
    raise UnknownUrl(f"There is no page {request.url.path[:200]}.")


def _path(request: Request) -> list[str]:
    return [part for part in request.scope["path"].removeprefix("/ui").split("/") if part]


def _static(request: Request, name: str) -> Response:
    _require_get(request)
    file = static_files().get(name)
    if file is None:
        raise UnknownUrl(f"There is no file {name[:100]}.")
    is_known = request.query_params.get("v") == file.version
    lasting = {"cache-control": "public, max-age=31536000, immutable" if is_known else "no-cache"}
    return Response(file.content, headers=lasting, media_type=file.media_type)


# --- coming and going -------------------------------------------------------------------------------------------------


async def _login(request: Request, gateway: Gateway) -> Response:
    desk = LoginDesk(request, gateway)
    if request.method == "GET":
        return desk.form()
    _require(request, "POST")
    require_same_origin(request)
    return await desk.enter(_form(await read_within(request, 8 * 1024)))


async def _logout(request: Request, gateway: Gateway) -> Response:
    _require(request, "POST")
    require_same_origin(request)
    form = _form(await read_within(request, 8 * 1024))
    found = await sessions.find(gateway.client, request.cookies.get(cookie_name(request), ""))
    if found is not None:
        if not found.is_csrf(form.get("csrf")):
            raise _no_csrf()
        await found.end()
    response = RedirectResponse("/ui/login", 303)
    response.delete_cookie(
        cookie_name(request), COOKIE_PATH, secure=is_secure(request), httponly=True, samesite="strict"
    )
    return response


# --- pages ------------------------------------------------------------------------------------------------------------


class LoggedOut(Exception):
    """There is no session, or not any more."""


async def _visit(request: Request, gateway: Gateway, page: Page) -> Visit:
    """Return who asks; raises LoggedOut."""
    session, token = await entered(request, gateway)
    return Visit(request=request, gateway=gateway, session=session, token=token, here=page)


async def entered(request: Request, gateway: Gateway) -> tuple[sessions.Session, TokenSettings]:
    """Return the session, and the token as it is now; raises LoggedOut where it may not look (any more)."""
    given = request.cookies.get(cookie_name(request))
    session = await sessions.find(gateway.client, given) if given else None
    if session is None:
        raise LoggedOut
    try:
        token = await gateway.tokens.find_hash(session.token_hash)
    except (Unauthenticated, PermissionDenied):
        token = None
    if token is None or not is_allowed(token.role, "viewer"):
        await session.end()
        raise LoggedOut
    record_of(request.scope).is_of(token)
    return session, token


async def _read(
    request: Request, gateway: Gateway, page: Page, view: Callable[[Visit], Awaitable[Response]], *, is_page: bool
) -> Response:
    _require_get(request)
    try:
        visit = await _visit(request, gateway, page)
    except LoggedOut:
        return to_login(request, is_page=is_page)
    if is_page and CAME in request.query_params:
        return RedirectResponse(_address(request), 303)
    if is_page and visit.session.notice:
        visit.notice = visit.session.notice
        await visit.session.say("")
    return await view(visit)


async def _act(request: Request, gateway: Gateway, page: Page, action: Action) -> Response:
    require_same_origin(request)
    try:
        visit = await _visit(request, gateway, page)
    except LoggedOut:
        return to_login(request, is_page=not _wants_json(request))
    if not is_allowed(visit.token.role, action.role):
        raise PermissionDenied(f"This needs a token with the role `{action.role}`; yours has `{visit.token.role}`.")
    visit.body = await read_within(request, action.max_bytes)
    if _media_type(request) == "application/x-www-form-urlencoded":
        visit.form = _form(visit.body)
    if not visit.session.is_csrf(request.headers.get("x-csrf-token") or visit.form.get("csrf")):
        raise _no_csrf()
    return await action.run(visit)


def to_login(request: Request, *, is_page: bool) -> Response:
    if not is_page:
        return Response("Your session has ended. Log in again.\n", 401, media_type="text/plain")
    here = _address(request) if request.method == "GET" else request.url.path.rpartition("/")[0]
    site = request.headers.get("sec-fetch-site")
    if request.method == "GET" and site in ("cross-site", "same-site") and CAME not in request.query_params:
        # Where a link on another site leads here the cookie is not sent along; from a page of ours on it is.
        return HTMLResponse(rendered("bounce.html", to=_with_mark(here)))
    return RedirectResponse("/ui/login" if here == FIRST else f"/ui/login?next={quote(here, safe='/')}", 303)


def _address(request: Request) -> str:
    """Return the path and query that are asked for, without our own mark."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != CAME]
    return request.url.path + (f"?{urlencode(pairs)}" if pairs else "")


def _with_mark(address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{CAME}=1"


def _no_csrf() -> AqueductError:
    return PermissionDenied("The form is not one of this session. Load the page again, and send it from there.")


# --- reading a request ------------------------------------------------------------------------------------------------


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(f"Use {' or '.join(methods)}.", headers={"allow": ", ".join(methods)})


def _require_get(request: Request) -> None:
    _require(request, "GET")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _form(body: bytes) -> FormData:
    try:
        return FormData([*parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)])
    except ValueError:
        raise InvalidRequest("The form cannot be read. Load the page again, and send it from there.") from None


# --- what went wrong --------------------------------------------------------------------------------------------------


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def failed(request: Request, error: Exception) -> Response:
    told = _told(request, error)
    record_of(request.scope).error_code = told.code
    if _wants_json(request):
        return JSONResponse({"error": {"message": told.message, "code": told.code}}, told.status)
    context: dict[str, Any] = {"message": told.message, "status": told.status, "back": _back(request)}
    headers = {key: value for key, value in told.response_headers().items() if key in ("allow", "retry-after")}
    return HTMLResponse(rendered("error.html", **context), told.status, headers)


def _told(request: Request, error: Exception) -> AqueductError:
    match error:
        case AqueductError():
            return error
        case RedisUnavailable() | RedisRefused():
            return broker_error(error)
        case StoreError():
            return store_error(error)
    log.error(
        "unexpected error in a page",
        exc_info=error,
        extra={"request_id": record_of(request.scope).request_id},
    )
    return AqueductError()


def _back(request: Request) -> str:
    path = _path(request)
    return f"/ui/{path[0]}" if path and path[0] in PAGES else FIRST
