"""What an answer to HTTP/1.0 needs: uvicorn's cycle in, and it sends a body of unknown length without chunks.

HTTP/1.0 knows no chunked framing: its client would take the chunks' sizes for text. Such a body ends with the
connection, which uvicorn closes behind every answer to HTTP/1.0.
"""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def send_without_chunks(cycle: RequestResponseCycle) -> None:
    """Let this cycle's answer go out as HTTP/1.0 reads it, and promise it nothing that it does not know."""
    cycle.waiting_for_100_continue = False
    cycle.send = _Unframed(cycle).send  # type: ignore[method-assign]


def is_unframed(cycle: RequestResponseCycle) -> bool:
    """Tell whether this cycle's answer has begun as one that ends with its connection."""
    sender = getattr(cycle.send, "__self__", None)
    return isinstance(sender, _Unframed) and not sender.is_counted


class _Unframed:
    """The cycle's `send`, which tells the cycle of each part of an uncounted body that just so much was to come."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self.is_counted = True

    async def send(self, message: ASGISendEvent) -> None:
        """Send the head or a part of the body."""
        if message["type"] == "http.response.start":
            self.is_counted = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not self.is_counted:
                self._cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self.is_counted:
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)
