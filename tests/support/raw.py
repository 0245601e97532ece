"""Requests as bytes on a socket of one's own, for what no HTTP client would send, or would not leave so rudely."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from tests.support.chat import CHAT
from tests.support.system import System


def connect(system: System, timeout_seconds: float = 20) -> socket.socket:
    """Return a connection to the API; the caller closes it."""
    return socket.create_connection(system.address, timeout=timeout_seconds)


def chat_request(system: System, body: dict[str, Any]) -> bytes:
    """Return a whole completion request with the token that may use every model."""
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {system.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def chunked_request(system: System, body: bytes) -> bytes:
    """Return a completion request whose body is these bytes, which need not be whole chunks."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {system.token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head.encode() + body


def read_response(connection: socket.socket) -> bytes:
    """Return the next response, which has a Content-Length, and leave the connection open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _part(connection)
    head, _, content = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    while len(content) < length:
        content += _part(connection)
    return head + b"\r\n\r\n" + content


def _part(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    assert part, "the connection was closed in the middle of a response"
    return part


def read_until_closed(connection: socket.socket, within_seconds: float = 10) -> bytes:
    """Return all that comes until the other side closes or resets; AssertionError when it does neither in time."""
    received = b""
    deadline = time.monotonic() + within_seconds
    try:
        while True:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(1 << 20)
            if not part:
                return received
            received += part
    except ConnectionError:
        return received
    except TimeoutError:
        raise AssertionError(f"still open after {within_seconds:g} s; received {received[-500:]!r}") from None


def send_until_refused(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send pieces until `most` bytes are out or the other side takes no more for 3 s; returns how many it took."""
    sent = 0
    connection.settimeout(3)
    try:
        while sent < most:
            sent += connection.send(piece)
    except (ConnectionError, TimeoutError):
        pass
    return sent
