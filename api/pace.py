"""How fast a model's line moves: what Redis says of its slots in, when a waiting request's turn comes out. No I/O.

A slot that a running request holds is free when that has run for as long as requests do on average, and then again and
again. That is when the turn comes of whoever has so many before it, if nobody else came. But others come, and some of
them go first: of a higher lane, or of a tenant with less work. How much longer it took than that, for requests of the
same lane and tenant with about as many before them, is learned from those whose turn has come.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from shared.room.admission import Line

UNKNOWN_HELD_MS: Final = 1000
"""Where no request of the model has ended yet: at least so long, and twice as long as the running ones have run."""
OVERDUE_SHARE: Final = 0.04
"""What is left, of the average, of a request that has run for longer than that."""
MAX_LEARNERS: Final = 1000
"""Lanes and tenants of one model that are remembered; the one not seen for longest is dropped."""
_KEPT: Final = 0.9
_LEAST_MS: Final = 50
"""A shorter wait teaches nothing: it is mostly chance."""
_LEAST_SEEN: Final = 2.5
"""So much must have been seen of shorter lines before longer ones are judged by them."""


class Pace:
    """When the slots of a model get free, as seen at a moment (seconds of the event loop's clock)."""

    __slots__ = ("_at", "_frees", "_held_ms", "_places", "is_known")

    def __init__(self, line: Line, now: float) -> None:
        self.is_known = line.held_ms > 0
        """Whether any request has ended yet, so that it is more than a guess."""
        ages = line.ages_ms
        guess = max(UNKNOWN_HELD_MS, 2 * sum(ages) // len(ages)) if ages else UNKNOWN_HELD_MS
        self._held_ms = line.held_ms or guess
        overdue = self._held_ms * OVERDUE_SHARE
        self._frees = sorted(max(self._held_ms - age, overdue) for age in ages) or [0.0]
        self._places = max(line.places, len(self._frees))
        self._at = now

    def wait_ms(self, before: int, now: float) -> float:
        """Return how long a request waits that has so many before it now, if nobody comes who goes first."""
        self._move_on((now - self._at) * 1000)
        self._at = now
        # Where there are very many slots, each of those that were looked at stands for some.
        rounds, index = divmod(before * len(self._frees) // self._places, len(self._frees))
        return self._frees[index] + rounds * self._held_ms

    def _move_on(self, passed_ms: float) -> None:
        """Let time pass: a slot that has got free was taken again at once."""
        if passed_ms > 1:
            self._frees = sorted((left - passed_ms) % self._held_ms for left in self._frees)


class _Learner:
    """How long requests of one lane and tenant waited, against what `Pace` said; by how many were before them."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[int, tuple[float, float, float]] = {}

    def learn(self, size: int, said_ms: float, waited_ms: float) -> None:
        said, waited, seen = self._sums.get(size, (0.0, 0.0, 0.0))
        self._sums[size] = said * _KEPT + said_ms, waited * _KEPT + waited_ms, seen * _KEPT + 1

    def factor(self, size: int, said_ms: float) -> float:
        for known in range(size, -1, -1):
            said, waited, seen = self._sums.get(known, (0.0, 0.0, 0.0))
            if seen >= _LEAST_SEEN or (seen and known == size):
                if known != size:
                    return waited / said
                right = said_ms / 2  # half a wait that was as long as said, so that one of chance does not rule
                return (waited + right) / (said + right)
        return 1.0


class Experience:
    """What was learned of one model's line."""

    def __init__(self) -> None:
        self._learners: OrderedDict[tuple[str, str], _Learner] = OrderedDict()

    def learn(self, lane: str, tenant: str, size: int, said_ms: float, waited_ms: float) -> None:
        """Take note how long a request waited of which `Pace` said so much; `size` as `size_of` says."""
        if said_ms < _LEAST_MS:
            return
        key = lane, tenant
        learner = self._learners.setdefault(key, _Learner())
        self._learners.move_to_end(key)
        learner.learn(size, said_ms, min(max(waited_ms, 0.0), 20 * said_ms))
        if len(self._learners) > MAX_LEARNERS:
            self._learners.popitem(last=False)

    def expected_ms(self, lane: str, tenant: str, before: int, said_ms: float) -> float:
        """Return how long a request will wait of which `Pace` says so much."""
        learner = self._learners.get((lane, tenant))
        return said_ms if learner is None else said_ms * learner.factor(size_of(before), said_ms)


def size_of(before: int) -> int:
    """Return how many are before a request, roughly: those with about as many wait alike."""
    return before.bit_length()
