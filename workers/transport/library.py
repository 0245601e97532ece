"""HTTP through a well-kept library, httpcore2 (what httpx2 stands on): proxies, HTTP/2 (`docs/adr/0007-transports.md`).

One call at a time on a connection, in HTTP/2 too: the library tells a server of a call that nobody listens to only by
closing its connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h2.events
import httpcore2

from workers.transport.base import ConnectFailed, ConnectionLost, InvalidAnswer, LargeBody, Response
from workers.transport.dialer import Dialer
from workers.transport.pool import Pool
from workers.transport.server import DEFAULT_PORTS, Server, basic, bracketed, server_at
from workers.transport.wire import Wires

PIECE_BYTES = 256 * 1024
"""Of a large body, handed to the library at once."""


@dataclass(frozen=True)
class Way:
    """How a server is reached."""

    tls: ssl.SSLContext | None = None
    """For an https:// server; its own, as the library changes it."""
    http2: bool = False
    proxy: str | None = None
    """URL, with name and password if it wants them."""
    proxy_tls: ssl.SSLContext | None = None
    """For an https:// proxy; its own."""


class LibraryTransport(Pool):
    """One server and the kept-alive connections to it (`base.Transport`)."""

    def __init__(self, url: str, headers: Mapping[str, str], *, connect_timeout_seconds: float, way: Way) -> None:
        """Take the base URL, the headers of every request (ASCII, sent as they are), and the way there."""
        super().__init__()
        self.server = server_at(url, headers)
        self.connect_timeout_seconds = connect_timeout_seconds
        self._way = way
        proxy = urlsplit(way.proxy) if way.proxy else None
        first = server_at(way.proxy, {}) if way.proxy else self.server
        # The limit is kept by the call, as it goes on to the last handshake; this one only bounds what is left behind.
        self._dialer = Dialer(first.host, first.port, tls=None, timeout_seconds=connect_timeout_seconds)
        self._proxy_headers: list[tuple[bytes, bytes]] = []
        if proxy is not None and proxy.username is not None:
            self._proxy_headers = [(b"proxy-authorization", basic(proxy.username, proxy.password).encode())]

    async def _connect(self) -> _Connection:
        wires = Wires(self._dialer, self.loop)
        return _Connection(self, wires, self._line(wires).create_connection(_url(self.server, b"").origin))

    def _line(self, wires: Wires) -> httpcore2.AsyncConnectionPool:
        """Return the library's maker of connections."""
        way = self._way
        options: dict[str, Any] = {
            "ssl_context": way.tls,
            # Without TLS nothing can be agreed on: HTTP/2 is then spoken from the first byte.
            "http1": not way.http2 or self.server.is_tls,
            "http2": way.http2,
            "network_backend": wires,
        }
        if way.proxy is None:
            return httpcore2.AsyncConnectionPool(**options)
        parts = urlsplit(way.proxy)
        url = httpcore2.URL(
            scheme=parts.scheme.encode(),
            host=bracketed(parts.hostname or "").encode(),
            port=parts.port or DEFAULT_PORTS[parts.scheme],
            target=b"/",
        )
        return httpcore2.AsyncHTTPProxy(
            url, proxy_headers=self._proxy_headers, proxy_ssl_context=way.proxy_tls, **options
        )


class _Connection:
    """One connection (`pool.Connection`): a task a call, which carries the library's answer over to ours."""

    def __init__(self, owner: LibraryTransport, wires: Wires, http: httpcore2.AsyncConnectionInterface) -> None:
        self.loop = owner.loop
        self.idle_since = 0.0
        self._owner = owner
        self._wire = wires.wire
        self._http = http
        self._task: asyncio.Task[None] | None = None
        self._sending: LargeBody | None = None
        self._was_sent = False
        self._was_refused = False
        """The server said itself that it did nothing about the request."""
        self._room = asyncio.Event()

    @property
    def heard(self) -> bool:
        """Whether anything of an answer may have come."""
        return self._wire.heard and not self._was_refused

    @property
    def is_open(self) -> bool:
        return self._wire.is_open and self._http.is_available()

    def send(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> Response:
        response = Response(self)
        self._sending = body if isinstance(body, LargeBody) else None
        self._was_sent = self._was_refused = False
        self._wire.ask()
        self._task = self.loop.create_task(self._carry(self._request(path, headers, body), response))
        return response

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._wire.abort()

    def resume(self) -> None:
        self._room.set()

    def _request(self, path: bytes, headers: bytes, body: bytes | LargeBody) -> httpcore2.Request:
        server = self._owner.server
        further = (line.split(b": ", 1) for line in headers.split(b"\r\n") if line)
        return httpcore2.Request(
            b"POST",
            _url(server, path),
            headers=[
                *((name.encode(), value.encode()) for name, value in server.headers),
                *((name, value) for name, value in further),
                (b"content-length", b"%d" % len(body)),
            ],
            content=_Once(body) if isinstance(body, LargeBody) else body,
            extensions={"trace": self._trace, "sni_hostname": server.host.rstrip(".")},
        )

    async def _trace(self, name: str, info: dict[str, Any]) -> None:
        """Take note of the moment from which the server may have got the request."""
        if name.endswith(".send_request_headers.started") and info["request"].method == b"POST":
            self._was_sent = True
            self._wire.bear_fruit()  # what the way there took counts no longer
            self._limit.reschedule(None)
        elif self._was_sent and self._sending is not None and name.endswith(".send_request_body.complete"):
            sending, self._sending = self._sending, None
            sending.sent()

    async def _carry(self, request: httpcore2.Request, response: Response) -> None:
        try:
            async with asyncio.timeout(self._owner.connect_timeout_seconds) as self._limit:
                answer = await self._http.handle_async_request(request)
            await self._read(answer, response)
        except Exception as error:  # the task's edge: whatever it is, the caller hears of it
            response.fail(self._meaning(error))
        finally:
            self._task = None
            if not response.is_complete:
                response.fail(ConnectionLost())
                self._wire.abort()

    async def _read(self, answer: httpcore2.Response, response: Response) -> None:
        if answer.status < 200:
            raise InvalidAnswer
        if answer.status == 407:
            raise ConnectFailed  # the word of a proxy that passes requests on, not of the server behind it
        response.start(answer.status, {name.lower(): value for name, value in answer.headers})
        async for part in answer.aiter_stream():
            self._wire.bear_fruit()
            self._room.clear()
            has_room = not part or response.feed(part)
            response.hand_on()
            if not has_room:
                await self._room.wait()
        await answer.aclose()
        response.end()
        self._wire.may_be_told_between = answer.extensions.get("http_version") == b"HTTP/2"
        self._wire.is_asking = False
        may_have_more = not self._wire.may_be_told_between and (response.is_framed_twice or self._has_more())
        if self.is_open and not may_have_more:
            self._owner.keep(self)
        else:
            self._wire.abort()

    def _has_more(self) -> bool:
        """Whether bytes stand behind an HTTP/1.1 answer; the library would take them for the next one.

        It does not tell, so this looks where it keeps them; where that is not to be found, the answer is yes.
        """
        http: Any = self._http
        while (below := getattr(http, "_connection", None)) is not None:
            http = below
        parser = getattr(http, "_h11_state", None)
        return self._wire.unread > 0 or parser is None or bool(parser.trailing_data[0])

    def _meaning(self, error: Exception) -> Exception:
        if not self._was_sent or isinstance(error, ConnectFailed):
            return ConnectFailed()
        if isinstance(error, httpcore2.ConnectionNotAvailable):
            self._was_refused = True
            return ConnectionLost()
        reason = error.args[0] if error.args else None
        is_cut = isinstance(reason, h2.events.StreamReset | h2.events.ConnectionTerminated)
        if is_cut or (self._wire.has_ended and not self._wire.unread and not isinstance(error, InvalidAnswer)):
            return ConnectionLost()
        return InvalidAnswer()


class _Once:
    """A body as the library wants it where it shall not keep it."""

    def __init__(self, body: LargeBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        data = memoryview(self._body.data)
        for at in range(0, len(data), PIECE_BYTES):
            yield bytes(data[at : at + PIECE_BYTES])


def _url(server: Server, path: bytes) -> httpcore2.URL:
    return httpcore2.URL(
        scheme=server.scheme.encode(),
        host=bracketed(server.host).encode(),
        port=server.port,
        target=server.path.encode() + path,
    )
