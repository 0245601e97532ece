"""Raw bytes of a server-sent event stream, cut anywhere, in; blocks of complete events and their payloads out."""

from __future__ import annotations

from shared.errors import AqueductError, BadBackendResponse

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""An event that is not complete after this many bytes is refused, so that a backend cannot fill the memory."""
END = b"[DONE]"
"""The payload of a stream's last event."""
DONE_EVENT = b"data: [DONE]\n\n"


class EventBuffer:
    """Cuts a byte stream after its last blank line and keeps the rest."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._ends_with_cr = False

    def feed(self, data: bytes) -> bytes:
        r"""Return all complete events with line ends as `\n`; raises `BadBackendResponse` when one grows too long."""
        if self._ends_with_cr or b"\r" in data:
            data = self._normalise(data)
        if not self._tail:
            if data.endswith(b"\n\n"):
                return data
            cut = data.rfind(b"\n\n") + 2
            if cut == 1:  # not found
                self._keep(data)
                return b""
            self._keep(data[cut:])
            return data[:cut]
        known = len(self._tail)
        self._tail += data
        cut = self._tail.rfind(b"\n\n", known - 1) + 2
        if cut == 1:
            self._check()
            return b""
        block = bytes(self._tail[:cut])
        del self._tail[:cut]
        self._check()
        return block

    def rest(self) -> bytes:
        """Return what came after the last blank line and forget it."""
        rest = bytes(self._tail)
        self._tail.clear()
        return rest

    def _keep(self, data: bytes) -> None:
        self._tail += data
        self._check()

    def _check(self) -> None:
        if len(self._tail) > MAX_EVENT_BYTES:
            self._tail.clear()
            raise BadBackendResponse("The model's backend sent an event that is too long.")

    def _normalise(self, data: bytes) -> bytes:
        """Turn CRLF and CR into LF; a CR at the very end waits for the LF that may follow."""
        if self._ends_with_cr:
            data = b"\r" + data
        self._ends_with_cr = data.endswith(b"\r")
        if self._ends_with_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def payloads(block: bytes) -> list[tuple[bytes, bool]]:
    """Return the data of each event, and whether it was named `error`; comments and other fields are dropped."""
    if block.startswith(b"data: {") and block.find(b"\n") == len(block) - 2:  # one event, as at reading speed
        return [(block[6:-2], False)]
    found = []
    for event in block.split(b"\n\n"):
        if event.startswith(b"data: {") and b"\n" not in event:  # as nearly all are
            found.append((event[6:], False))
        elif event:
            payload, is_error = _payload(event)
            if payload:
                found.append((payload, is_error))
    return found


def _payload(event: bytes) -> tuple[bytes, bool]:
    """Read an event line by line.

    A line `error: {…}` counts as well: older llama.cpp servers end a broken stream so.
    """
    is_error, data = False, []
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[5:])
        elif line.startswith(b"event:"):
            is_error = is_error or line[6:].strip() == b"error"
        elif line.startswith(b"error:"):
            is_error = True
            data.append(line[6:])
    return b"\n".join(data).strip(), is_error


def error_event(error: AqueductError) -> bytes:
    """Return the end of a stream that has failed."""
    return b"data: " + error.json() + b"\n\n" + DONE_EVENT
