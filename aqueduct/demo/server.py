"""Runs the demo backend on uvicorn until SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import uvicorn

from aqueduct.demo.app import create_app
from aqueduct.demo.presence import DemoProtocol

_BACKLOG = 2048


def serve(host: str = "127.0.0.1", port: int = 9000, record: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, which cut answers in flight; returns then.

    Prints one line, `demo backend ready on http://HOST:PORT/v1`, once it listens; port 0 takes a free one.
    Raises OSError if it cannot listen there.
    """
    listener = _listen(host, port)
    # uvicorn logs an error for each answer that is cut on purpose
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        cast(Any, create_app(record=record)),
        http=DemoProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=0,
    )
    bound_port = listener.getsockname()[1]
    shown_host = f"[{host}]" if ":" in host else host
    _Server(config, f"demo backend ready on http://{shown_host}:{bound_port}/v1").run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


class _Server(uvicorn.Server):
    """Says when it is ready, and ends with exit code 0 on a signal."""

    def __init__(self, config: uvicorn.Config, ready_line: str) -> None:
        super().__init__(config)
        self._ready_line = ready_line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        print(self._ready_line, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn, do not raise the signal again after a clean end."""
        caught = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in caught}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it has nothing to read again
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.should_exit = True
