"""A timer that is put off all the time: a moment in, one call of `ring` out once it has passed.

To put it off costs a comparison. Only when the timer fires is the next one set, for what is left until then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

NEVER: Final = math.inf


class Alarm:
    """Calls `ring` at the moment that was set last, by the loop's clock."""

    __slots__ = ("_at", "_fires_at", "_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = self._fires_at = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Ring at this moment and at no other; NEVER is one too."""
        self._at = at
        if at < self._fires_at:
            self._arm()

    def stop(self) -> None:
        """Never ring again, and hold nothing."""
        self._at = self._fires_at = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._at
        # The loop's clock counts whole milliseconds: a shorter delay would only spin.
        self._timer = self._loop.call_later(max(0.001, self._at - self._loop.time()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._fires_at = NEVER
        if self._at == NEVER:
            return
        if self._loop.time() < self._at:
            self._arm()
            return
        self._at = NEVER
        self._ring()
