"""`/flower/`: Flower's pages, fetched from where it runs, for whoever is logged in at `/ui`. Read-only.

Of the browser's request Flower gets the path, the query and what its scripts post to list tasks: no cookie, no token. A
pass takes the login's place, see `aqueduct/flower_view/door.py`.
"""

from __future__ import annotations

import secrets
import ssl
from typing import Final

import httpx
from starlette.requests import Request
from starlette.responses import Response

from api.exchange import Receive, Scope, Send
from api.gateway import Gateway
from api.small_bodies import read_within
from api.ui.frame import LoggedOut, entered, serve, to_login
from api.ui.origin import require_same_origin
from shared.errors import BackendUnreachable, MethodNotAllowed, UnknownUrl
from shared.flower import PASS_HEADER, PASS_SECONDS, PATH, PREFIX_HEADER, pass_key
from shared.tls_files import system_context

_POSTED: Final = f"{PATH}/tasks/datatable"
"""The one page that is asked for by POST: it lists tasks."""
_MAX_POSTED: Final = 64 * 1024
_MAX_ANSWER: Final = 64 * 1024 * 1024
_ASKED: Final = ("accept", "content-type", "if-none-match", "if-modified-since", "x-requested-with")
_ANSWERED: Final = ("content-type", "etag", "last-modified", "content-security-policy")


class Flower:
    """The ASGI application of `/flower` and all that is below it."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._tls: ssl.SSLContext | bool = system_context() if upstream.startswith("https:") else False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await serve(scope, receive, send, self._answer)

    async def _answer(self, request: Request, gateway: Gateway) -> Response:
        path = request.scope["path"]
        is_posted = path == _POSTED
        if request.method not in (("POST",) if is_posted else ("GET", "HEAD")):
            raise MethodNotAllowed(
                f"{request.method} is not possible here: Flower is read-only.",
                headers={"allow": "POST" if is_posted else "GET, HEAD"},
            )
        if is_posted:
            require_same_origin(request)
        try:
            await entered(request, gateway)
        except LoggedOut:
            return to_login(request, is_page=not is_posted)
        return await self._fetched(request, gateway, await read_within(request, _MAX_POSTED) if is_posted else b"")

    async def _fetched(self, request: Request, gateway: Gateway, body: bytes) -> Response:
        url = self._url(request)
        word = secrets.token_urlsafe(24)
        await gateway.client.call("SET", pass_key(word), "1", "EX", str(PASS_SECONDS))
        headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
        headers |= {PASS_HEADER: word, PREFIX_HEADER: PATH, "accept-encoding": "identity"}
        try:
            async with (
                httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=30) as client,
                client.stream(request.method, url, headers=headers, content=body) as answer,
            ):
                content = bytearray()
                async for piece in answer.aiter_raw():
                    content += piece
                    if len(content) > _MAX_ANSWER:
                        raise BackendUnreachable("Flower answered too much.")
        except httpx.HTTPError as error:
            raise BackendUnreachable(
                f"Flower does not answer ({type(error).__name__}). Is it running where flower.upstream says?"
            ) from None
        if answer.status_code == 401:
            raise BackendUnreachable("Flower does not know this process. Do both use the same Redis?")
        kept = {name: answer.headers[name] for name in _ANSWERED if name in answer.headers}
        return Response(bytes(content), answer.status_code, kept)

    def _url(self, request: Request) -> httpx.URL:
        """Return where Flower has what is asked for; raises UnknownUrl for an address that can be none of its."""
        path = request.scope.get("raw_path", request.scope["path"].encode()).partition(b"?")[0]
        query = request.scope.get("query_string", b"")
        target = path[len(PATH) :] or b"/"  # of `/%66lower` no path is left, and httpx says so
        try:
            return httpx.URL(self._upstream, raw_path=target + (b"?" + query if query else b""))
        except (httpx.InvalidURL, UnicodeDecodeError):
            raise UnknownUrl("Flower has no page of this address.") from None
