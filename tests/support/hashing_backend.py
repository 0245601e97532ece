"""A real HTTP server that answers with a hash of the messages it was sent, and can keep answers until many are here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MARK = b'"messages":'
PIECE = 256 * 1024


def hash_of(messages: bytes) -> str:
    """Return what the server answers: of the messages' text, to the body's end."""
    return hashlib.sha256(messages).hexdigest()


@dataclass
class HashingBackend:
    """What a test and the server's threads share."""

    url: str = ""
    meeting: threading.Barrier | None = None
    """Where a whole request waits for others before it is answered."""
    refuse: int = 0
    """How many whole requests are still to be cut off without an answer."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def cuts(self) -> bool:
        """Whether this request is to be cut off."""
        with self.lock:
            self.refuse -= 1
            return self.refuse >= 0


@contextmanager
def hashing_backend(**settings: Any) -> Iterator[HashingBackend]:
    """Run one in threads on a free loopback port."""
    shared = HashingBackend(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            left = int(self.headers["content-length"])
            head, found = b"", hashlib.sha256()
            while left:
                piece = self.rfile.read(min(left, PIECE))
                left -= len(piece)
                if MARK not in head:
                    head += piece
                    piece = head.partition(MARK)[2]
                found.update(piece)
            if shared.cuts():
                self.close_connection = True
                return
            if shared.meeting is not None:
                shared.meeting.wait(30)
            self._answer(found.hexdigest(), b'"stream":true' in head[:1000])

        def _answer(self, text: str, is_stream: bool) -> None:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": "stop", "delta" if is_stream else "message": message}
            body = json.dumps({"choices": [choice]}).encode()
            if is_stream:
                body = b"data: %b\n\ndata: [DONE]\n\n" % body
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if is_stream else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output stays readable."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        shared.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield shared
        finally:
            server.shutdown()
            thread.join()
