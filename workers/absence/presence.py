"""Whether a model's backends are there, as far as one process knows, and what is done about it.

    state     is left by                                                              for
    THERE     lost: a job found none of them; told: another process has               AWAY
    THERE     nobody has used the model for `idle_seconds`                            AWAY
    AWAY      a look finds a backend                                                  FEEDING
    FEEDING   lost                                                                    AWAY
    FEEDING   as many answers as the model has places                                 THERE

While AWAY nothing is taken, here and, by a word in the model's room, elsewhere. As long as jobs wait the backends are
looked for, more and more seldom, and the wake hook is called once a cool-down, by whichever process Redis says. With
nobody waiting it rests until somebody comes. FEEDING begins with one job; each first answer makes room for one more:
1, 2, 4, ...
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from shared.absence_settings import HookSettings
from shared.background import Background
from shared.kinds.common.secrets import secrets_of
from shared.protocol import LOOK_AGAIN_MS
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.absences import FOUND, Absences
from shared.settings import ModelSettings
from workers.absence.hooks import call_hook
from workers.absence.probes import Probes
from workers.health import BackendHealth

log = logging.getLogger("aqueduct.worker.absence")

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 0.5
"""Between two looks: who waits is answered within a second of the backend's being ready."""
PAUSE_GROWTH: Final = 1.15
QUIET_SECONDS: Final = 10.0
"""Without a word of anybody waiting for so long, nobody is looked for. A word comes with each renewal of the leases."""
FEED_SECONDS: Final = 2.0
"""Answers may take minutes: after so long without a failure the room for jobs doubles too."""
REDIS_AWAY_MS: Final = 1000


class ModelAbsent(Exception):
    """No backend of a job's model is there: it is to wait on. Nothing of it was published."""


class Presence:
    """One model's, where `when_absent` is `hold`. Made on the event loop; `close` it."""

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        absences: Absences,
        health: Callable[[], BackendHealth],
        free: Callable[[], None],
    ) -> None:
        """Take what knows which backends fail, and `free`, which is called whenever more jobs may run."""
        self._name = name
        self._absences = absences
        self._health = health
        self._free = free
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._search: asyncio.Task[None] | None = None
        self._allowed: int | None = None
        """How many jobs may run: all (THERE), none (AWAY), or so many (FEEDING)."""
        self._has_met = False
        """A job of this process met it, and Redis does not know yet."""
        self._asks_first = False
        """It may have been put to sleep: a look could meet a backend that is about to go."""
        self._has_relapsed = False
        """A backend was found, and refused a job."""
        self._wanted_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        """Grows until a job was answered, whatever the looks have found."""
        self._feeder: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self.change(settings)

    def change(self, settings: ModelSettings) -> None:
        """Go by these settings from now on."""
        self._settings = settings
        self._probes = Probes(settings.backends)
        self._secrets = secrets_of(settings.backends)
        self._watch_idleness(settings.idle_seconds)

    @property
    def is_away(self) -> bool:
        """Whether nothing is to be taken."""
        return self._allowed == 0

    @property
    def is_there(self) -> bool:
        """Whether all places may be used."""
        return self._allowed is None

    @property
    def is_resting(self) -> bool:
        """Whether it is away, and nobody looks for it as nobody waits."""
        return self.is_away and (self._search is None or self._search.done())

    def limit(self, places: int) -> int:
        """Return how many of so many jobs may run now."""
        if self._allowed is None:
            return places
        if self._allowed < places:
            return self._allowed
        self._allowed = None
        self._stop_feeding()
        return places

    def lost(self) -> None:
        """Take note that a job found no backend."""
        self._wanted_at = self._loop.time()
        if self.is_away:
            return
        self._has_met, self._has_relapsed = True, self._allowed is not None
        self._stop_feeding()
        self._allowed = 0
        self._look()

    def wanted(self) -> None:
        """Take note that jobs wait: while nothing is taken for want of a backend, one is looked for."""
        self._wanted_at = self._loop.time()
        if self.is_away:
            self._look()

    def told(self) -> None:
        """Take note that nothing is taken, as another process has found no backend, or has put the model to sleep."""
        self._stop_feeding()
        self._asks_first = self._asks_first or not self.is_away
        self._allowed = 0
        self.wanted()

    def answered(self) -> None:
        """Take note of a job's first answer."""
        self._pause = FIRST_PAUSE_SECONDS
        if self._allowed:
            self._allowed += 1
            self._free()

    async def close(self) -> None:
        """Look no more, and end what runs; a hook's command is killed."""
        self._stop_feeding()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        await self._background.close()

    async def forgo(self) -> None:
        """Close, and let go of the model if it is held: it is not to wait any more."""
        await self.close()
        try:
            await self._absences.back(is_there=True)
        except (RedisUnavailable, RedisRefused):
            log.warning("model %s: not let go, as Redis is away", self._name)

    # --- away -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.is_resting:
            self._search = self._background.step(self._bring_back(), f"search for a backend of {self._name}")

    async def _bring_back(self) -> None:
        """Look until a backend is there, and have it woken; or until nobody waits."""
        if self._has_relapsed:
            await self._rest()
        ask_at = self._loop.time()
        found = [] if self._asks_first else await self._probes.find()
        if not found and self._has_met:
            log.warning("model %s: no backend is there; its requests wait", self._name)
        while not found:
            if self._loop.time() >= ask_at:
                after_ms = await self._ask()
                if after_ms == FOUND:
                    found = [*range(len(self._settings.backends))]
                    break
                ask_at = self._loop.time() + after_ms / 1000
            await self._rest()
            found = [] if self._asks_first else await self._probes.find()
            if not found and self._loop.time() - self._wanted_at > QUIET_SECONDS:
                return
        await self._open(found)

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)

    async def _ask(self) -> int:
        """Ask Redis who calls the wake hook, call it if it is this process; returns the ms until it is asked again."""
        hook = self._settings.wake
        cooldown = hook.cooldown_seconds if hook is not None else 0
        try:
            after_ms = await self._absences.away(has_met=self._has_met, cooldown_seconds=cooldown)
        except (RedisUnavailable, RedisRefused) as error:
            log.warning("model %s: not asked to wake: %s", self._name, type(error).__name__)
            return REDIS_AWAY_MS
        self._has_met = False
        if after_ms == 0 and hook is not None:
            self._background.step(self._call("wake", hook), f"wake hook of {self._name}")
        if after_ms == 0 or hook is None or after_ms > LOOK_AGAIN_MS:  # else its sleep hook runs still
            self._asks_first = False
        return after_ms or round(cooldown * 1000)

    async def _open(self, found: list[int]) -> None:
        health = self._health()
        for place in found:
            health.recovered(place)
        while True:
            try:
                await self._absences.back(is_there=True)
                break
            except (RedisUnavailable, RedisRefused):
                await asyncio.sleep(REDIS_AWAY_MS / 1000)
        log.info("model %s: a backend is there", self._name)
        # A server may answer looks and refuse jobs: then the pause goes on to grow.
        self._allowed, self._asks_first, self._has_met, self._has_relapsed = 1, False, False, False
        self._feeder = self._loop.call_later(FEED_SECONDS, self._feed)
        self._free()

    def _feed(self) -> None:
        if self._allowed:
            self._allowed *= 2
            self._feeder = self._loop.call_later(FEED_SECONDS, self._feed)
            self._free()

    def _stop_feeding(self) -> None:
        if self._feeder is not None:
            self._feeder.cancel()
            self._feeder = None

    # --- hooks ------------------------------------------------------------------------------------------------

    async def _call(self, what: str, hook: HookSettings) -> bool:
        began = self._loop.time()
        problem = await call_hook(hook, self._name)
        took = f"{self._loop.time() - began:.1f} s"
        if problem is None:
            log.info("model %s: %s hook done in %s", self._name, what, took)
            return True
        again = f"{hook.cooldown_seconds:g} s"
        log.error(
            "model %s: %s hook failed: %s; at most again in %s", self._name, what, self._secrets.hide(problem), again
        )
        return False

    def _watch_idleness(self, seconds: float | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = self._loop.call_later(seconds, self._look_idle) if seconds is not None else None

    def _look_idle(self) -> None:
        self._background.step(self._doze(), f"idleness of {self._name}")

    async def _doze(self) -> None:
        """Put the model to sleep if nobody has used it for so long; else look again when that may be."""
        idle, hook = self._settings.idle_seconds, self._settings.sleep
        if idle is None or hook is None:
            return
        try:
            after_ms = await self._absences.doze(
                idle_seconds=idle,
                cooldown_seconds=hook.cooldown_seconds,
                longest_seconds=hook.timeout_seconds + 2 * REDIS_AWAY_MS / 1000,
            )
            if after_ms == 0:
                await self._put_to_sleep(hook)
        except (RedisUnavailable, RedisRefused):
            after_ms = REDIS_AWAY_MS
        if idle == self._settings.idle_seconds:  # else a reload has set another timer
            self._watch_idleness(after_ms / 1000 or idle)

    async def _put_to_sleep(self, hook: HookSettings) -> None:
        self._stop_feeding()
        self._allowed, self._asks_first = 0, True
        log.info("model %s: nobody has used it for %g s; put to sleep", self._name, self._settings.idle_seconds)
        is_done = await self._call("sleep", hook)
        await self._absences.back(is_there=not is_done)
        if not is_done:  # it is there as before
            self._allowed, self._asks_first = None, False
            self._free()
