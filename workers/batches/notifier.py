"""Tells receivers that batches have ended: notices from the store, each until it was taken or a day has passed.

A notice is in the store before its batch's end is settled (`open/` goes last), so it outlives every process and all of
Redis. Any process may deliver it, under a lease; where that is lost a receiver may be told twice, by the same id.
Each receiver has a round of its own, so that one which hangs holds up its own notices alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shared.background import Background
from shared.batches import keys
from shared.batches.record import BatchRecord
from shared.catalogue import Catalogue
from shared.files import tenant_folder
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.lines import Lines
from shared.store import StoreError
from workers.batches.notice import LONGEST_SECONDS, Notice
from workers.batches.receiver import Receiver

if TYPE_CHECKING:
    from shared.store import Store

log = logging.getLogger("aqueduct.worker.batches")

LOOK_SECONDS: Final = 30.0
"""Between two looks for notices of other processes; jittered."""
REST_SECONDS: Final = 1.0
"""Between two looks at least, unless a batch has just ended: where thousands wait for another try one is always due."""
AWAY_SECONDS: Final = 5.0
AT_ONCE: Final = 4
"""Notices on their way to one receiver."""


class Notifier:
    """The webhooks of all tokens of one process. Made and used on one event loop."""

    def __init__(self, store: Store, lines: Lines, catalogue: Catalogue, background: Background) -> None:
        self._store = store
        self._lines = lines
        self._background = background
        self._receivers: dict[str, Receiver] = {}
        """By the tenants' folders."""
        self._rounds: dict[str, asyncio.Task[None]] = {}
        self._due: dict[str, float] = {}
        """When notices that were not taken are tried next, so that they are not read before."""
        self._woken = asyncio.Event()
        self._runs = False
        self._catalogue = catalogue
        catalogue.follow(self._follow)
        self._follow()

    def _follow(self) -> None:
        """Deliver to the receivers of the configuration, from now on; where there is none, nothing is looked for."""
        old, self._receivers = self._receivers, {}
        for token in self._catalogue.settings.tokens:
            tenant = tenant_folder(token.name)
            if token.webhook is not None and (key := token.webhook.key()) is not None:
                known = old.get(tenant)
                is_same = known is not None and known.webhook == token.webhook
                self._receivers[tenant] = known if known is not None and is_same else Receiver(token.webhook, key)
        for receiver in set(old.values()) - set(self._receivers.values()):
            receiver.close()
        if self._receivers and not self._runs:
            self._runs = True
            self._background.forever(self._run_forever(), "webhooks")

    async def announce(self, record: BatchRecord) -> None:
        """Have it told that a batch has ended, if its token wants that; raises StoreError."""
        tenant = tenant_folder(record.token)
        if tenant in self._receivers:
            await self._store.put(keys.notice(tenant, record.id), Notice.of(record).to_json())
            self._woken.set()

    async def _run_forever(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._look()
            except StoreError as error:
                log.warning("no webhooks looked for: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._woken.wait()

    def _pause(self) -> float:
        next_due = min(self._due.values(), default=float("inf")) - time.time()
        return min(LOOK_SECONDS * random.uniform(0.7, 1.3), max(REST_SECONDS, next_due))

    async def _look(self) -> None:
        """Begin a round for each receiver that something is due to, and that has none."""
        listed = await self._store.list(keys.NOTICES)
        now, there = time.time(), set(listed)
        self._due = {key: at for key, at in self._due.items() if at > now and key in there}
        due: defaultdict[str, list[str]] = defaultdict(list)
        for key in listed:
            tenant = keys.notice_tenant(key)
            if tenant in self._receivers and tenant not in self._rounds and key not in self._due:
                due[tenant].append(key)
        for tenant, found in due.items():
            self._rounds[tenant] = self._background.step(self._round(tenant, found), "round of webhooks")

    async def _round(self, tenant: str, found: list[str]) -> None:
        left = iter(found)
        try:
            await asyncio.gather(*(self._work_off(tenant, left) for _ in range(min(AT_ONCE, len(found)))))
        finally:
            del self._rounds[tenant]
            asyncio.get_running_loop().call_later(REST_SECONDS, self._woken.set)  # what has come meanwhile

    async def _work_off(self, tenant: str, left: Iterator[str]) -> None:
        for key in left:
            receiver = self._receivers.get(tenant)
            if receiver is None:  # a reload has taken it
                return
            name = f"webhook:{key.rpartition('/')[2]}"
            try:
                if await self._lines.hold(name):
                    await self._deliver(receiver, key)
                    await self._lines.let_go(name)
                else:
                    self._due[key] = time.time() + AWAY_SECONDS
            except (StoreError, RedisUnavailable, RedisRefused) as error:
                log.warning("a webhook waits: %s", type(error).__name__)
                self._due[key] = time.time() + AWAY_SECONDS
            except (ValueError, TypeError):
                log.exception("a webhook's notice cannot be read")
                self._due[key] = time.time() + LONGEST_SECONDS

    async def _deliver(self, receiver: Receiver, key: str) -> None:
        data = await self._store.get(key)
        if data is None:  # another process did it
            return
        notice = Notice.from_json(data)
        if notice.due_at > time.time():
            self._due[key] = notice.due_at
            return
        problem = await receiver.send(notice)
        if problem is None:
            log.info("webhook %s of %s: taken by %s", notice.type, notice.batch_id, receiver.host)
            await self._store.delete(key)
            return
        later = notice.after_failure(time.time())
        if later is None:
            told = "webhook %s of %s: given up after a day, %s %s"
            log.error(told, notice.type, notice.batch_id, receiver.host, problem)
            await self._store.delete(key)
            return
        if notice.tries == 0:
            told = "webhook %s of %s: %s %s; tried again for a day"
            log.warning(told, notice.type, notice.batch_id, receiver.host, problem)
        await self._store.put(key, later.to_json())
        self._due[key] = later.due_at

    def close(self) -> None:
        """Close the connections; the background ends what is under way."""
        for receiver in self._receivers.values():
            receiver.close()
