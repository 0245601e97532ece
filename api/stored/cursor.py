"""Numbers in a stored stream: each event gets an `id:` line with its place, from 0, by which a reader goes on later.

The end, `[DONE]` or an error, has none: whoever goes on from any number gets it, too.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.kinds.common.sse import DONE_EVENT

NOTHING = -1


class Cursor:
    """How far a reader of one stream is; what it has had already is left out."""

    __slots__ = ("_after", "_number")

    def __init__(self, after: int = NOTHING) -> None:
        self._after = after
        self._number = 0
        """Of the next event."""

    def numbered(self, block: bytes) -> bytes:
        """Return whole events with their numbers."""
        out, self._number = self._number_all(block)
        return out

    def writer(self, write: Callable[[bytes], bool] | None) -> Callable[[bytes], bool] | None:
        """Return what numbers events and writes them; nothing counts that `write` refuses."""
        if write is None:
            return None

        def write_numbered(block: bytes) -> bool:
            out, number = self._number_all(block)
            if not write(out):
                return False
            self._number = number
            return True

        return write_numbered

    def _number_all(self, block: bytes) -> tuple[bytes, int]:
        if block == DONE_EVENT:
            return block, self._number
        out, number = [], self._number
        for event in block.split(b"\n\n")[:-1]:
            if event == DONE_EVENT[:-2]:
                out.append(DONE_EVENT)
                continue
            if number > self._after:
                out.append(b"id: %d\n%b\n\n" % (number, event))
            number += 1
        return b"".join(out), number


def glued(comment: bytes) -> bytes:
    """Return a comment as part of the next event: by itself it would be an empty one to SDKs that remember an id."""
    return comment[:-1]
