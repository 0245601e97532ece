"""What an API process is made of: Redis connections, waiting rooms, relays and tokens, opened and closed together."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from api.admin.batches import AllBatches
from api.admin.desk import AdminDesk
from api.batches.desk import BatchDesk
from api.bodies import Bodies
from api.debugging import DebugTable
from api.dispatch import Dispatcher
from api.ended import RequestEnds
from api.files.desk import FileDesk
from api.forgetting import Forgetting
from api.inquiries import Inquiries
from api.jobs import JobEndpoint
from api.metrics import Metrics
from api.record import Listener, write_log
from api.relay_hub import RelayHub
from api.reports import Reports
from api.served import ServedModels
from api.standing import Standing
from api.stored.collector import Collector
from api.stored.completions import StoredCompletions
from api.stored.desk import StoredDesk
from api.stored.resume import ResumeEndpoint
from api.token_uses import TokenUses
from api.tokens import TokenTable
from api.traces import traces_of
from api.ui.history import Historian
from api.ui.now_models import Viewing
from api.unheard import Unheard
from shared import keys
from shared.background import Background, exit_process
from shared.catalogue import Catalogue
from shared.errors import NotFound
from shared.files import Files
from shared.heap import settle_heap
from shared.kinds import KINDS
from shared.metrics import names
from shared.metrics.upkeep import count_sweep
from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from shared.redis.bulk import Bulk
from shared.reloading import Reloading
from shared.room.admission import Admissions
from shared.room.lines import Lines
from shared.room.stored import StoredJobs
from shared.room.upkeep import OtherProtocol, Upkeep
from shared.settings import Settings
from shared.store import Store, StoreError, open_store
from shared.tracing.switch import open_tracing
from shared.usage.ledger import Roller

log = logging.getLogger("aqueduct.api")

BEAT_SECONDS = 2.0
CANCEL_SECONDS = 900.0
"""A cancel is repeated so long while Redis is away: longer than any admission can linger."""
FORGET_GATHER_SECONDS = 0.1
FILES_SWEEP_SECONDS = 1800.0
"""Nobody waits for what is forgotten, so many go together."""


class Gateway:
    """The parts of one API process. Use `open_gateway`."""

    file_desk: FileDesk | None = None
    batch_desk: BatchDesk | None = None
    stored_desk: StoredDesk | None = None
    all_batches: AllBatches | None = None

    def __init__(self, catalogue: Catalogue, client: RedisClient, bulk: Bulk) -> None:
        self.catalogue = catalogue
        settings = catalogue.settings
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self.client = client
        self.admissions = Admissions(client, bulk, catalogue, self.owner)
        self.upkeep = Upkeep(client, catalogue, self.owner)
        testing = settings.testing
        self.relays = RelayHub(
            self.admissions, silence_seconds=testing.silence_seconds, drop_live_events=testing.drop_live_events
        )
        self.events = Subscriber(
            settings.redis, [keys.events(self.owner)], self.relays.on_message, self.relays.on_subscribed
        )
        self.token_uses = TokenUses(keys.TOKEN_USES)
        self.tokens = TokenTable(catalogue, self.token_uses.note)
        self.debugging = DebugTable(self.admissions.redis_now_ms)
        self.cancels = Reports(self._cancel, give_up_seconds=CANCEL_SECONDS, unless=self.relays.is_heard)
        self.forgets = Reports(Forgetting(self.admissions).forget, gather_seconds=FORGET_GATHER_SECONDS)
        self.unheard = Unheard(client, self.owner, self.relays, self.cancels)
        self.standing = Standing(self.admissions)
        self.inquiries = Inquiries(self.admissions, self.standing)
        self.served = ServedModels(self.upkeep, catalogue)
        self.metrics = Metrics(client, self.upkeep, catalogue, self.owner, self.tokens) if settings.metrics else None
        counts = self.metrics.counts if self.metrics is not None else None
        self.tracing = open_tracing("api", self.owner)
        self.traces = traces_of(self.tracing)
        self.listeners: tuple[Listener, ...] = (write_log,)
        if self.metrics is not None:
            self.listeners += (self.metrics.requests.heard,)
        self.ends = RequestEnds(client, settings.recent_jobs) if settings.recent_jobs else None
        if self.ends is not None:
            self.listeners += (self.ends.heard,)
        if self.traces is not None:
            self.listeners = (self.traces.heard, *self.listeners)
        self.relays.counts = counts
        self.historian = Historian(client, catalogue, self.upkeep, self.owner) if settings.ui else None
        self.viewing = Viewing(client, catalogue, self.upkeep) if settings.ui else None
        self.reloading = Reloading(catalogue, client, "api", self.owner)
        store = open_store(settings.storage.url) if settings.storage.url is not None else None
        self.admin = AdminDesk(client, catalogue, self.upkeep, store)
        self.stored_jobs = StoredJobs(client, bulk, self.owner)
        self.drops = Reports(self.stored_jobs.drop, give_up_seconds=CANCEL_SECONDS, unless=self.relays.is_heard)
        self.store = store
        self.usage = Roller(client, store, self.owner)
        if store is not None:
            self._open_desks(store, settings, bulk)
        bodies = Bodies(settings)
        dispatcher = Dispatcher(self.admissions, catalogue, self.owner, has_store=settings.storage.url is not None)
        self.endpoints = {
            kind.name: JobEndpoint(
                kind=kind,
                settings=settings.api,
                tokens=self.tokens,
                debugging=self.debugging,
                bodies=bodies,
                dispatcher=dispatcher,
                relays=self.relays,
                standing=self.standing,
                cancels=self.cancels,
                forgets=self.forgets,
                drops=self.drops,
                on_stored=self._nudge,
            )
            for kind in KINDS.values()
        }
        self.resume = ResumeEndpoint(
            settings=settings.api, tokens=self.tokens, relays=self.relays, cancels=self.cancels, find_desk=self.stored
        )

    def _open_desks(self, store: Store, settings: Settings, bulk: Bulk) -> None:
        """Make what serves files, batches and stored completions."""
        files, lines = Files(store), Lines(self.client, bulk, self.catalogue, self.owner)
        self.file_desk = FileDesk(store, files)
        self.batch_desk = BatchDesk(store, files, self.client, lines, settings.batches)
        self.all_batches = AllBatches(store, self.client, self.batch_desk, self.tokens)
        completions = StoredCompletions(store)
        collector = Collector(self.stored_jobs, completions, settings.storage.completions_days)
        self.stored_desk = StoredDesk(self.stored_jobs, completions, collector)

    def _nudge(self) -> None:
        if self.stored_desk is not None:
            self.stored_desk.collector.nudge()

    @property
    def settings(self) -> Settings:
        """The settings as they are now."""
        return self.catalogue.settings

    def files(self) -> FileDesk:
        """Return what serves files; raises NotFound where there is no store."""
        if self.file_desk is None:
            raise NotFound("Files are not set up here: the operator must set storage.url.", code="storage_not_set_up")
        return self.file_desk

    def batches(self) -> BatchDesk:
        """Return what serves batches; raises NotFound where there is no store."""
        if self.batch_desk is None:
            raise NotFound("Batches are not set up here: the operator must set storage.url.", code="storage_not_set_up")
        return self.batch_desk

    def batches_of_all(self) -> AllBatches:
        """Return what operators see of batches; raises NotFound where there is no store."""
        if self.all_batches is None:
            raise NotFound("Batches are not set up here: the operator must set storage.url.", code="storage_not_set_up")
        return self.all_batches

    def stored(self) -> StoredDesk:
        """Return what serves stored completions; raises NotFound where there is no store."""
        if self.stored_desk is None:
            message = "Stored completions are not set up here: the operator must set storage.url."
            raise NotFound(message, code="storage_not_set_up")
        return self.stored_desk

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return all(endpoint.draining for endpoint in self.endpoints.values())

    def drain(self) -> None:
        """Refuse new work from now on."""
        for endpoint in self.endpoints.values():
            endpoint.draining = True
        self.resume.draining = True

    async def _cancel(self, job_ids: Sequence[str]) -> None:
        letters = await self.admissions.cancel(job_ids)
        if self.metrics is not None:
            for letter, state in ((b"w", "waiting"), (b"r", "running")):
                if number := letters.count(letter):
                    self.metrics.counts.add(names.CANCELS, labels=(state,), number=number)

    async def greet(self) -> None:
        """After a reconnection: Redis may be another server, and must hear that this process lives."""
        try:
            self.events.follow(self.client)
            await self.upkeep.hello()
            await self.admissions.beat()
        except OtherProtocol as error:
            log.critical("%s", error)
            exit_process()
        except (RedisUnavailable, RedisRefused):
            return  # the next heartbeat says so

    async def beat_forever(self) -> None:
        """Say every 2 s that this process lives; its jobs are cancelled 8 s after the last word."""
        while True:
            try:
                if not self.upkeep.is_greeted:
                    await self.greet()
                await self.admissions.beat()
            except (RedisUnavailable, RedisRefused):
                await asyncio.sleep(0.5)
                continue
            await asyncio.sleep(BEAT_SECONDS)

    async def sweep_forever(self) -> None:
        """Take part in the election for the recovery clock."""
        while True:
            await asyncio.sleep(self.settings.testing.sweep_seconds)
            try:
                swept = await self.upkeep.sweep()
            except (RedisUnavailable, RedisRefused):
                continue
            if swept is not None and self.metrics is not None:
                count_sweep(self.metrics.counts, swept)
            if swept and any(swept[:3]):
                log.info("swept", extra=dict(zip(("reclaimed", "expired", "orphaned"), swept[:3], strict=True)))

    async def sweep_files_forever(self) -> None:
        """Delete what is past its end; each process does it now and then, as doing it twice harms nobody."""
        while self.file_desk is not None:
            await asyncio.sleep(FILES_SWEEP_SECONDS * random.uniform(0.5, 1.5))
            try:
                await self.file_desk.files.sweep()
                await self.stored().completions.sweep()
            except StoreError as error:
                log.warning("files and completions past their end were not deleted: %s", error)

    async def leave(self) -> None:
        """Say what is left to say."""
        try:
            await self.cancels.drain()
            await self.drops.drain()
            await self.admissions.beat(gone=True)
            await self.token_uses.tell(self.client.call)
            if self.metrics is not None:
                await self.metrics.publisher.flush()
            if self.ends is not None:
                await self.ends.teller.flush()
        except (RedisUnavailable, RedisRefused):
            log.warning("left without telling Redis; the sweep clears up")


@asynccontextmanager
async def open_gateway(catalogue: Catalogue) -> AsyncIterator[Gateway]:
    """Open the connections and background tasks of an API process; close them in reverse.

    Raises RedisUnavailable when Redis does not answer within 10 s, and OtherProtocol.
    """
    async with AsyncExitStack() as stack:
        settings = catalogue.settings
        client = RedisClient(settings.redis, "commands")
        await client.open()
        stack.push_async_callback(client.close)
        bulk = Bulk(settings.redis, "bodies")
        stack.push_async_callback(bulk.close)
        gateway = Gateway(catalogue, client, bulk)
        if gateway.tracing is not None:
            stack.push_async_callback(gateway.tracing.close)
        await gateway.upkeep.open()
        await gateway.admissions.beat()
        client.on_connected.append(gateway.greet)
        await gateway.events.open()
        stack.push_async_callback(gateway.events.close)
        await gateway.reloading.open()
        stack.push_async_callback(gateway.reloading.close)
        stack.push_async_callback(gateway.leave)
        background = Background()
        stack.push_async_callback(background.close)
        background.forever(gateway.beat_forever(), "heartbeat")
        background.forever(gateway.sweep_forever(), "sweep")
        usage = settings.usage
        background.forever(gateway.usage.roll_forever(usage.roll_seconds, usage.keep_days), "usage")
        if gateway.file_desk is not None:
            background.forever(gateway.sweep_files_forever(), "files past their end")
        if gateway.stored_desk is not None:
            background.forever(gateway.stored_desk.collector.collect_forever(), "answers to be stored")
            stack.push_async_callback(gateway.stored_desk.collector.close)
        background.forever(gateway.relays.recover_forever(), "log readings")
        background.forever(gateway.standing.ask_forever(), "places in line")
        background.forever(gateway.unheard.look_forever(), "unheard jobs")
        background.forever(gateway.cancels.run_forever(), "cancels")
        background.forever(gateway.forgets.run_forever(), "forgets")
        background.forever(gateway.drops.run_forever(), "drops")
        background.forever(gateway.tokens.refresh_forever(client.call), "tokens")
        background.forever(gateway.debugging.refresh_forever(client.call), "tokens to be logged")
        background.forever(gateway.token_uses.tell_forever(client.call), "uses of tokens")
        if gateway.metrics is not None:
            background.forever(gateway.metrics.publisher.publish_forever(), "counts")
        if gateway.historian is not None:
            background.forever(gateway.historian.write_forever(), "the last hour")
        if gateway.ends is not None:
            background.forever(gateway.ends.teller.tell_forever(settings.testing.tell_seconds), "ends")
        settle_heap()
        yield gateway
