"""Heads as bytes: that of an answer which no application makes, and that of a request without its offer to upgrade."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from shared.errors import AqueductError, MethodNotAllowed
from shared.jobs import new_id, request_id


def error_response(error: AqueductError) -> bytes:
    """Return a whole response, for requests that never reach the application."""
    body = error.json()
    headers = {
        "content-type": "application/json",
        "x-request-id": request_id(new_id()),
        "content-length": str(len(body)),
        "connection": "close",
        **error.response_headers(),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{lines}\r\n".encode() + body


def head_without_offer(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request's head without `upgrade`, its names in lower case; MethodNotAllowed for CONNECT."""
    if method == b"CONNECT":
        message = "This is no proxy: CONNECT is not served. Send requests to the gateway itself."
        raise MethodNotAllowed(message, headers={"allow": "GET, HEAD, POST, OPTIONS"})
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
