"""A client that still sends behind its last answer: how long its bytes are thrown away before the connection is closed.

Closed with bytes unread, the client's system resets the connection, and a client in the midst of sending may never see
the answer. So a steady sender is heard out within bounds; one that pauses or drips has had its time to read.
"""

from __future__ import annotations

from typing import Final

STEP_SECONDS: Final = 1.0
"""How long the client has in any case, and how often its pace is judged."""
LONGEST_SECONDS: Final = 10.0
MAX_DISCARDED_BYTES: Final = 4 * 1024 * 1024
"""More is not taken; it waits at the client."""


class Lingering:
    """What is thrown away of one client; its time runs from `begin`, before which its answer is still on the way.

    `least_bytes_per_second` is what a body must come at, too.
    """

    __slots__ = ("_ends_at", "_least_bytes", "_step_bytes", "_total_bytes")

    def __init__(self, least_bytes_per_second: float) -> None:
        self._ends_at = 0.0
        self._least_bytes = least_bytes_per_second * STEP_SECONDS
        self._step_bytes = self._total_bytes = 0

    def begin(self, now: float) -> None:
        """Note that the whole answer is out."""
        self._ends_at = now + LONGEST_SECONDS

    def takes(self, size: int) -> bool:
        """Count bytes that were thrown away; False: enough, read no more."""
        self._step_bytes += size
        self._total_bytes += size
        return self._total_bytes <= MAX_DISCARDED_BYTES

    def goes_on(self, now: float) -> bool:
        """Judge a step that is over: whether there is another one."""
        is_steady = self._step_bytes >= self._least_bytes
        self._step_bytes = 0
        return is_steady and self._total_bytes <= MAX_DISCARDED_BYTES and now < self._ends_at
