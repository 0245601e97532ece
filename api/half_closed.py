"""A client that has shut its sending side: it waits for its answer, or it has left, and both look the same.

They differ once something is written: the system of one that has left answers with a reset. So a little is written that
no client minds, and looked for a reset after ever longer pauses: `probe` once, then `look` whenever its pause is over.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.http_1_0 import is_unframed

FIRST_LOOK_SECONDS: Final = 0.001
"""The first pause, of ever longer ones, until it is looked whether the client has left."""
PROBE_SECONDS: Final = 4.0
"""The longest of them; then it is written to again."""
UNPROBED_SECONDS: Final = 1.0
"""HTTP/1.0 knows nothing that may stand before an answer: one that has not begun by then is not waited for."""
_COMMENT: Final = b":\n\n"
"""Answers of unknown length are event streams, to which this is a comment."""


class HalfClosed:
    """What is known of such a client."""

    __slots__ = ("_has_waited", "_seconds", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._seconds = FIRST_LOOK_SECONDS
        self._has_waited = False

    def probe(self, cycle: RequestResponseCycle) -> float | None:
        """Write a little; returns the seconds until `look`, or None when the client is to be taken as gone."""
        self._seconds = FIRST_LOOK_SECONDS
        if cycle.response_started:
            self._comment(cycle)
        elif cycle.scope["http_version"] != "1.0":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif self._has_waited:
            return None
        else:
            self._has_waited = True
            self._seconds = PROBE_SECONDS
            return UNPROBED_SECONDS
        return self._seconds

    def look(self, cycle: RequestResponseCycle) -> float | None:
        """Return the seconds until the next look, or None when the client has left."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return None
        if self._seconds >= PROBE_SECONDS:
            return self.probe(cycle)
        self._seconds = min(PROBE_SECONDS, self._seconds * 4)
        return self._seconds

    def _comment(self, cycle: RequestResponseCycle) -> None:
        if cycle.disconnected or cycle.response_complete or cycle.flow.write_paused:
            return
        if cycle.chunked_encoding:
            self._transport.write(b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT))
        elif is_unframed(cycle):
            self._transport.write(_COMMENT)
