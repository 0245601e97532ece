"""Runs the API under uvicorn: bounded headers, TCP_NODELAY, a drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.app import create_asgi
from shared.errors import AqueductError, Draining, HeadersTooLarge, InvalidRequest
from shared.fitness import ready_redis
from shared.jobs import new_id, request_id
from shared.logging import configure_logging
from shared.settings import Settings

log = logging.getLogger("aqueduct.api.server")


def _bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol with a limit on headers and OpenAI errors for requests it cannot parse."""

    class BoundedProtocol(HttpToolsProtocol):
        on_disconnect: Callable[[], None] | None = None
        """Called when the client closes the connection: what the `aqueduct.connection` extension is for."""
        _header_bytes = 0
        _refusal: AqueductError | None = None

        def on_message_begin(self) -> None:
            self._header_bytes = 0
            super().on_message_begin()
            self.scope["extensions"] = {"aqueduct.connection": {"protocol": self}}

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self.on_disconnect is not None:
                self.on_disconnect()

        def write_part(self, data: bytes) -> bool:
            """Write a part of a chunked body that has begun; False: the reader is slow, or the response over."""
            cycle = self.cycle
            if not data:
                return True  # an empty part would end the body
            if self.flow.write_paused or cycle.disconnected or cycle.response_complete or not cycle.chunked_encoding:
                return False
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return True

        @property
        def is_connected(self) -> bool:
            return not self.transport.is_closing()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def _count(self, size: int) -> None:
            self._header_bytes += size
            if self._header_bytes > max_header_bytes:
                self._refusal = HeadersTooLarge()
                raise self._refusal  # ends the parse; send_400_response tells the client

        def send_400_response(self, msg: str) -> None:
            error = self._refusal or InvalidRequest("The request is not valid HTTP/1.1.", code="invalid_http")
            body = error.json()
            head = (
                f"HTTP/1.1 {error.status} Bad Request\r\ncontent-type: application/json\r\n"
                f"x-request-id: {request_id(new_id())}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return BoundedProtocol


class _Server(uvicorn.Server):
    """uvicorn, telling the application that a shutdown has begun before connections are drained."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, give open streams their grace, then close."""
        gateway = getattr(self._app.state, "gateway", None)
        if gateway is not None:
            gateway.drain()
            asyncio.get_running_loop().call_later(
                gateway.settings.api.drain_seconds, gateway.relays.cut_off, Draining(retry_after=1)
            )
        await super().shutdown(sockets)


def run(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; open streams get `api.drain_seconds`.

    With a `listener`, several processes may share one port; it is closed at the end.
    """
    configure_logging(settings.log_format, settings.log_level)
    ready_redis(settings)
    app, outer = create_asgi(settings)
    config = uvicorn.Config(
        outer,
        host=settings.api.host,
        port=settings.api.port,
        loop="uvloop",
        http=_bounded_protocol(settings.api.max_header_bytes),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.api.drain_seconds) + 1,  # the last second is for last words
        proxy_headers=bool(settings.api.trusted_proxies),
        forwarded_allow_ips=list(settings.api.trusted_proxies) or None,
    )
    server = _Server(config, app)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has drained; unhandled, a clean end would look like a kill.
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, config, listener))


async def _serve(server: _Server, config: uvicorn.Config, listener: socket.socket | None) -> None:
    listener = listener or config.bind_socket()
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d", host, port, extra={"port": port})
    await server.serve(sockets=[listener])
