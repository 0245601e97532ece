"""A receiver of webhooks: a real HTTP server that keeps what it is sent and answers as it is told."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import openai
from openai.types.webhooks import (
    BatchCancelledWebhookEvent,
    BatchCompletedWebhookEvent,
    BatchExpiredWebhookEvent,
    BatchFailedWebhookEvent,
)

from tests.support.processes import free_port
from tests.support.waiting import wait_until

BatchEvent = (
    BatchCancelledWebhookEvent | BatchCompletedWebhookEvent | BatchExpiredWebhookEvent | BatchFailedWebhookEvent
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    def unwrap(self, secret: str) -> BatchEvent:
        """Return the event as OpenAI's client reads it; raises InvalidWebhookSignatureError."""
        with openai.OpenAI(api_key="none", webhook_secret=secret) as client:
            event = client.webhooks.unwrap(self.body, self.headers)
        assert isinstance(event, BatchEvent)
        return event


class Receiver:
    """Listens from `open` on, as a context manager at once; what it answers is `status`, `hangs` or `endless`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/hooks?key=in-the-url"
        self.deliveries: list[Delivery] = []
        self.status = 200
        self.location = ""
        self.hangs = False
        self.endless = False
        self._server: ThreadingHTTPServer | None = None
        self._stopped = threading.Event()

    def open(self) -> Receiver:
        """Begin to listen."""
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                told.deliveries.append(Delivery(self.path, headers, body, time.time()))
                told.answer(self)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if self.hangs:
            self._stopped.wait(60)
            return
        handler.send_response(self.status)
        if self.location:
            handler.send_header("location", self.location)
        if self.endless:
            handler.end_headers()
            while not self._stopped.is_set():
                handler.wfile.write(b"x" * 65_536)
            return
        handler.send_header("content-length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    def wait(self, count: int, seconds: float = 40) -> list[Delivery]:
        """Wait for so many requests and return them all."""
        wait_until(lambda: len(self.deliveries) >= count, seconds, f"{count} webhooks", poll_seconds=0.05)
        return list(self.deliveries)

    def close(self) -> None:
        """Stop listening."""
        self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Receiver:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
