"""A backend that sends the cases' bytes: which server and case is told by the path and by the last message."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.matrix.cases import Case

OTHER_FORM = "other-form"
"""Behind a server's name in the path: it answers in the form that was not asked for."""

Json = dict[str, Any]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cases: Mapping[tuple[str, str], Case]
    asked: list[Json]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(asked)
        _, server, form, *_ = self.path.split("/")
        case = self.cases.get((server, str(asked["messages"][-1]["content"]))) or self.cases[server, "whatever"]
        body = case.body(stream=asked.get("stream", False) != (form == OTHER_FORM))
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
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the worker closes what it needs no more
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(cases: Sequence[Case], asked: list[Json] | None = None) -> Iterator[str]:
    """Serve on a free port of loopback; gives the base URL, to which a server's name is added.

    A case named `whatever` is the answer to all that no other one is. `asked` gets the bodies of the requests.
    """

    class Handler(_Handler):
        pass

    Handler.asked = asked if asked is not None else []
    Handler.cases = {(case.server, case.name): case for case in cases}
    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
