"""Which backends of a model may be called: weights, ejection after failures, half-open recovery.

Each worker process judges for itself, from its own calls; nothing probes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.backend_keys import key_of
from shared.backend_settings import BackendSettings

FAILURES_TO_EJECT = 3
FIRST_EJECTION_SECONDS = 5.0
MAX_EJECTION_SECONDS = 60.0


@dataclass(slots=True)
class _State:
    backend: BackendSettings
    limit: int | None
    """Calls at once."""
    failures: int = 0
    """In a row."""
    ejections: int = 0
    """In a row; each doubles the next one's length."""
    ejections_ever: int = 0
    ejected_until: float = 0.0
    is_held: bool = False
    """An operator has it called no more."""
    is_on_trial: bool = False
    """Half-open: one call is out to see whether it has recovered."""
    running: int = 0
    generation: int = 0
    """Counts ejections and recoveries, so that calls which began before the last one are not taken for news."""


class BackendView(NamedTuple):
    """How a backend stands in this process."""

    is_well: bool
    """Its last calls have not failed; else this process keeps away from it, trials apart."""
    running: int
    """Calls that are open."""
    ejections: int
    """Since it was first known here."""


class BackendHealth:
    """Chooses backends and hears how their calls ended."""

    def __init__(self, backends: Sequence[BackendSettings], clock: Callable[[], float] = time.monotonic) -> None:
        self._states = [_State(backend, _given(backend)) for backend in backends]
        self._clock = clock
        self._is_auto = False
        self.off = ""
        """Keys of the backends that operators hold, as Redis has them."""

    def hold(self, off: str) -> None:
        """Choose none of these from here on; where that leaves none, the model itself is held in Redis."""
        self.off, keys = off, set(off.split())
        held = [key_of(state.backend) in keys for state in self._states]
        for state, is_held in zip(self._states, held, strict=True):
            state.is_held = is_held and not all(held)

    @property
    def callable(self) -> int:
        """How many backends no operator holds."""
        return sum(not state.is_held for state in self._states)

    def choose(self, tried: Collection[int] = ()) -> int:
        """Return the place of the backend to call next, by weight among the healthy ones that were not tried.

        When every backend is ejected the one that is due first is called all the same: better a real refusal than
        one of our own making.
        """
        if len(self._states) == 1:
            return 0
        now = self._clock()
        free = [i for i in range(len(self._states)) if not self._states[i].is_held]
        fresh = [i for i in free if i not in tried] or free
        open_ = [i for i in fresh if self._is_open(self._states[i], now)]
        if not open_:
            return min(fresh, key=lambda i: self._states[i].ejected_until)
        weights = [self._weight(self._states[i]) for i in open_]
        chosen = random.choices(open_, weights if any(weights) else None)[0]
        if self._states[chosen].ejections:
            self._states[chosen].is_on_trial = True
        return chosen

    def _is_open(self, state: _State, now: float) -> bool:
        if state.ejections:
            return now >= state.ejected_until and not state.is_on_trial
        return state.limit is None or state.running < state.limit

    def _weight(self, state: _State) -> int:
        """Return a backend's chance. Limits that are found differ, and processes share them: what is free counts."""
        if self._is_auto and state.limit is not None:
            return state.backend.weight * max(1, state.limit - state.running)
        return state.backend.weight

    def view(self) -> list[BackendView]:
        """Return how the backends stand here, in their order."""
        return [BackendView(not one.ejections, one.running, one.ejections_ever) for one in self._states]

    def limit(self, place: int) -> int | None:
        """Return how many calls a backend may have at once here."""
        return self._states[place].limit

    def allow(self, place: int, limit: int) -> None:
        """Let a backend have so many calls at once, as was found by measuring."""
        state = self._states[place]
        state.limit, self._is_auto = limit, True

    def began(self, place: int) -> int:
        """Count a call; returns what `ended` is to be told."""
        state = self._states[place]
        state.running += 1
        return state.generation

    def ended(self, place: int, generation: int, *, failed: bool | None) -> None:
        """Hear how a call ended; None: it says nothing of the backend (the client left)."""
        state = self._states[place]
        state.running -= 1
        if generation != state.generation:
            return  # of many calls that a dead backend fails at once, only the first few count
        state.is_on_trial = False
        if failed is None:
            return
        if not failed:
            if state.ejections:
                state.generation += 1
            state.failures = state.ejections = 0
            return
        state.failures += 1
        if state.failures >= FAILURES_TO_EJECT or state.ejections:
            length = min(FIRST_EJECTION_SECONDS * 2**state.ejections, MAX_EJECTION_SECONDS)
            state.ejections += 1
            state.ejections_ever += 1
            state.generation += 1
            state.ejected_until = self._clock() + length

    def recovered(self, place: int) -> None:
        """Take note that a backend is there again, as a look has shown: what it failed before does not count."""
        state = self._states[place]
        state.failures = state.ejections = 0
        state.is_on_trial = False
        state.generation += 1

    def capacity(self, model_concurrency: int) -> int:
        """Return how many jobs the healthy backends may run together, at most the model's own limit.

        So the survivor of an ejection is not flooded with the others' share.
        """
        if len(self._states) == 1:
            return min(model_concurrency, self._states[0].limit or model_concurrency)
        now, total = self._clock(), 0
        states = [state for state in self._states if not state.is_held]
        are_all_ejected = all(state.ejections for state in states)
        for state in states:
            if state.ejections and not are_all_ejected:
                total += now >= state.ejected_until  # the one call that tries it
            elif state.limit is None:
                return model_concurrency
            else:
                total += state.limit
        return min(model_concurrency, total)


def _given(backend: BackendSettings) -> int | None:
    return backend.concurrency if isinstance(backend.concurrency, int) else None
