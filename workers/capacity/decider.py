"""Decides the limits of one model's backends, in one process for all: the reports of all in, limits out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from shared.backend_settings import BackendSettings
from shared.background import Background
from shared.capacity import Found, backend_key
from shared.concurrency import Auto
from shared.settings import ModelSettings
from workers.capacity.controller import Controller, Reason
from workers.capacity.measure import Counts
from workers.capacity.scrape import Scrape

log = logging.getLogger("aqueduct.worker.capacity")

SILENT_SECONDS: Final = 3.0
"""What a worker had in flight counts for so long if it says nothing."""
LOG_SECONDS: Final = 10.0
"""Between two lines on one backend, at least."""


class _Backend:
    """One backend's controller, and what its workers said last."""

    def __init__(self, allowed: Auto, found: Found | None) -> None:
        self.scrape: Scrape | None = None
        self._asked: tuple[object, ...] = ()
        self.controller = Controller(allowed, None if found is None else found.held)
        limit = self.controller.limit
        self.found = found or Found(limit, limit)
        self.in_flight: dict[str, tuple[float, float]] = {}
        """By worker: how much, and until when that is believed."""
        self.logged_at = 0.0
        self.logged = limit

    def asks(self, backend: BackendSettings) -> bool:
        """Whether its metrics page is now another one; the old one is looked at no more."""
        asked = (backend.metrics, backend.metrics_url, backend.api_key, backend.headers)
        if asked == self._asked:
            return False
        self._asked = asked
        self.close()
        return True

    def close(self) -> None:
        """Look at no page any more."""
        if self.scrape is not None:
            self.scrape.close()
            self.scrape = None


class Decider:
    """One model's."""

    def __init__(self, model: str, known: dict[str, Found], clock: Callable[[], float] = time.monotonic) -> None:
        """Take what was found before, by whoever decided."""
        self._model = model
        self._known = known
        self._clock = clock
        self._at = clock()
        self._backends: dict[str, _Backend] = {}
        self._background = Background()

    @property
    def found(self) -> dict[str, Found]:
        """What is found now, by the backends' keys."""
        return {key: backend.found for key, backend in self._backends.items()}

    def close(self) -> None:
        """Decide no more."""
        for one in self._backends.values():
            one.close()

    def decide(self, settings: ModelSettings, reports: Sequence[object]) -> bool:
        """Hear what the workers have measured; returns whether a limit has changed."""
        now = self._clock()
        seconds, self._at = now - self._at, now
        rows = _rows(reports)
        changed = self._follow(settings)
        for auto, backend in zip(settings.autos, settings.backends, strict=True):
            if auto is not None:
                key = backend_key(backend)
                counts = self._counts(key, rows.get(key, {}), seconds, now)
                changed = self._tick(backend, counts, self._waiting(key, counts), now) or changed
        return changed

    def _follow(self, settings: ModelSettings) -> bool:
        """Have a controller for each backend, within its range; returns whether that changes a limit."""
        wanted = {
            backend_key(backend): (auto, backend)
            for auto, backend in zip(settings.autos, settings.backends, strict=True)
            if auto is not None
        }
        changed = self._backends.keys() != wanted.keys()
        for key in self._backends.keys() - wanted.keys():
            self._backends.pop(key).close()
        for key, (auto, backend) in wanted.items():
            one = self._backends.get(key)
            if one is None:
                one = self._backends[key] = _Backend(auto, self._known.get(key))
            if one.asks(backend):
                one.scrape = Scrape(self._model, backend, self._background) if backend.metrics else None
            one.controller.allow(auto)
            changed = changed or one.found.limit != one.controller.limit
            one.found.limit = one.controller.limit
        return changed

    def _waiting(self, key: str, counts: Counts) -> float | None:
        """Return how many wait inside the backend, if it tells and that can be."""
        scrape = self._backends[key].scrape
        waiting = scrape.look(self._clock) if scrape is not None else None
        if waiting is not None and scrape is not None and waiting > counts.in_flight + 1:
            scrape.ignore(f"{waiting:g} are said to wait, {counts.in_flight:.0f} were sent")
            return None
        return waiting

    def _counts(self, key: str, rows: dict[str, Counts], seconds: float, now: float) -> Counts:
        """Return what happened at a backend, of all processes; what is in flight is each one's average."""
        one, total = self._backends[key], Counts()
        for worker, counts in rows.items():
            total.add(counts)
            one.in_flight[worker] = counts.in_flight, now + SILENT_SECONDS
        one.in_flight = {worker: it for worker, it in one.in_flight.items() if it[1] > now}
        total.seconds = seconds
        total.slot_seconds = seconds * sum(number for number, _ in one.in_flight.values())
        return total

    def _tick(self, backend: BackendSettings, counts: Counts, waiting: float | None, now: float) -> bool:
        one = self._backends[backend_key(backend)]
        before = one.controller.limit
        reason = one.controller.tick(counts, waiting)
        one.found.held = one.controller.base
        if one.controller.is_held:
            self._log(backend, one, now)
        if reason is None or one.controller.limit == before:
            return False
        counted = Counter(one.found.counts)
        counted[str(reason)] += 1
        one.found.limit, one.found.before, one.found.reason, one.found.counts = (
            one.controller.limit, before, str(reason), dict(counted),
        )  # fmt: skip
        if reason is not Reason.TRIAL:
            log.debug("concurrency of %s at %s %d → %d: %s", self._model, backend.address, before,
                      one.controller.limit, reason)  # fmt: skip
        return True

    def _log(self, backend: BackendSettings, one: _Backend, now: float) -> None:
        """Tell of a limit that stays, once in a while."""
        if one.controller.limit == one.logged or now - one.logged_at < LOG_SECONDS:
            return
        log.info(
            "concurrency of %s %d → %d: %s", self._model, one.logged, one.controller.limit, one.found.reason,
            extra={"model": self._model, "backend": backend.address},
        )  # fmt: skip
        one.logged, one.logged_at = one.controller.limit, now


def _rows(reports: Sequence[object]) -> dict[str, dict[str, Counts]]:
    """Return what workers have reported, by backend and worker; what cannot be read is left out."""
    rows: dict[str, dict[str, Counts]] = {}
    for report in reports:
        try:
            worker, backends = orjson.loads(report)  # type: ignore[arg-type]
            for key, row in backends.items():
                rows.setdefault(key, {}).setdefault(worker, Counts()).add(Counts.of(row))
        except (ValueError, TypeError, AttributeError):
            continue
    return rows
