"""Kubernetes' API server as far as the gateway knows it: it takes scales, and keeps what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.tls import make_authority, make_certificate


class ApiServer:
    """HTTPS with the cluster's own certificate, and what lies in a pod for it; `close` it."""

    def __init__(self, folder: Path) -> None:
        authority = make_authority(folder)
        pair = make_certificate(folder, authority)
        self.account = folder / "account"
        self.account.mkdir()
        (self.account / "ca.crt").write_bytes(authority.certificate.read_bytes())
        (self.account / "namespace").write_text("llm")
        (self.account / "token").write_text("of-the-pod\n")
        self.status = 200
        self.heard: list[tuple[str, str, str, str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                given = self.headers["authorization"], self.headers["content-type"]
                outer.heard.append((self.command, self.path, *given, body))
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(b'{"message": "no rights"}')

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of a pod, and where its account lies."""
        port = str(self._server.server_address[1])
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port,
            "SERVICE_ACCOUNT_DIR": str(self.account),
        }  # fmt: skip

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
