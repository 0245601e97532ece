"""A backend that sends the cases' bytes: which server and case is told by the path and by the last message."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.matrix.cases import Case


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cases: Mapping[tuple[str, str], Case]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.path.split("/")[1]
        body = self.cases[server, asked["messages"][-1]["content"]].body(stream=asked.get("stream", False))
        self.send_response(body.status)
        self.send_header("content-type", body.content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        size = body.piece_bytes or len(body.data)
        for at in range(0, len(body.data), size):
            piece = body.data[at : at + size]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if body.is_cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of callers that left."""


@contextmanager
def serving(cases: list[Case]) -> Iterator[str]:
    """Serve on a free port of loopback; gives the base URL, to which a server's name is added."""

    class Handler(_Handler):
        pass

    Handler.cases = {(case.server, case.name): case for case in cases}
    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
