"""Raw bytes of a server-sent event stream, cut anywhere, in; blocks of complete events and their payloads out."""

from __future__ import annotations

import enum
import re

from shared.errors import AqueductError, BadBackendResponse
from shared.kinds.common.answers import MAX_OBJECTS, loads

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""An event that is not complete after this many bytes is refused, so that a backend cannot fill the memory."""
END = b"[DONE]"
"""The payload of a stream's last event."""
DONE_EVENT = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"
_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")


class _Reading(enum.Enum):
    """What a byte stream is read as."""

    OPENING = enum.auto()
    """Nothing came yet but half a byte order mark, or space."""
    EVENTS = enum.auto()
    DOCUMENT = enum.auto()
    """One JSON object that is no event stream: all of it is the rest."""


_AS_EVENTS = _Reading.EVENTS
"""Looked at with each read, and an enum's member takes longer to find."""


class EventBuffer:
    """Cuts a byte stream after its last blank line and keeps the rest."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._ends_with_cr = False
        self._reading = _Reading.OPENING

    @property
    def is_document(self) -> bool:
        """Whether what came is a JSON object instead of events; it is the `rest` once all has come."""
        return self._reading is _Reading.DOCUMENT

    def feed(self, data: bytes) -> bytes:
        r"""Return all complete events with line ends as `\n`; raises `BadBackendResponse` when one grows too long."""
        if self._reading is not _AS_EVENTS:
            data = self._opened(data)
            if not data:
                return b""
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

    def _opened(self, data: bytes) -> bytes:
        """Return what of the first bytes is to be read as events: without a byte order mark and the space before it."""
        if self._reading is _Reading.DOCUMENT:
            self._keep(data)
            return b""
        start = bytes(self._tail) + data
        self._tail.clear()
        if _BOM.startswith(start):  # half a mark, or nothing
            self._tail += start
            return b""
        start = start.removeprefix(_BOM).lstrip()
        if not start:
            return b""
        if start.startswith(b"{"):
            self._reading = _Reading.DOCUMENT
            self._keep(start)
            return b""
        self._reading = _Reading.EVENTS
        return start

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


def looks_like_events(body: bytes) -> bool:
    """Tell whether a body is an event stream, whatever its head says."""
    return _EVENTS.match(body) is not None


def without_end(body: bytes) -> bytes:
    """Return a JSON body without the `[DONE]` of a stream that some servers put behind it."""
    rest = body.rstrip()
    return rest.removesuffix(END).rstrip().removesuffix(b"data:") if rest.endswith(END) else body


def payloads(block: bytes) -> list[tuple[bytes, bool]]:
    """Return the data of each event, and whether it was named `error`; comments and other fields are dropped.

    Raises `BadBackendResponse` for more lines than may become objects at once.
    """
    if block.startswith(b"data: {") and block.find(b"\n") == len(block) - 2:  # one event, as at reading speed
        return [(block[6:-2], False)]
    if len(block) > MAX_OBJECTS and block.count(b"\n") > MAX_OBJECTS:
        raise BadBackendResponse(f"The model's backend sent more than {MAX_OBJECTS} lines at once.")
    found = []
    for event in block.split(b"\n\n"):
        if event.startswith(b"data: {") and b"\n" not in event:  # as nearly all are
            found.append((event[6:], False))
        elif event:
            lines, is_error = _data(event)
            if len(lines) > 1 and not is_error and all(map(_is_whole, lines)):
                found += [(line.strip(), False) for line in lines]  # events that a single line end divides
            elif payload := b"\n".join(lines).strip():
                found.append((payload, is_error))
    return found


def _is_whole(line: bytes) -> bool:
    """Tell whether a line of an event is all of a JSON object, or the end of a stream."""
    line = line.strip()
    if not line.startswith(b"{"):
        return line == END
    try:
        loads(line)
    except BadBackendResponse:
        return False
    return True


def _data(event: bytes) -> tuple[list[bytes], bool]:
    """Return the data lines of an event, and whether it tells of an error.

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
    return data, is_error


def error_event(error: AqueductError) -> bytes:
    """Return the end of a stream that has failed."""
    return b"data: " + error.json() + b"\n\n" + DONE_EVENT
