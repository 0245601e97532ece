"""Signs of life in, one call out when they stop: a timer that is put off far more often than it expires.

Setting a timer costs more than handling a chunk, so `extend` only notes the new time; the timer that is already set
looks again when it fires, and is set anew for what is left.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_SHORTEST_SECONDS = 0.001
"""uvloop's clock counts whole milliseconds: a shorter delay would only spin."""


class Deadline:
    """Calls back when it was not extended in time. Unarmed until the first `extend`."""

    __slots__ = ("_ends_at", "_fires_at", "_loop", "_on_expiry", "_timer", "expired")

    def __init__(self, on_expiry: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_expiry = on_expiry
        self._ends_at = math.inf
        self._fires_at = math.inf
        """When the timer looks: infinite without one, minus infinite once stopped, so that `extend` compares once."""
        self._timer: asyncio.TimerHandle | None = None
        self.expired = False
        """Whether it ever expired."""

    def extend(self, seconds: float) -> None:
        """Allow so much silence from now on; also starts again what has expired or was paused."""
        self._ends_at = self._loop.time() + seconds
        if self._fires_at > self._ends_at:
            self._arm()

    def pause(self) -> None:
        """Expire no more until `extend`."""
        self._ends_at = math.inf

    def stop(self) -> None:
        """Expire never again; what the callback holds is let go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fires_at = -math.inf
        self._on_expiry = _nothing

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        delay = max(self._ends_at - now, _SHORTEST_SECONDS)
        self._fires_at = now + delay
        self._timer = self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        self._fires_at = math.inf
        if self._ends_at == math.inf:
            return
        if self._loop.time() < self._ends_at:
            self._arm()
            return
        self._ends_at = math.inf
        self.expired = True
        self._on_expiry()


def _nothing() -> None:
    """Stand in for the callback of a deadline that was stopped."""
