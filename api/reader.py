"""Watches whether a client takes what was written to it: the transport in, "stalled" out when nothing is taken."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from contextlib import suppress

from api.alarm import NEVER


class Reader:
    """The taking side of a connection. Somebody else has the timer: `due` says when to ask `is_stalled` again."""

    __slots__ = ("_left_bytes", "_stalled_seconds", "_took_at", "_transport", "due")

    def __init__(self, transport: asyncio.Transport, stalled_seconds: float) -> None:
        self._transport = transport
        self._stalled_seconds = stalled_seconds
        self._left_bytes = 0
        self._took_at = 0.0
        self.due = NEVER

    def watch(self, now: float) -> None:
        """Begin to watch a reader who is slower than the answer."""
        self._left_bytes, self._took_at = self._left_to_take(), now
        self.due = now + self._stalled_seconds / 4

    def leave(self) -> None:
        """Watch no more."""
        self.due = NEVER

    def is_stalled(self, now: float) -> bool:
        """Look whether anything was taken since the last look; True after too long without."""
        before, self._left_bytes = self._left_bytes, self._left_to_take()
        if self._left_bytes < before:
            self._took_at = now
        self.due = now + self._stalled_seconds / 4
        return now - self._took_at >= self._stalled_seconds

    def _left_to_take(self) -> int:
        """Return how many bytes the client has not taken: those in the transport, and in the kernel where it tells.

        The kernel asks for more only when a good part of its own buffer, often megabytes, is free. A slow reader needs
        minutes for that, so that the transport alone would look stalled.
        """
        left = self._transport.get_write_buffer_size()
        connection: socket.socket = self._transport.get_extra_info("socket")
        with suppress(OSError, ValueError):  # not on this system; just closed
            left += int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return left
