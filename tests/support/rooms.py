"""`Bench`: the waiting rooms over a real, empty Redis, with short words for what API and worker say to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from shared import keys
from shared.catalogue import Catalogue
from shared.errors import JobLost
from shared.events import frames
from shared.jobs import End, JobSpec, TakenJob, new_id
from shared.redis import RedisClient, Reply, Subscriber
from shared.redis.bulk import Bulk
from shared.room.admission import Admission, Admissions, Admitted
from shared.room.leases import How, Leases, Why, append_parts
from shared.room.scripts import AppendRow, Swept
from shared.room.upkeep import Upkeep
from shared.settings import Settings
from shared.token_settings import GroupSettings, TokenSettings
from tests.support.waiting import wait_until_async

NOBODY = "http://127.0.0.1:1/v1"
HASH = "0" * 64
WIRE = JobLost("given up").to_wire()


def settings_of(models: Mapping[str, Mapping[str, Any]], redis_url: str, **more: Any) -> Settings:
    """Return settings with these models, whose backends nobody calls."""
    filled = {name: {"backends": [{"url": NOBODY}], **given} for name, given in models.items()}
    return Settings.model_validate({"models": filled, "redis_url": redis_url, **more})


def a_spec(**more: Any) -> JobSpec:
    """Return what a worker is told beside the body."""
    return JobSpec(**{"stream": True, "created": 1, "tenant": "a", "public_model": "m", **more})


class Bench:
    """One model `m` (and others, if given), an API process `api` that lives, and a worker `w1` that serves."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.catalogue = Catalogue(settings)
        self.bulk = Bulk(settings.redis, "bench")
        self.admissions = self.api("api")
        self.leases = self.worker("w1")
        self.upkeep = Upkeep(client, self.catalogue, "bench")

    def api(self, owner: str) -> Admissions:
        """Return what the API process of this name says."""
        return Admissions(self.client, self.bulk, self.catalogue, owner)

    def worker(self, name: str) -> Leases:
        """Return what the worker process of this name says."""
        return Leases(self.client, self.bulk, self.catalogue, name)

    async def admit(self, job_id: str | None = None, **more: Any) -> str:
        """Admit a job and return its id; `more` are fields of `Admission` and of the token's settings."""
        return (await self.admitted(job_id, **more))[0]

    async def admitted(
        self,
        job_id: str | None = None,
        *,
        tenant: str = "a",
        model: str = "m",
        late_ms: float = 1800,
        client_seconds: float | None = None,
        group: GroupSettings | None = None,
        **more: Any,
    ) -> tuple[str, Admitted]:
        """As `admit`, with the answer."""
        job_id = job_id or new_id()
        admission = {
            "lane": "default", "owner": "api", "body": b"{}", "cost": 100.0, "must_finish": False,
            "spec": a_spec(tenant=tenant),
            **{key: more.pop(key) for key in tuple(more) if key in Admission.__dataclass_fields__},
        }  # fmt: skip
        token = TokenSettings(name=tenant, sha256=HASH, **more)
        if group is not None:
            token = token.model_copy(update={"group": group.name}).within({group.name: group})
        job = Admission(id=job_id, model=model, token=token, **admission)
        return job_id, await self.admissions.admit(job, not_after_ms=self.admissions.redis_now_ms() + late_ms)

    async def take(self, free: int = 1, *, mine: int = 0, surplus: bool = True, model: str = "m") -> list[TakenJob]:
        """Take as a worker does."""
        taken = await self.leases.take(model, free=free, mine=mine, surplus=surplus)
        return list(taken.jobs)

    async def take_ids(self, free: int = 1, **more: Any) -> list[str]:
        """Take and return the ids alone."""
        return [job.id for job in await self.take(free, **more)]

    async def append(
        self, job: TakenJob, *events: bytes, at: int = 0, end: float | None = None, attempt: bytes | None = None
    ) -> str:
        """Append events from number `at` on; `end` (tokens used) ends the job. Returns the verdict's letter."""
        ending = b"" if end is None else End(status=200, cost=end).to_json()
        row = AppendRow(job.id, attempt or job.attempt, at, ending, events)
        return (await self.leases.append(append_parts(row))).decode()

    async def release(
        self, *jobs: tuple[str, bytes, How], wire: bytes = WIRE, worker: str = "leaving", model: str = "m"
    ) -> str:
        """Give jobs up, as a worker that is among the live ones no more; one letter a job."""
        return (await self.worker(worker).release(model, [(*job, wire, b"") for job in jobs])).decode()

    async def renew(self, *jobs: TakenJob | tuple[str, bytes]) -> dict[str, Why]:
        """Renew as `w1` does; returns what it is told to give up."""
        held = [job if isinstance(job, tuple) else (job.id, job.attempt) for job in jobs]
        return {job_id: why for job_id, _, why in (await self.leases.renew(list(self.settings.models), held)).lost}

    async def beat(self, owner: str = "api", *, gone: bool = False) -> None:
        """Say that an API process lives, or leaves."""
        await self.api(owner).beat(gone=gone)

    async def end(self, job: TakenJob, used: float = 100) -> None:
        """End a job that has published nothing yet."""
        assert await self.append(job, b"D1 1 1 1\n{}", end=used) in ("o", "w")

    async def cancel(self, *job_ids: str, owner: str = "api") -> str:
        """Cancel as the API does; one letter a job."""
        return (await self.api(owner).cancel(job_ids)).decode()

    async def serve(self, *workers: str, models: Sequence[str] | None = None) -> None:
        """Say that these workers live."""
        for worker in workers:
            await self.worker(worker).renew(models or list(self.settings.models), [])

    async def sweep(self) -> Swept:
        """Sweep now, whoever swept this second."""
        await self.client.call("DEL", keys.SWEEPER)
        swept = await self.upkeep.sweep()
        assert swept is not None
        return swept

    async def wait_ms(self, milliseconds: int) -> None:
        """Let Redis's clock move on by at least so much."""
        seconds, micros = await self.client.call("TIME")
        until = int(seconds) * 1000 + int(micros) / 1000 + milliseconds

        async def is_past() -> bool:
            seconds, micros = await self.client.call("TIME")
            return bool(int(seconds) * 1000 + int(micros) / 1000 >= until)

        await wait_until_async(is_past)

    async def redis(self, *command: str | bytes | int | float) -> Reply:
        """Say something to Redis itself."""
        return await self.client.call(*command)

    async def record(self, job_id: str) -> dict[str, str]:
        """Return a job's record; empty when there is none."""
        flat = await self.client.call("HGETALL", keys.job(job_id))
        found = {key.decode(): value.decode(errors="replace") for key, value in zip(flat[::2], flat[1::2], strict=True)}
        facts = json.loads(found.pop("facts", "{}"))
        return {**{key: str(value) for key, value in facts.items()}, **found}

    async def log(self, job_id: str) -> list[bytes]:
        """Return a job's events."""
        events: list[bytes] = await self.client.call("LRANGE", keys.log(job_id), 0, -1)
        return events

    async def expire_lease(self, job_id: str, model: str = "m") -> None:
        """Let a job's lease lie in the past."""
        await self.client.call("ZADD", keys.running(model), "XX", 1, job_id)

    async def expire_wait(self, job_id: str, model: str = "m") -> None:
        """Let a job's last moment of waiting lie in the past."""
        await self.client.call("ZADD", keys.PREFIXES["waits"] + model, "XX", 1, job_id)
        await self.client.call("HSET", keys.job(job_id), "deadline", 1)

    async def stood_still(self, seconds: float) -> None:
        """Let the last sweep lie that far in the past."""
        seconds_now, _ = await self.client.call("TIME")
        await self.client.call("SET", keys.SWEPT, round((int(seconds_now) - seconds) * 1000))

    async def tickets(self, model: str = "m") -> int:
        """Return how many tickets lie on the model's queue."""
        return int(await self.client.call("LLEN", keys.queue(model)))

    async def drop_tickets(self, model: str = "m") -> None:
        """Take the tickets away, as workers do."""
        await self.client.call("DEL", keys.queue(model))

    @asynccontextmanager
    async def listening(self, owner: str = "api") -> AsyncIterator[list[bytes]]:
        """Collect the messages that this API process hears."""
        heard: list[bytes] = []
        subscriber = Subscriber(self.settings.redis, [keys.events(owner), keys.CONTROL], heard.append)
        await subscriber.open()
        try:
            yield heard
        finally:
            await subscriber.close()


@asynccontextmanager
async def open_bench(
    redis_url: str,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    empty: bool = True,
    served: bool = True,
    **more: Any,
) -> AsyncIterator[Bench]:
    """Open a bench over a Redis that is emptied first; `more` are further sections of the settings."""
    settings = settings_of(models or {"m": {}}, redis_url, **more)
    client = RedisClient(redis_url, "bench")
    await client.open()
    try:
        if empty:
            await client.call("FLUSHALL")
        bench = Bench(client, settings)
        await bench.admissions.beat()
        if served:
            await bench.serve("w1")
        yield bench
        await bench.bulk.close()
    finally:
        await client.close()


async def heard_frames(messages: list[bytes], count: int = 1) -> list[tuple[str, int, bytes | None]]:
    """Wait for that many frames and return all."""
    while True:
        found = [(job.decode(), number, event) for message in messages for job, _, number, event in frames(message)]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.005)
