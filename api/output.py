"""What an answer is written to, and the whole answer in one piece.

uvicorn writes an answer's head and its body apart: two system calls, and a client that wakes for a head alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Output:
    """The transport as a request's cycle sees it: uvicorn closes it the moment a last answer ends, we with grace."""

    __slots__ = ("_write", "close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._write = transport.write
        self.write = self._write
        self.is_closing = transport.is_closing
        self.close = close

    def join_next(self) -> None:
        """Write the next two pieces as one: whoever asks for it has both."""
        self.write = self._keep  # type: ignore[assignment]

    def _keep(self, head: bytes) -> None:
        def write_both(rest: bytes) -> None:
            self.write = self._write
            self._write(head + rest)

        self.write = write_both  # type: ignore[assignment]


def write_whole(cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write a whole answer and end its cycle as uvicorn's `send` does; False where that must do it, in two pieces.

    Names come in lower case. Raises RuntimeError for a header that is no single line.
    """
    if cycle.disconnected or cycle.response_started or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    fields = [*cycle.default_headers, *headers, (b"content-length", b"%d" % len(body))]
    if not cycle.keep_alive:
        fields.append((b"connection", b"close"))
    head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % field for field in fields])
    lines = len(fields) + 1
    if not head.count(b"\r\n") == head.count(b"\r") == head.count(b"\n") == lines or b"\0" in head:
        raise RuntimeError("a header is no single line")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"%b\r\n%b" % (head, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
