"""What was used, hour by hour: from Redis, and from the file store, where copies of it are kept for long.

Sums of one origin, which is all that one Redis counted since it was empty, only grow: of two copies the larger counts.
Different origins are added up. See `docs/adr/0023-usage.md`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

import orjson

from shared import keys
from shared.jobs import new_id
from shared.protocol import USAGE_DAYS_MS
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.lease import LEASE_MS
from shared.room.scripts import (
    HOLD,
    LET_GO,
    ROLL_DAY,
    USED,
    FeederArguments,
    NoArguments,
    RollArguments,
    UsageRow,
)
from shared.scripting import Scripts
from shared.store import Store, StoreError
from shared.usage.counters import Key, Sums, counters, larger, together

log = logging.getLogger("aqueduct.usage")

FOLDER: Final = "usage"
HOUR_SECONDS: Final = 3600
DAY_HOURS: Final = 24
HOURS_DAYS: Final = 30
"""So many days back Redis has hours."""
LEASE: Final = "usage"
_EPOCH: Final = date(1970, 1, 1).toordinal()

Hours = dict[int, Sums]
"""By hour since 1970, UTC."""


class Used(NamedTuple):
    """What was used in an hour; of days of which only the sum is left, in their first one."""

    hour: int
    sums: Sums


class Ledger:
    """Reads usage. Raises RedisUnavailable, RedisRefused or StoreError."""

    def __init__(self, client: RedisClient, store: Store | None) -> None:
        self.client = client
        self.store = store
        self._scripts = Scripts(client)

    async def now(self) -> int:
        """Return Redis's clock in Unix seconds, by which hours are told."""
        return int((await self.client.call("TIME"))[0])

    async def uncounted(self) -> int:
        """Return how many ends could not be counted."""
        return int(await self.client.call("GET", keys.UNCOUNTED) or 0)

    async def read(self, first_hour: int, end_hour: int) -> list[Used]:
        """Return what was used from one hour up to another, oldest first."""
        origin = (await self.client.call("GET", keys.USAGE_ORIGIN) or b"").decode()
        files = await self._files()
        out: list[Used] = []
        for day in range(first_hour // DAY_HOURS, (end_hour - 1) // DAY_HOURS + 1):
            hours = await self._day(day, origin, files.get(day, ()))
            out += (Used(hour, sums) for hour, sums in sorted(hours.items()) if first_hour <= hour < end_hour)
        return out

    async def _files(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for key in await self.store.list(FOLDER) if self.store is not None else ():
            if (day := day_of(key)) is not None:
                found.setdefault(day, []).append(key)
        return found

    async def _day(self, day: int, origin: str, files: Iterable[str]) -> Hours:
        mine = await self.hours(day)
        others: list[Hours] = []
        for key in files:
            kept = await self.kept(key)
            if key == file_of(day, origin):
                mine = larger_hours(mine, kept)
            else:
                others.append(kept)
        if not mine:
            whole = (await self._used([keys.usage_day(day)]))[0]
            mine = {day * DAY_HOURS: whole} if whole else {}
        every = [mine, *others]
        return {hour: together(one[hour] for one in every if hour in one) for one in every for hour in one}

    async def hours(self, day: int) -> Hours:
        """Return what Redis has of a day's hours."""
        numbers = range(day * DAY_HOURS, (day + 1) * DAY_HOURS)
        found = await self._used([keys.usage_hour(hour) for hour in numbers])
        return {hour: sums for hour, sums in zip(numbers, found, strict=True) if sums}

    async def kept(self, key: str) -> Hours:
        """Return what a file has; nothing where there is none, or it is none of ours."""
        raw = await self.store.get(key) if self.store is not None else None
        if not raw:
            return {}
        try:
            given: dict[str, dict[str, list[int]]] = orjson.loads(raw)["hours"]
            return {int(hour): _sums(fields.items()) for hour, fields in given.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            log.error("a file of usage cannot be read: %s", key)
            return {}

    async def _used(self, wanted: list[str]) -> list[Sums]:
        reply: list[Any] = await self._scripts.run(USED, NoArguments(), map(UsageRow, wanted))
        return [_sums((one[at].decode(), one[at + 1]) for at in range(0, len(one), 2)) for one in reply]


class Roller(Ledger):
    """Writes copies into the file store; one process at a time does it. Made on its loop."""

    def __init__(self, client: RedisClient, store: Store | None, process: str) -> None:
        """Take the name of this process, which no other has."""
        super().__init__(client, store)
        self._lease = FeederArguments(LEASE, process, LEASE_MS)
        self._done: set[int] = set()
        """Days that are over and rolled, as far as this process knows."""
        self._swept = 0
        """The day on which old files were looked for last."""

    async def roll_forever(self, roll_seconds: float, keep_days: int) -> None:
        """Roll now and then."""
        while True:
            await asyncio.sleep(roll_seconds * random.uniform(0.8, 1.2))
            try:
                await self.roll(keep_days)
            except (RedisUnavailable, RedisRefused):
                continue
            except StoreError as error:
                log.warning("usage was not rolled into the file store: %s", error)

    async def roll(self, keep_days: int) -> bool:
        """Copy what was counted; False where another process does it."""
        if await self._scripts.run(HOLD, self._lease) != 1:
            return False
        try:
            await self._roll(keep_days)
        finally:
            with suppress(RedisUnavailable, RedisRefused):
                await self._scripts.run(LET_GO, self._lease)
        return True

    async def _roll(self, keep_days: int) -> None:
        await self.client.call("SET", keys.USAGE_ORIGIN, new_id(), "NX", "PX", USAGE_DAYS_MS)
        await self.client.call("PEXPIRE", keys.USAGE_ORIGIN, USAGE_DAYS_MS)
        origin = (await self.client.call("GET", keys.USAGE_ORIGIN) or b"").decode()
        today = await self.now() // HOUR_SECONDS // DAY_HOURS
        # Yesterday too: a clock that was set back over midnight counts there again.
        for day in range(today - HOURS_DAYS, today + 1):
            await self._scripts.run(HOLD, self._lease)
            if day >= today - 1:
                await self._copy(day, origin)
            elif day not in self._done:
                if not await self.client.call("EXISTS", keys.usage_day(day)):
                    await self._copy(day, origin)
                    await self._scripts.run(ROLL_DAY, RollArguments(day))
                self._done.add(day)
        self._done = {day for day in self._done if day >= today - HOURS_DAYS}
        if self.store is not None and self._swept != today:
            for key in await self.store.list(FOLDER):
                if (found := day_of(key)) is not None and found < today - keep_days:
                    await self.store.delete(key)
            self._swept = today

    async def _copy(self, day: int, origin: str) -> None:
        hours = await self.hours(day)
        if self.store is None or not hours:
            return
        key = file_of(day, origin)
        before = await self.kept(key)
        now = larger_hours(before, hours)
        if now != before:
            told = {str(hour): {one.field: list(counts) for one, counts in sums.items()} for hour, sums in now.items()}
            await self.store.put(key, orjson.dumps({"hours": told}))


def larger_hours(mine: Hours, theirs: Hours) -> Hours:
    """Return of each hour's counts the larger of two copies."""
    return {hour: larger(mine.get(hour, {}), theirs.get(hour, {})) for hour in mine.keys() | theirs.keys()}


def file_of(day: int, origin: str) -> str:
    """Return the file store's key of a day as one Redis counted it."""
    return f"{FOLDER}/{date.fromordinal(_EPOCH + day).isoformat()}/{origin}.json"


def day_of(key: str) -> int | None:
    """Return the day since 1970 that a key of the file store is of."""
    parts = key.split("/")
    try:
        return date.fromisoformat(parts[1]).toordinal() - _EPOCH if len(parts) == 3 else None
    except ValueError:
        return None


def moment_of(hour: int) -> datetime:
    """Return when an hour begins."""
    return datetime.fromtimestamp(hour * HOUR_SECONDS, UTC)


def _sums(fields: Iterable[tuple[str, Iterable[int]]]) -> Sums:
    return {key: counters(numbers) for field, numbers in fields if (key := Key.of(field)) is not None}
