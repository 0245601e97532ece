"""How many requests one backend is given at once: measures in, a limit and its reason out. No clock, no I/O.

The limit doubles while throughput rises with it. Where it rises no more the knee is between the last two, and found by
halving. Then it is held, and now and then a little more or less is tried. What is not used teaches nothing.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Final

from shared.concurrency import Auto
from workers.capacity.measure import Counts, Sample, Usual, sample, tells_enough

GROWS: Final = 0.35
"""Part of what proportional growth would bring that must come, or the limit grows no further."""
PROBE: Final = 0.12
"""How much more is tried, at least one."""
SUFFICIENT: Final = 0.96
"""Of the best throughput that was seen; a smaller limit that brings so much is better."""
LOSES: Final = 0.2
"""Part of what proportional shrinking would cost that may be lost by giving less."""
SLOWED: Final = 0.9
"""Below such a part of the best speed of one request, fewer at once may bring as much."""
NARROW: Final = 0.08
"""The knee is known well enough."""
DROPPED: Final = 0.8
"""Below such a part of the held throughput the backend, or what is asked of it, has changed."""
USED: Final = 0.7
"""Below such a part of the limit in flight it is not what bounds."""
UNUSED_SECONDS: Final = 4.0
SETTLE_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 20.0
"""How long requests beyond a lowered limit are waited for."""
FIRST_PAUSE_SECONDS: Final = 4.0
LONGEST_PAUSE_SECONDS: Final = 14.0
"""Between two trials: short after a success, doubling while there is none."""
LONGEST_WINDOW_SECONDS: Final = 6.0
DISTRUSTED: Final = 0.5
"""Part of what proportional shrinking would cost from which on a backend's word that requests wait was wrong."""
DISTRUST_SECONDS: Final = 300.0
CUT: Final = 0.8
CEILING_SECONDS: Final = 30.0
"""So long after a refusal no more than what was refused is tried."""


class Reason(StrEnum):
    """Why a limit changed."""

    RISES = "throughput still rises"
    SAME = "fewer bring the same throughput"
    LESS = "fewer bring less throughput"
    NO_GAIN = "more brought no throughput"
    DROPPED = "throughput fell"
    TRIAL = "tried"
    REFUSED = "the backend refused"
    WAITING = "requests wait in the backend"
    UNUSED = "not used"


class _Phase(StrEnum):
    GROW = "grow"
    NARROW = "narrow"
    HOLD = "hold"
    UP = "up"
    DOWN = "down"


class Controller:
    """One backend's limit. `tick` it about once a second with what happened since."""

    def __init__(self, allowed: Auto, limit: int | None = None) -> None:
        """Take the range, and where a limit was found before, that."""
        self.allowed = allowed
        self.limit = allowed.first if limit is None else allowed.within(limit)
        self._phase = _Phase.GROW if limit is None else _Phase.HOLD
        self._usual = Usual()
        self._window = Counts()
        self._since = 0.0
        """Seconds since the last change of the limit."""
        self._unused = 0.0
        self._factor = 2.0
        self._below: Sample | None = None
        """While growing: what the last smaller limit brought."""
        self._base = self.limit
        """The limit to go back to: of a trial, or the last that was used."""
        self._base_sample: Sample | None = None
        self._best_speed = 0.0
        self._low, self._high = self.allowed.least, self.limit
        self._wanted = 0.0
        """While narrowing: the throughput that a limit must bring, about."""
        self._held: float | None = None
        """Throughput while held, on average."""
        self._drops = 0
        self._pause, self._pause_left = FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS
        self._ceiling, self._ceiling_left = allowed.most, 0.0
        self._queued = 0
        self._last: Sample | None = None
        self._relieved: tuple[int, Sample] | None = None
        """Before it was given less because of what waits: the limit and what it brought."""
        self._distrust_left = 0.0

    def tick(self, counts: Counts, waiting: float | None = None) -> Reason | None:
        """Hear of the last moments, and of how many wait inside the backend if that is known; why the limit changed."""
        if counts.seconds <= 0:
            return None
        self._usual.add(counts)
        self._since += counts.seconds
        self._pause_left -= counts.seconds
        self._ceiling_left -= counts.seconds
        if self._ceiling_left <= 0:
            self._ceiling = self.allowed.most
        if counts.refused and self._since >= 2 * SETTLE_SECONDS:
            return self._cut(counts.in_flight)
        if self._distrust_left > 0:
            self._distrust_left -= counts.seconds
            waiting = None
        if waiting is not None and self._queues(waiting):
            return self._relieve(waiting, counts.in_flight)
        if not self._is_settled(counts):
            return None
        if counts.in_flight < USED * self.limit:
            return self._unused_for(counts.seconds)
        self._unused = 0.0
        self._window.add(counts)
        is_long = self._window.seconds >= LONGEST_WINDOW_SECONDS
        if not is_long and (self._window.seconds < self._window_seconds() or not self._is_telling()):
            return None
        seen = sample(self._window, self._usual)
        if seen is None:
            return None
        self._window = Counts()
        return self._judge(seen, waiting)

    def allow(self, allowed: Auto) -> None:
        """Stay within another range from now on."""
        if allowed != self.allowed:
            self.allowed, self._ceiling = allowed, allowed.most
            self._hold(allowed.within(self.limit))

    @property
    def base(self) -> int:
        """The last limit that was no trial."""
        return self._base

    @property
    def is_held(self) -> bool:
        """Whether the limit is no trial."""
        return self._phase is _Phase.HOLD

    def _is_telling(self) -> bool:
        return tells_enough(self._window, self._usual, roughly=self._phase is _Phase.GROW)

    def _window_seconds(self) -> float:
        return 0.9 if self._phase is _Phase.GROW else 1.9

    def _is_settled(self, counts: Counts) -> bool:
        """Whether what is in flight has become what the limit says."""
        lag = max(SETTLE_SECONDS, 1.5 * self._usual.first_seconds)
        if self._since < min(lag, DRAIN_SECONDS):
            return False
        return counts.in_flight <= 1.1 * self.limit + 0.6 or self._since >= DRAIN_SECONDS

    def _unused_for(self, seconds: float) -> Reason | None:
        self._window = Counts()
        self._unused += seconds
        if self._unused < UNUSED_SECONDS or self._phase is _Phase.HOLD:
            return None
        if self._phase is _Phase.GROW:
            before, self._unused = self._base, 0.0
            return self._change(before, Reason.UNUSED) if before < self.limit else None
        return self._settle_at(self._high if self._phase is _Phase.NARROW else self._base, Reason.UNUSED)

    def _judge(self, seen: Sample, waiting: float | None) -> Reason | None:
        self._last = seen
        if self._relieved is not None and self._phase is _Phase.HOLD:
            (limit, before), self._relieved = self._relieved, None
            lost = _gain(seen, before)
            if lost is not None and lost > DISTRUSTED:  # what was said to wait was at work
                self._distrust_left = DISTRUST_SECONDS
                return self._settle_at(min(limit, self._ceiling), Reason.LESS)
        if self._phase is _Phase.GROW:
            return self._grown(seen)
        if self._phase is _Phase.NARROW:
            return self._narrowed(seen)
        if self._phase is _Phase.UP:
            return self._tried_more(seen, waiting)
        if self._phase is _Phase.DOWN:
            return self._tried_less(seen)
        return self._holding(seen, waiting)

    # --- growing and narrowing ----------------------------------------------------------------------------------

    def _grown(self, seen: Sample) -> Reason | None:
        below, at = self._below, self.limit
        gain = _gain(below, seen) if below is not None else 1.0
        if gain is None:
            return None
        if below is not None and gain < GROWS:
            self._wanted = max(below.throughput, seen.throughput)
            self._low, self._high = self._base, at
            if below.throughput >= SUFFICIENT * self._wanted:  # the one below was enough, and perhaps too much
                self._low, self._high = self.allowed.least - 1, self._base
                if below.speed >= SLOWED * self._best_speed:
                    return self._settle_at(self._base, Reason.NO_GAIN)
                return self._narrow(Reason.NO_GAIN)
            return self._narrow(Reason.NO_GAIN)
        self._best_speed = max(self._best_speed, seen.speed)
        self._below, self._base = seen, at
        wanted = min(self._ceiling, self.allowed.within(max(at + 1, round(at * self._factor))))
        self._factor = min(2.0, 2 * self._factor - 1)
        if wanted <= at:
            self._hold(at, seen)
            return None
        return self._change(wanted, Reason.RISES)

    def _narrow(self, reason: Reason) -> Reason | None:
        """Try a number between one that is too few and one that is enough; or hold this one."""
        low, high = self._low, self._high
        if high - low <= max(1.0, NARROW * high):
            return self._settle_at(high, reason)
        guess = self._wanted / self._best_speed if self._best_speed else 0.0
        if guess >= high * (1 - NARROW / 2):  # one request is as fast there as it ever was
            return self._settle_at(high, reason)
        aim = guess if guess > low * (1 + NARROW / 2) else math.sqrt(max(1, low) * high)
        self._phase = _Phase.NARROW
        return self._change(max(low + 1, min(high - 1, math.ceil(aim - 0.25))), reason)

    def _narrowed(self, seen: Sample) -> Reason | None:
        at = self.limit
        self._best_speed = max(self._best_speed, seen.speed)
        if seen.throughput < SUFFICIENT * self._wanted:
            self._low = at
            return self._narrow(Reason.LESS)
        self._high = at
        if seen.speed >= 0.95 * self._best_speed:  # nothing slows it down: fewer would bring less
            self._hold(at, seen)
            return None
        return self._narrow(Reason.SAME)

    # --- holding and trying -------------------------------------------------------------------------------------

    def _holding(self, seen: Sample, waiting: float | None) -> Reason | None:
        self._best_speed = max(self._best_speed, seen.speed)
        held = self._held
        if held is not None and seen.throughput < DROPPED * held and seen.speed < SLOWED * self._best_speed:
            self._drops += 1
            if self._drops < 2:
                return None
            self._drops, self._wanted = 0, seen.throughput
            self._low, self._high = max(self.allowed.least - 1, self.limit // 8), self.limit
            self._best_speed_forgets(seen)
            return self._narrow(Reason.DROPPED)
        self._drops = 0
        self._held = seen.throughput if held is None else held + 0.3 * (seen.throughput - held)
        if self._pause_left > 0:
            return None
        self._base, self._base_sample = self.limit, seen
        # Were one fewer enough, so much slower at least would each be.
        slowed = min(SLOWED, (1 - 1 / self.limit) ** 0.8)
        if seen.speed < slowed * self._best_speed and self.limit > self.allowed.least:
            aim = max(self.limit * seen.speed / self._best_speed, 0.7 * self.limit)
            self._phase = _Phase.DOWN
            return self._change(self.allowed.within(min(self.limit - 1, round(aim))), Reason.TRIAL)
        wanted = min(self._ceiling, self.allowed.within(self.limit + max(1, round(PROBE * self.limit))))
        if wanted <= self.limit or (waiting is not None and waiting >= 1):
            self._rest()
            return None
        self._phase = _Phase.UP
        return self._change(wanted, Reason.TRIAL)

    def _best_speed_forgets(self, seen: Sample) -> None:
        """What was fastest long ago may never come again; a fourth of it at least is no mere slowness."""
        self._best_speed = min(self._best_speed, 8 * seen.speed)

    def _tried_more(self, seen: Sample, waiting: float | None) -> Reason | None:
        gain = _gain(self._base_sample, seen) if self._base_sample is not None and not waiting else 0.0
        if gain is None:
            return None
        if gain < GROWS + 0.05:
            self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
            return self._settle_at(self._base, Reason.NO_GAIN, pause=False)
        self._pause = FIRST_PAUSE_SECONDS
        self._phase, self._factor, self._below = _Phase.GROW, 1.25, self._base_sample
        return self._grown(seen)

    def _tried_less(self, seen: Sample) -> Reason | None:
        base = self._base_sample
        lost = _gain(seen, base) if base is not None else None
        if lost is None or lost > LOSES:
            self._best_speed = math.sqrt(self._best_speed * seen.speed)  # what is asked of it may have become heavier
            self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
            return self._settle_at(self._base, Reason.LESS, pause=False)
        self._hold(self.limit, seen)
        self._pause_left = 0.0
        return None

    def _rest(self) -> None:
        """Wait before the next trial, longer where one more is much more."""
        self._pause_left = self._pause * (1 + 4 * max(0.0, 1 / self.limit - PROBE))

    def _settle_at(self, limit: int, reason: Reason, *, pause: bool = True) -> Reason | None:
        if pause:
            self._pause = FIRST_PAUSE_SECONDS
        changed = limit != self.limit
        self._hold(limit)
        return reason if changed else None

    def _hold(self, limit: int, seen: Sample | None = None) -> None:
        self._phase, self._below = _Phase.HOLD, None
        if limit != self.limit:
            self._change(limit, Reason.TRIAL)
        self._base = limit
        if seen is not None:
            self._held, self._drops = seen.throughput, 0
        self._rest()

    # --- what the backend says ------------------------------------------------------------------------------------

    def _cut(self, in_flight: float) -> Reason | None:
        """Give less: the last limit that was taken if that is less, else a fifth less, or what was taken."""
        at = self.limit
        good = self._base if self._base < at else 0
        limit = self.allowed.within(max(good, min(CUT * at, in_flight)))
        self._ceiling, self._ceiling_left = max(self.allowed.least, at - 1), CEILING_SECONDS
        return self._give_way(limit, Reason.REFUSED)

    def _queues(self, waiting: float) -> bool:
        """Whether requests wait inside the backend and not for a moment only."""
        self._queued = 0 if waiting < 1 else self._queued + (2 if waiting >= 2 else 1)
        return self._queued >= 4 and self._since >= 2 * SETTLE_SECONDS

    def _relieve(self, waiting: float, in_flight: float) -> Reason | None:
        """Give as many as really run there."""
        at = self.limit
        limit = self.allowed.within(max(at // 2, min(at - 1, round(in_flight - waiting))))
        self._queued = 0
        if self._last is not None and self._relieved is None:
            self._relieved = at, self._last
        return self._give_way(limit, Reason.WAITING)

    def _give_way(self, limit: int, reason: Reason) -> Reason | None:
        changed = limit != self.limit
        self._hold(limit)
        self._since = 0.0
        return reason if changed else None

    def _change(self, limit: int, reason: Reason) -> Reason:
        self.limit = limit
        self._since = self._unused = 0.0
        self._window = Counts()
        return reason


def _gain(before: Sample, now: Sample) -> float | None:
    """Return how much of what proportional growth would have brought has come; None where there was no growth."""
    if now.in_flight < 1.04 * before.in_flight or before.throughput <= 0 or now.throughput <= 0:
        return None if before.throughput > 0 else 1.0
    return math.log(now.throughput / before.throughput) / math.log(now.in_flight / before.in_flight)
