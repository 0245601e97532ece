"""Runs the API under uvicorn until a signal: limits of the process, the server's settings, a drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import Final, cast

import uvicorn
import uvloop
from fastapi import FastAPI

from api.app import create_asgi
from api.connection import MAX_REFUSED, ClientConnection
from api.gateway import Gateway
from shared.catalogue import Catalogue
from shared.errors import Draining
from shared.fitness import ready_redis
from shared.logging import configure_logging
from shared.redis_url import shown_url
from shared.settings import ApiSettings, Settings
from shared.version import VERSION

log = logging.getLogger("aqueduct.api.server")

RESERVED_FILES: Final = 32
"""Redis, the listener, logs, imports: what else a process has open, and some air."""


class _Server(uvicorn.Server):
    """uvicorn, telling the application that a shutdown has begun before connections are drained."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say, once requests are taken, that they are, and with what."""
        await super().startup(sockets)
        if not self.started or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        log.info(
            "ready", extra={
                "version": VERSION, "url": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
                "models": ",".join(self._settings.models), "redis": shown_url(self._settings.redis),
                "pid": os.getpid(),
            },
        )  # fmt: skip

    def hang_up(self) -> None:
        """Read the configuration again, as SIGHUP asks for."""
        gateway: Gateway | None = getattr(self._app.state, "gateway", None)
        if gateway is not None:
            gateway.reloading.hang_up()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, give open streams their grace, then close."""
        gateway: Gateway | None = getattr(self._app.state, "gateway", None)
        if gateway is not None:
            log.info("draining", extra={"requests": len(gateway.relays), "seconds": self._settings.api.drain_seconds})
            gateway.drain()
            asyncio.get_running_loop().call_later(
                gateway.settings.api.drain_seconds, gateway.relays.cut_off, partial(Draining, retry_after=1)
            )
        await super().shutdown(sockets)
        log.info("ended")


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows it; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def with_fitting_connections(settings: ApiSettings, open_files: int) -> ApiSettings:
    """Return the settings with no more connections than files can be opened: an accept that fails hurts everybody."""
    fitting = max(1, open_files - RESERVED_FILES - MAX_REFUSED)
    if settings.max_connections <= fitting:
        return settings
    log.warning("the limit of open files allows fewer connections than api.max_connections; raise `ulimit -n`",
                extra={"connections": fitting, "files": open_files})  # fmt: skip
    return settings.model_copy(update={"max_connections": fitting})


def run(catalogue: Catalogue, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; open streams get `api.drain_seconds`.

    With a `listener`, several processes may share one port; it is closed at the end.
    """
    settings = catalogue.settings
    configure_logging(settings.log_format, settings.log_level)
    ready_redis(settings)
    limits = with_fitting_connections(settings.api, raise_file_limit())
    app, outer = create_asgi(catalogue)
    config = uvicorn.Config(
        outer,
        host=settings.api.host,
        port=settings.api.port,
        loop="uvloop",
        http=cast(type[asyncio.Protocol], partial(ClientConnection, settings=limits)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        backlog=4096,
        timeout_graceful_shutdown=math.ceil(settings.api.drain_seconds) + 1,  # the last second is for last words
        proxy_headers=bool(settings.api.trusted_proxies),
        forwarded_allow_ips=list(settings.api.trusted_proxies) or None,
    )
    server = _Server(config, app, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has drained; unhandled, a clean end would look like a kill.
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, config, listener))


async def _serve(server: _Server, config: uvicorn.Config, listener: socket.socket | None) -> None:
    listener = listener or config.bind_socket()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.hang_up)
    await server.serve(sockets=[listener])
