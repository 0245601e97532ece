"""Requests as bytes on a socket of one's own, for what no HTTP client would send, or would not leave so rudely."""

from __future__ import annotations

import json
import socket
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
